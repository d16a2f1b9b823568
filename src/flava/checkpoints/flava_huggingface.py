"""Hugging Face's FLAVA: transformers' `FlavaForPreTraining` and `FlavaModel`, read and written.

It is recognised by the blocks of ``multimodal_model``. A `FlavaModel` lacks the heads and the
codebook, and neither has the codebook's decoder. A ``config.json`` may leave out all that equals
transformers' defaults, which are therefore repeated here (transformers 5.23,
``configuration_flava.py``).
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from flava.checkpoints.flava_common import (
    HEADS,
    assemble,
    infer_flava_config,
    published_state_dict,
    write_decoder,
)
from flava.checkpoints.geometry import Config
from flava.checkpoints.layout import Checkpoint, KeyMapping, Layout, drop_tied_keys, raise_if_any
from flava.models.codebook import GROUPS, CodebookConfig
from flava.models.encoders import TOKEN_TYPES, ImageConfig, MultimodalConfig, TextConfig
from flava.models.flava import Flava, FlavaConfig
from flava.models.transformer import NORM_EPS, TransformerConfig

ENCODER = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
DEFAULTS: dict[str, dict[str, Any]] = {
    "image_config": {
        **ENCODER,
        "num_hidden_layers": 12,
        "image_size": 224,
        "patch_size": 16,
        "vocab_size": 8192,
    },
    "text_config": {
        **ENCODER,
        "num_hidden_layers": 12,
        "vocab_size": 30522,
        "max_position_embeddings": 512,
    },
    "multimodal_config": {**ENCODER, "num_hidden_layers": 6},
    "image_codebook_config": {"hidden_size": 256, "vocab_size": 8192, "num_blocks_per_group": 2},
}
PROJECTION = 768
INITIALIZER_RANGE = 0.02

REQUIRED = {
    "hidden_act": ("gelu", "ours is the exact GELU alone"),
    "layer_norm_eps": (NORM_EPS, "ours is that of the published weights alone"),
    "qkv_bias": (True, "ours always has these biases"),
    "num_channels": (3, "ours reads RGB alone"),
    "mask_token": (True, "ours always has a mask token"),
    "type_vocab_size": (TOKEN_TYPES, "ours carries BERT's two segments"),
    "position_embedding_type": ("absolute", "ours has absolute positions alone"),
    "use_cls_token": (True, "ours always has a [CLS_M]"),
    "num_groups": (GROUPS, "ours has DALL-E's four groups"),
    "input_channels": (3, "ours reads RGB alone"),
}
"""Settings of which our model computes only the default value, and why.

Dropout is not among them, since evaluation does not apply it."""


def _read_config(config: Config, origin: str) -> FlavaConfig:
    """Our configuration from a ``config.json`` of transformers.

    Raises:
        ValueError: settings that our model cannot compute, or that are no number; all in one
            error.
    """
    given = {name: _sub_config(config, name) for name in DEFAULTS}
    if odd := [name for name, values in given.items() if not isinstance(values, Mapping)]:
        raise ValueError(f"the config.json of {origin} is refused: {', '.join(odd)} is no object")
    settings = {name: {**DEFAULTS[name], **values} for name, values in given.items()}
    problems = _unsupported(given) + _not_whole_numbers(settings)
    image, text = settings["image_config"], settings["text_config"]
    codebook = settings["image_codebook_config"]
    if image["vocab_size"] != codebook["vocab_size"]:
        problems.append(
            f"image_config.vocab_size is {image['vocab_size']} and image_codebook_config's "
            f"{codebook['vocab_size']}: ours predicts the codes of its own codebook"
        )
    projection = config.get("projection_dim", PROJECTION)
    init_std = config.get("initializer_range", INITIALIZER_RANGE)
    if type(projection) is not int:
        problems.append(f"projection_dim is {projection!r}: a whole number is needed")
    if not isinstance(init_std, int | float):
        problems.append(f"initializer_range is {init_std!r}: a number is needed")
    raise_if_any(problems, f"the config.json of {origin} is refused")
    return FlavaConfig(
        image=ImageConfig(
            **_encoder_config(image),
            image_size=_square_side(image["image_size"]),
            patch_size=_square_side(image["patch_size"]),
        ),
        text=TextConfig(
            **_encoder_config(text),
            vocabulary_size=text["vocab_size"],
            max_length=text["max_position_embeddings"],
        ),
        multimodal=MultimodalConfig(**_encoder_config(settings["multimodal_config"])),
        projection_width=projection,
        codebook=CodebookConfig(
            codes=codebook["vocab_size"],
            width=codebook["hidden_size"],
            blocks=codebook["num_blocks_per_group"],
        ),
        init_std=init_std,
    )


def _sub_config(config: Config, name: str) -> Any:
    """A nested config as the file has it; the ``name_dict`` of older files has precedence."""
    older = config.get(f"{name}_dict")
    return (config.get(name) or {}) if older is None else older


def _unsupported(given: Mapping[str, Config]) -> list[str]:
    return [
        f"{name}.{key} is {value!r}: {REQUIRED[key][1]} ({REQUIRED[key][0]!r})"
        for name, values in given.items()
        for key, value in values.items()
        if key in REQUIRED and value != REQUIRED[key][0]
    ]


def _not_whole_numbers(settings: Mapping[str, Config]) -> list[str]:
    return [
        f"{name}.{key} is {values[key]!r}: a whole number is needed"
        for name, values in settings.items()
        for key in DEFAULTS[name]
        if type(_square_side(values[key])) is not int
    ]


def _square_side(value: Any) -> Any:
    """The side of a square that a config gives as one number or as two equal ones."""
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    return value


def _encoder_config(settings: Config) -> dict[str, Any]:
    return {
        "width": settings["hidden_size"],
        "depth": settings["num_hidden_layers"],
        "heads": settings["num_attention_heads"],
        "mlp_width": settings["intermediate_size"],
    }


def _write_config(config: FlavaConfig) -> dict[str, Any]:
    """The ``config.json`` of transformers for our configuration, defaults written out."""
    image, text, codebook = config.image, config.text, config.codebook
    init = {"initializer_range": config.init_std}
    return {
        "model_type": "flava",
        "image_config": {
            **published_encoder(image),
            **init,
            "model_type": "flava_image_model",
            "image_size": image.image_size,
            "patch_size": image.patch_size,
            "vocab_size": codebook.codes,
        },
        "text_config": {
            **published_encoder(text),
            **init,
            "model_type": "flava_text_model",
            "vocab_size": text.vocabulary_size,
            "max_position_embeddings": text.max_length,
        },
        "multimodal_config": {
            **published_encoder(config.multimodal),
            **init,
            "model_type": "flava_multimodal_model",
        },
        "image_codebook_config": {
            **init,
            "model_type": "flava_image_codebook",
            "hidden_size": codebook.width,
            "vocab_size": codebook.codes,
            "num_blocks_per_group": codebook.blocks,
        },
        "hidden_size": config.multimodal.width,
        "projection_dim": config.projection_width,
        "initializer_range": config.init_std,
        "dtype": "float32",
    }


def published_encoder(config: TransformerConfig) -> dict[str, int]:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
    }


KEY_MAPPING: KeyMapping = (
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
TIED_KEYS = {f"{head}.bias": f"{head}.decoder.bias" for head in HEADS if head != "itm_head"}
"""Second key -> first key of tensors that are tied in the published model."""

BUFFERS = ("position_ids", "token_type_ids")
"""Suffixes of constants that older versions of transformers saved with the weights."""


def _normalise_keys(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The state dict under the keys of `FlavaForPreTraining`, without tied keys and buffers.

    The keys of a `FlavaModel` lack the prefix ``flava.``.
    """
    pattern = re.compile(r"^(?!image_codebook\.)(?=(image|text|multimodal)_|logit_scale)")
    named = {
        pattern.sub("flava.", key): tensor
        for key, tensor in checkpoint.state_dict.items()
        if not key.endswith(BUFFERS)
    }
    return drop_tied_keys(named, TIED_KEYS, checkpoint.origin)


def _matches(checkpoint: Checkpoint) -> bool:
    return any(
        name.removeprefix("flava.").startswith("multimodal_model.encoder.layer.")
        for name in checkpoint.state_dict
    )


def _build(checkpoint: Checkpoint) -> Flava:
    state_dict = _normalise_keys(checkpoint)
    if checkpoint.config is None:
        config = infer_flava_config(state_dict, KEY_MAPPING, checkpoint.origin)
    else:
        config = _read_config(checkpoint.config, checkpoint.origin)
    return assemble(config, state_dict, KEY_MAPPING, _find_missing_parts(checkpoint), checkpoint)


def _find_missing_parts(checkpoint: Checkpoint) -> set[str]:
    """A `FlavaModel` lacks heads and codebook; a `FlavaForPreTraining` may lack the codebook."""
    config = checkpoint.config or {"init_codebook": False}
    without = not any(name.startswith("image_codebook.") for name in checkpoint.state_dict)
    if not any(name.startswith(HEADS) for name in checkpoint.state_dict):
        return {*HEADS, "codebook.encoder"}
    return {"codebook.encoder"} if without and config.get("init_codebook") is False else set()


def write(model: Flava, folder: Path) -> None:
    """Write ``config.json``, ``model.safetensors`` and the codebook's decoder into a folder.

    Raises:
        ValueError: transformers' model cannot hold this one; every reason is listed.
    """
    raise_if_any(_unwritable_reasons(model), "this model cannot be written for transformers")
    with_heads = not model.missing_parts.issuperset(HEADS)
    state = published_state_dict(model, KEY_MAPPING)
    if not with_heads:
        state = {name.removeprefix("flava."): tensor for name, tensor in state.items()}
    # transformers refuses a safetensors file that does not say this.
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["FlavaForPreTraining" if with_heads else "FlavaModel"],
        **_write_config(model.config),
        "init_codebook": "codebook.encoder" not in model.missing_parts,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_decoder(model, folder)


def _unwritable_reasons(model: Flava) -> list[str]:
    """The reasons why transformers' model cannot hold this one."""
    missing_heads = model.missing_parts.intersection(HEADS)
    if not missing_heads:
        return width_mismatches(model.config)
    if kept := set(HEADS) - missing_heads:
        return [f"it has {', '.join(sorted(kept))}, and lacks {', '.join(sorted(missing_heads))}"]
    if "codebook.encoder" not in model.missing_parts:
        return ["it has a codebook and no heads, and a FlavaModel holds neither"]
    return []


def width_mismatches(config: FlavaConfig) -> list[str]:
    """Published heads on multimodal states need the width of the image and the text encoder."""
    width = config.multimodal.width
    return [
        f"multimodal.width is {width} and {kind}.width is {other}: the published heads of masked "
        "multimodal modelling need them equal"
        for kind, other in (("image", config.image.width), ("text", config.text.width))
        if other != width
    ]


LAYOUTS = (
    Layout(name="Hugging Face FlavaForPreTraining or FlavaModel", matches=_matches, build=_build),
)
