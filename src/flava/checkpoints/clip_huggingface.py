"""CLIP of Hugging Face: transformers' `CLIPModel`, read and written.

It is recognised by transformers' own spelling ``pre_layrnorm``. A ``config.json`` has to be beside
the weights, since they do not tell the activation.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from flava.checkpoints.clip_common import QUERY_KEY_VALUE, empty_clip, load_clip
from flava.checkpoints.flava_huggingface import published_encoder
from flava.checkpoints.geometry import (
    Config,
    activation_and_eps,
    config_mismatches,
    config_section,
    count_blocks,
    head_count,
    read_image_geometry,
    tensor_shapes,
)
from flava.checkpoints.layout import Checkpoint, KeyMapping, Layout, export_state_dict, raise_if_any
from flava.models.clip import INITIAL_LOGIT_SCALE, Clip, ClipImageConfig, ClipTextConfig
from flava.models.transformer import TransformerConfig

KEY_MAPPING: KeyMapping = (
    (r"\.blocks\.(\d+)\.", r".encoder.layers.\1."),
    (r"\.norm_before\.", ".layer_norm1."),
    (r"\.norm_after\.", ".layer_norm2."),
    (r"\.attention\.output\.", ".self_attn.out_proj."),
    (r"\.attention\.", ".self_attn."),
    (r"\.mlp_in\.", ".mlp.fc1."),
    (r"\.mlp_out\.", ".mlp.fc2."),
    (r"^image_encoder\.patches\.", "vision_model.embeddings.patch_embedding."),
    (r"^image_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^image_encoder\.positions$", "vision_model.embeddings.position_embedding.weight"),
    (r"^image_encoder\.norm_pre\.", "vision_model.pre_layrnorm."),  # their spelling
    (r"^image_encoder\.norm\.", "vision_model.post_layernorm."),
    (r"^image_encoder\.", "vision_model."),
    (r"^image_projection\.", "visual_projection."),
    (r"^text_encoder\.words\.", "text_model.embeddings.token_embedding."),
    (r"^text_encoder\.positions\.", "text_model.embeddings.position_embedding."),
    (r"^text_encoder\.norm\.", "text_model.final_layer_norm."),
    (r"^text_encoder\.", "text_model."),
)

CLS = "vision_model.embeddings.class_embedding"
POSITIONS = "vision_model.embeddings.position_embedding.weight"
"""Tensors that have fewer dimensions than ours."""

BUFFERS = (
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)
"""Constants 0, 1, 2, ... that older versions of transformers saved with the weights."""


def _matches(checkpoint: Checkpoint) -> bool:
    names = ("vision_model.pre_layrnorm.weight", "text_model.final_layer_norm.weight")
    return all(name in checkpoint.state_dict for name in names)


def _build(checkpoint: Checkpoint) -> Clip:
    if checkpoint.config is None:
        raise ValueError(
            f"{checkpoint.origin} has no config.json beside it, which tells its activation: copy "
            "it there too"
        )
    patches = "vision_model.embeddings.patch_embedding.weight"
    image = read_image_geometry(checkpoint, patches, POSITIONS, 2)
    text, projections = geometry(checkpoint, image)
    vision_config = _nested_config(checkpoint, "vision_config")
    text_config = _nested_config(checkpoint, "text_config")
    raise_if_any(
        config_mismatches(
            checkpoint.config, "", {"projection_dim": "width"}, {"width": projections}
        )
        + _end_token_mismatch(text_config, text["vocabulary_size"]),
        f"the config of {checkpoint.origin} does not fit",
    )
    image_heads = vision_config.get("num_attention_heads", 12)
    text_heads = text_config.get("num_attention_heads", 8)
    model = empty_clip(
        checkpoint,
        image=ClipImageConfig(
            **image,
            heads=head_count(checkpoint, image["width"], image_heads),
            **activation_and_eps(checkpoint, vision_config, "vision_config.", image),
        ),
        text=ClipTextConfig(
            **text,
            heads=head_count(checkpoint, text["width"], text_heads),
            **activation_and_eps(checkpoint, text_config, "text_config.", text),
        ),
        projection_width=projections,
    )
    return load_clip(
        model,
        checkpoint,
        cls=CLS,
        positions=POSITIONS,
        transposed=(),
        mapping=KEY_MAPPING,
        ignored=BUFFERS,
    )


def geometry(checkpoint: Checkpoint, image: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The text encoder's geometry, and the width of the projections.

    ``mlp_width`` and ``depth`` of the image encoder are added to ``image``.
    """
    mlp = "encoder.layers.0.mlp.fc1.weight"
    words, positions, image_mlp, text_mlp, projection, _ = tensor_shapes(
        checkpoint,
        {
            "text_model.embeddings.token_embedding.weight": 2,
            "text_model.embeddings.position_embedding.weight": 2,
            f"vision_model.{mlp}": 2,
            f"text_model.{mlp}": 2,
            "visual_projection.weight": 2,
            CLS: 1,
        },
    )
    depths = [
        count_blocks(checkpoint.state_dict, rf"{part}_model\.encoder\.layers\.(\d+)\.")
        for part in ("vision", "text")
    ]
    image |= {"mlp_width": image_mlp[0], "depth": depths[0]}
    text = {
        "vocabulary_size": words[0],
        "width": words[1],
        "max_length": positions[0],
        "mlp_width": text_mlp[0],
        "depth": depths[1],
    }
    return text, projection[0]


def _nested_config(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """A part of the config; fields of an old ``NAME_dict`` have precedence, as in transformers."""
    return {
        **config_section(checkpoint, checkpoint.config, name),
        **config_section(checkpoint, checkpoint.config, f"{name}_dict"),
    }


WRONG_EOS = 2
"""Old configs give this wrong id of the end-of-text token; transformers then takes the state at
the largest id."""


def _end_token_mismatch(config: Config, vocabulary_size: int) -> list[str]:
    """Why the state at a text's largest id, which ours takes, is not the published embedding."""
    end = config.get("eos_token_id", vocabulary_size - 1)
    if end in (WRONG_EOS, vocabulary_size - 1):
        return []
    return [
        f"text_config.eos_token_id is {end!r}, and ids above it are in the vocabulary of "
        f"{vocabulary_size}: ours take a text's state at its largest id"
    ]


def write(model: Clip, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` into a folder."""
    state = export_state_dict(model.state_dict(), KEY_MAPPING, QUERY_KEY_VALUE)
    state[CLS], state[POSITIONS] = state[CLS][0, 0], state[POSITIONS][0]
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    # transformers refuses a safetensors file that does not say this.
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.dumps(_published_config(model), indent=2)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")


def _published_config(model: Clip) -> dict[str, Any]:
    """The ``config.json`` of transformers for our configuration."""
    image, text, width = model.config.image, model.config.text, model.config.projection_width
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": width,
        "logit_scale_init_value": INITIAL_LOGIT_SCALE,
        "vision_config": {
            **_published_clip_encoder(image),
            "model_type": "clip_vision_model",
            "projection_dim": width,
            "image_size": image.image_size,
            "patch_size": image.patch_size,
        },
        "text_config": {
            **_published_clip_encoder(text),
            "model_type": "clip_text_model",
            "projection_dim": width,
            "vocab_size": text.vocabulary_size,
            "max_position_embeddings": text.max_length,
            # As in OpenAI's vocabulary: the last two. A text's state is taken at the end token.
            "bos_token_id": text.vocabulary_size - 2,
            "eos_token_id": text.vocabulary_size - 1,
        },
        "dtype": "float32",
    }


def _published_clip_encoder(config: TransformerConfig) -> dict[str, Any]:
    return {
        **published_encoder(config),
        "hidden_act": config.activation.value,
        "layer_norm_eps": config.norm_eps,
    }


LAYOUTS = (Layout(name="Hugging Face CLIPModel", matches=_matches, build=_build),)
