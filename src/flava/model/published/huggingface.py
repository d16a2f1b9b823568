"""Hugging Face's FLAVA: `FlavaForPreTraining`, and `FlavaModel`, which is the encoders alone."""

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from flava.model.flava import Flava, FlavaConfig
from flava.model.published.assemble import HEADS, assemble, published_state, write_decoder
from flava.model.published.geometry import infer
from flava.model.published.huggingface_config import read_config, write_config
from flava.model.published.names import Table, without_second_names
from flava.model.published.stored import Layout, Stored

NAMES: Table = (
    (r"^(image|text|multimodal)_encoder\.blocks\.(\d+)\.", r"flava.\1_model.encoder.layer.\2."),
    (r"^(image|text|multimodal)_encoder\.", r"flava.\1_model."),
    (r"^(image|text)_projection\.", r"flava.\1_projection."),
    (r"^(image|text)_to_multimodal\.", r"flava.\1_to_mm_projection."),
    (r"^logit_scale$", r"flava.logit_scale"),
    (r"image_model\.patches\.", r"image_model.embeddings.patch_embeddings.projection."),
    (r"image_model\.(cls_token|mask_token)$", r"image_model.embeddings.\1"),
    (r"image_model\.positions$", r"image_model.embeddings.position_embeddings"),
    (r"text_model\.words\.", r"text_model.embeddings.word_embeddings."),
    (r"text_model\.positions\.", r"text_model.embeddings.position_embeddings."),
    (r"text_model\.types\.", r"text_model.embeddings.token_type_embeddings."),
    (r"text_model\.embedding_norm\.", r"text_model.embeddings.LayerNorm."),
    (r"\.attention\.output\.", r".attention.output.dense."),
    (r"\.attention\.qkv\.", r".attention.attention.qkv."),
    (r"\.mlp_in\.", r".intermediate.dense."),
    (r"\.mlp_out\.", r".output.dense."),
    (r"\.norm_(before|after)\.", r".layernorm_\1."),
    (r"_model\.norm\.", r"_model.layernorm."),
    (r"^(mim|mlm|mmm_image|mmm_text)_head\.dense\.", r"\1_head.transform.dense."),
    (r"^(mim|mlm|mmm_image|mmm_text)_head\.norm\.", r"\1_head.transform.LayerNorm."),
    (r"^itm_head\.classifier\.", r"itm_head.seq_relationship."),
    (r"^codebook\.encoder\.input\.", r"image_codebook.blocks.input."),
    (r"^codebook\.encoder\.output\.", r"image_codebook.blocks.output.conv."),
    (
        r"^codebook\.encoder\.groups\.(\d+)\.(\d+)\.",
        lambda m: f"image_codebook.blocks.group_{int(m[1]) + 1}.group.block_{int(m[2]) + 1}.",
    ),
    (r"^(image_codebook\..*)\.identity\.", r"\1.id_path."),
    (
        r"^(image_codebook\..*)\.convolutions\.(\d+)\.",
        lambda m: f"{m[1]}.res_path.path.conv_{int(m[2]) + 1}.",
    ),
)
"""(pattern of our name, replacement), applied in this order."""

SECOND_NAMES = {f"{head}.bias": f"{head}.decoder.bias" for head in HEADS if head != "itm_head"}
"""One tensor in the model, of which a file may hold either name."""

BUFFERS = ("position_ids", "token_type_ids")
"""Constants that older versions saved with the weights."""

BASE = ("image_", "text_", "multimodal_", "logit_scale")
"""How names of the encoders and projections begin where `FlavaModel` was saved by itself."""


def normalised(stored: Stored) -> dict[str, Tensor]:
    """The tensors with the prefix that `FlavaForPreTraining` has, each once, without buffers."""
    named = {
        f"flava.{n}" if n.startswith(BASE) and not n.startswith("image_codebook.") else n: tensor
        for n, tensor in stored.tensors.items()
        if not n.endswith(BUFFERS)
    }
    return without_second_names(named, SECOND_NAMES, stored.origin)


def matches(stored: Stored) -> bool:
    return any(
        name.removeprefix("flava.").startswith("multimodal_model.encoder.layer.")
        for name in stored.tensors
    )


def build(stored: Stored) -> Flava:
    tensors = normalised(stored)
    if stored.config is None:
        config = infer(tensors, NAMES, stored.origin)
    else:
        config = read_config(stored.config, stored.origin)
    return assemble(config, tensors, NAMES, absent_parts(stored), stored)


def absent_parts(stored: Stored) -> set[str]:
    """A `FlavaModel` has neither heads nor codebook; a `FlavaForPreTraining` may lack that."""
    config = stored.config or {"init_codebook": False}
    without = not any(name.startswith("image_codebook.") for name in stored.tensors)
    if not any(name.startswith(HEADS) for name in stored.tensors):
        return {*HEADS, "codebook.encoder"}
    return {"codebook.encoder"} if without and config.get("init_codebook") is False else set()


def write(model: Flava, folder: Path) -> None:
    """Write ``config.json``, ``model.safetensors`` and the codebook's decoder into a folder.

    Raises:
        ValueError: transformers has no model of this geometry; every reason is listed.
    """
    if reasons := obstacles(model):
        raise ValueError(
            "this model cannot be written for transformers:\n  " + "\n  ".join(reasons)
        )
    whole = not model.absent.issuperset(HEADS)
    state = published_state(model, NAMES)
    if not whole:
        state = {name.removeprefix("flava."): tensor for name, tensor in state.items()}
    # transformers refuses a safetensors file that does not say this.
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["FlavaForPreTraining" if whole else "FlavaModel"],
        **write_config(model.config),
        "init_codebook": "codebook.encoder" not in model.absent,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_decoder(model, folder)


def obstacles(model: Flava) -> list[str]:
    """Why transformers cannot hold this model, a line each."""
    found = []
    if absent := model.absent.intersection(HEADS):
        if kept := set(HEADS) - absent:
            found.append(f"it has {', '.join(sorted(kept))}, and lacks {', '.join(sorted(absent))}")
        elif "codebook.encoder" not in model.absent:
            found.append("it has a codebook and no heads, and a FlavaModel holds neither")
        return found
    return width_obstacles(model.config)


def width_obstacles(config: FlavaConfig) -> list[str]:
    """The published heads on multimodal states are as wide as the image's and the text's."""
    width = config.multimodal.width
    return [
        f"multimodal.width is {width} and {kind}.width is {other}: the published heads of masked "
        "multimodal modelling need them equal"
        for kind, other in (("image", config.image.width), ("text", config.text.width))
        if other != width
    ]


LAYOUTS = (
    Layout(name="Hugging Face FlavaForPreTraining or FlavaModel", matches=matches, build=build),
)
