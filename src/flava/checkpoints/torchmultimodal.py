"""TorchMultimodal's FLAVA: `flava_model_for_pretraining`, and `flava_model`, the encoders alone.

Its heads normalise with an epsilon of 1e-5 where Hugging Face's and ours have 1e-12, and it does
not mask padding in the multimodal encoder: with the same weights its losses differ by that much.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flava.checkpoints.flava_parts import HEADS, assemble, published_state, write_decoder
from flava.checkpoints.geometry import infer
from flava.checkpoints.huggingface import width_obstacles
from flava.checkpoints.layout import Layout, Stored, Table, without_second_names
from flava.models.flava import Flava, FlavaConfig

NAMES: Table = (
    (r"^(image|text)_encoder\.", r"model.\1_encoder."),
    (r"^multimodal_encoder\.", r"model.mm_encoder."),
    (r"^(image|text)_projection\.", r"model.\1_projection."),
    (r"^(image|text)_to_multimodal\.", r"model.\1_to_mm_projection."),
    (r"^logit_scale$", r"loss.contrastive_loss.logit_scale"),
    (r"_encoder\.blocks\.", r"_encoder.encoder.layer."),
    (r"image_encoder\.patches\.", r"image_encoder.embeddings.patch_embeddings.projection."),
    (r"image_encoder\.(cls_token|mask_token)$", r"image_encoder.embeddings.\1"),
    (r"image_encoder\.positions$", r"image_encoder.embeddings.position_embeddings"),
    (r"text_encoder\.words\.", r"text_encoder.embeddings.word_embeddings."),
    (r"text_encoder\.positions\.", r"text_encoder.embeddings.position_embeddings."),
    (r"text_encoder\.types\.", r"text_encoder.embeddings.token_type_embeddings."),
    (r"text_encoder\.embedding_norm\.", r"text_encoder.embeddings.layer_norm."),
    (r"\.mlp_in\.", r".feedforward.model.0."),
    (r"\.mlp_out\.", r".feedforward.model.2."),
    (r"\.norm_before\.", r".attention_layernorm."),
    (r"\.norm_after\.", r".feedforward_layernorm."),
    (r"_encoder\.norm\.", r"_encoder.layernorm."),
    (r"^(mim|mlm)_head\.", r"loss.\1_loss.cls."),
    (r"^mmm_image_head\.", r"loss.mmm_loss.mim.cls."),
    (r"^mmm_text_head\.", r"loss.mmm_loss.mlm.cls."),
    (r"\.cls\.norm\.", r".cls.layer_norm."),
    (r"^itm_head\.pooler\.", r"loss.itm_loss.pooler."),
    (r"^itm_head\.classifier\.", r"loss.itm_loss.cls.seq_relationship."),
    (r"^codebook\.encoder\.input\.", r"image_codebook.encoder.blocks.input."),
    (r"^codebook\.encoder\.output\.", r"image_codebook.encoder.blocks.output.conv."),
    (
        r"^codebook\.encoder\.groups\.(\d+)\.(\d+)\.",
        lambda m: f"image_codebook.encoder.blocks.group_{int(m[1]) + 1}.block_{int(m[2]) + 1}.",
    ),
    (r"^(image_codebook\..*)\.identity\.", r"\1.id_path."),
    (
        r"^(image_codebook\..*)\.convolutions\.(\d+)\.",
        lambda m: f"{m[1]}.res_path.conv_{int(m[2]) + 1}.",
    ),
    (r"^(image_codebook\..*)\.weight$", r"\1.w"),
    (r"^(image_codebook\..*)\.bias$", r"\1.b"),
)

SECOND_NAMES = {
    f"loss.{loss}.cls.bias": f"loss.{loss}.cls.decoder.bias"
    for loss in ("mlm_loss", "mim_loss", "mmm_loss.mlm", "mmm_loss.mim")
}
"""One tensor in the model; its state dict holds both names."""

WITHOUT_LOSS = {*HEADS, "codebook.encoder", "logit_scale"}
"""What `flava_model` does not have."""


def normalised(stored: Stored) -> dict[str, Tensor]:
    """The tensors with the prefix that the model for pretraining has, each once."""
    pattern = re.compile(r"^(?=(image|text|mm)_(encoder|projection|to_mm_projection)\.)")
    named = {pattern.sub("model.", name): tensor for name, tensor in stored.tensors.items()}
    return without_second_names(named, SECOND_NAMES, stored.origin)


def matches(stored: Stored) -> bool:
    return any(
        name.removeprefix("model.").startswith("mm_encoder.encoder.layer.")
        for name in stored.tensors
    )


def build(stored: Stored) -> Flava:
    tensors = normalised(stored)
    config = read_geometry(tensors, stored)
    whole = any(name.startswith(("loss.", "image_codebook.")) for name in tensors)
    return assemble(config, tensors, NAMES, set() if whole else WITHOUT_LOSS, stored)


def read_geometry(tensors: dict[str, Tensor], stored: Stored) -> FlavaConfig:
    """From the tensors; the numbers of heads from the arguments beside them, if we wrote those.

    Raises:
        ValueError: as `infer`, or the arguments disagree with the tensors.
    """
    given = stored.config or {}
    heads = {kind: given.get(f"{kind}_num_attention_heads") for kind in KINDS}
    known = {kind: value for kind, value in heads.items() if isinstance(value, int) and value > 0}
    config = infer(tensors, NAMES, stored.origin, known if len(known) == len(KINDS) else None)
    if mistakes := [
        f"{name} is {given[name]} in config.json, {value} in the tensors"
        for name, value in arguments(config).items()
        if name in given and given[name] != value
    ]:
        raise ValueError(
            f"the config.json of {stored.origin} does not fit:\n  " + "\n  ".join(mistakes)
        )
    return config


KINDS = ("image", "text", "multimodal")


def arguments(config: FlavaConfig) -> dict[str, Any]:
    """What makes a model of this geometry: the keyword arguments of `flava_model`."""
    encoders = {kind: getattr(config, kind) for kind in KINDS}
    return {
        f"{kind}_{name}": value
        for kind, encoder in encoders.items()
        for name, value in (
            ("hidden_size", encoder.width),
            ("num_attention_heads", encoder.heads),
            ("num_hidden_layers", encoder.depth),
            ("intermediate_size", encoder.mlp_width),
        )
    } | {
        "image_size": config.image.image_size,
        "patch_size": config.image.patch_size,
        "vocab_size": config.text.vocabulary_size,
        "max_position_embeddings": config.text.max_length,
        "text_and_image_proj_size": config.projection_width,
    }


def write(model: Flava, folder: Path) -> None:
    """Write the state dict by ``torch.save``, and `flava_model`'s arguments as ``config.json``.

    That is what their code loads. The numbers of attention heads are in the arguments alone.

    Raises:
        ValueError: TorchMultimodal has no model of this geometry; every reason is listed.
    """
    if reasons := obstacles(model):
        raise ValueError(
            "this model cannot be written for TorchMultimodal:\n  " + "\n  ".join(reasons)
        )
    state = published_state(model, NAMES)
    state |= {second: state[first] for second, first in SECOND_NAMES.items() if first in state}
    whole = not model.missing_parts.issuperset(WITHOUT_LOSS)
    if not whole:
        state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    torch.save(state, folder / ("flava_for_pretraining.pt" if whole else "flava_model.pt"))
    config = json.dumps(arguments(model.config), indent=2)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")
    write_decoder(model, folder)


def obstacles(model: Flava) -> list[str]:
    """Why TorchMultimodal cannot hold this model, a line each."""
    missing_parts = model.missing_parts & WITHOUT_LOSS
    if missing_parts == WITHOUT_LOSS:
        return []
    lacking = [f"it lacks {', '.join(sorted(missing_parts))}"] if missing_parts else []
    return lacking + width_obstacles(model.config)


LAYOUTS = (
    Layout(
        name="TorchMultimodal flava_model_for_pretraining or flava_model",
        matches=matches,
        build=build,
    ),
)
