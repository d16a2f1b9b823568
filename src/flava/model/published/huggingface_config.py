"""The geometry in Hugging Face's ``config.json``, to and from ours.

A file may hold no more than what differs from transformers' defaults, which therefore stand here
(transformers 5.23, ``configuration_flava.py``).
"""

from collections.abc import Mapping
from typing import Any

from flava.model.codebook import GROUPS, CodebookConfig
from flava.model.flava import FlavaConfig
from flava.model.image import ImageConfig
from flava.model.multimodal import MultimodalConfig
from flava.model.text import TOKEN_TYPES, TextConfig
from flava.model.transformer import NORM_EPS, TransformerConfig

Settings = Mapping[str, Any]

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
"""Settings with one value that ours can compute, which is their default, and why.

Dropout is none of them: evaluation does not apply it."""


def read_config(config: Settings, origin: str) -> FlavaConfig:
    """Our geometry from theirs.

    Raises:
        ValueError: settings that ours cannot compute, or that hold no number; all in one error.
    """
    given = {name: section(config, name) for name in DEFAULTS}
    if odd := [name for name, values in given.items() if not isinstance(values, Mapping)]:
        raise ValueError(f"the config.json of {origin} is refused: {', '.join(odd)} is no object")
    settings = {name: {**DEFAULTS[name], **values} for name, values in given.items()}
    mistakes = unsupported(given) + not_numbers(settings)
    image, text = settings["image_config"], settings["text_config"]
    codebook = settings["image_codebook_config"]
    if image["vocab_size"] != codebook["vocab_size"]:
        mistakes.append(
            f"image_config.vocab_size is {image['vocab_size']} and image_codebook_config's "
            f"{codebook['vocab_size']}: ours predicts the codes of its own codebook"
        )
    projection = config.get("projection_dim", PROJECTION)
    init_std = config.get("initializer_range", INITIALIZER_RANGE)
    if type(projection) is not int:
        mistakes.append(f"projection_dim is {projection!r}: a whole number is needed")
    if not isinstance(init_std, int | float):
        mistakes.append(f"initializer_range is {init_std!r}: a number is needed")
    if mistakes:
        raise ValueError(f"the config.json of {origin} is refused:\n  " + "\n  ".join(mistakes))
    return FlavaConfig(
        image=ImageConfig(
            **encoder(image),
            image_size=side(image["image_size"]),
            patch_size=side(image["patch_size"]),
        ),
        text=TextConfig(
            **encoder(text),
            vocabulary_size=text["vocab_size"],
            max_length=text["max_position_embeddings"],
        ),
        multimodal=MultimodalConfig(**encoder(settings["multimodal_config"])),
        projection_width=projection,
        codebook=CodebookConfig(
            codes=codebook["vocab_size"],
            width=codebook["hidden_size"],
            blocks=codebook["num_blocks_per_group"],
        ),
        init_std=init_std,
    )


def section(config: Settings, name: str) -> Any:
    """A nested config as far as the file gives it; an older ``name_dict`` goes before it."""
    older = config.get(f"{name}_dict")
    return (config.get(name) or {}) if older is None else older


def unsupported(given: Mapping[str, Settings]) -> list[str]:
    return [
        f"{name}.{key} is {value!r}: {REQUIRED[key][1]} ({REQUIRED[key][0]!r})"
        for name, values in given.items()
        for key, value in values.items()
        if key in REQUIRED and value != REQUIRED[key][0]
    ]


def not_numbers(settings: Mapping[str, Settings]) -> list[str]:
    return [
        f"{name}.{key} is {values[key]!r}: a whole number is needed"
        for name, values in settings.items()
        for key in DEFAULTS[name]
        if type(side(values[key])) is not int
    ]


def side(value: Any) -> Any:
    """The side of a square that is given as one number or as two equal ones."""
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    return value


def encoder(settings: Settings) -> dict[str, Any]:
    return {
        "width": settings["hidden_size"],
        "depth": settings["num_hidden_layers"],
        "heads": settings["num_attention_heads"],
        "mlp_width": settings["intermediate_size"],
    }


def write_config(config: FlavaConfig) -> dict[str, Any]:
    """Their config of our geometry, defaults written out."""
    image, text, codebook = config.image, config.text, config.codebook
    spread = {"initializer_range": config.init_std}
    return {
        "model_type": "flava",
        "image_config": {
            **published_encoder(image),
            **spread,
            "model_type": "flava_image_model",
            "image_size": image.image_size,
            "patch_size": image.patch_size,
            "vocab_size": codebook.codes,
        },
        "text_config": {
            **published_encoder(text),
            **spread,
            "model_type": "flava_text_model",
            "vocab_size": text.vocabulary_size,
            "max_position_embeddings": text.max_length,
        },
        "multimodal_config": {
            **published_encoder(config.multimodal),
            **spread,
            "model_type": "flava_multimodal_model",
        },
        "image_codebook_config": {
            **spread,
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
