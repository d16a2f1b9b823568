"""CLIP as transformers' `CLIPModel` names it, and what all layouts of CLIP share."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from flava.checkpoints.geometry import (
    Config,
    count_blocks,
    disagreements,
    heads,
    hugging_face,
    image_geometry,
    refuse_if,
    section,
    shapes,
)
from flava.checkpoints.huggingface import published_encoder
from flava.checkpoints.layout import Layout, Stored, Table, export, fill, sources, split, unfilled
from flava.core.constraints import config_errors
from flava.models.clip import INITIAL_LOGIT_SCALE, Clip, ClipConfig, ClipImageConfig, ClipTextConfig
from flava.models.transformer import TransformerConfig

QUERY_KEY_VALUE = split("q_proj", "k_proj", "v_proj")
"""The parts as transformers' CLIP names them; OpenAI's holds them in one, as ours."""


def clip_of(
    stored: Stored, *, image: ClipImageConfig, text: ClipTextConfig, projection_width: int
) -> Clip:
    """Raises ValueError: this geometry does not hold."""
    errors = config_errors(image, "image.") + config_errors(text, "text.")
    refuse_if(errors, f"the geometry of {stored.origin} does not hold")
    config = ClipConfig(image=image, text=text, projection_width=projection_width)
    return unfilled(lambda: Clip(config))


def filled(
    model: Clip,
    stored: Stored,
    *,
    cls: str,
    positions: str,
    transposed: Collection[str],
    names: Table,
    ignored: Collection[str],
) -> Clip:
    """The model with the file's weights, whose ``cls`` and ``positions`` have fewer axes.

    Raises:
        ValueError: as `strict.fill`.
    """
    tensors = {
        f"{name} (transposed)" if name in transposed else name: tensor.T
        if name in transposed
        else tensor
        for name, tensor in stored.tensors.items()
    }
    tensors[cls] = tensors[cls][None, None]
    tensors[positions] = tensors[positions][None]
    if "logit_scale" in tensors:
        tensors["logit_scale"] = tensors["logit_scale"].squeeze()
    fill(
        model,
        tensors,
        sources(model.state_dict(), names, QUERY_KEY_VALUE),
        origin=stored.origin,
        ignored=ignored,
    )
    return model.eval()


NAMES: Table = (
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
"""Entries that have fewer axes there than here."""

BUFFERS = (
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)
"""0, 1, 2, ... in files of older versions of transformers."""


def matches(stored: Stored) -> bool:
    names = ("vision_model.pre_layrnorm.weight", "text_model.final_layer_norm.weight")
    return all(name in stored.tensors for name in names)


def build(stored: Stored) -> Clip:
    """From the names of transformers' `CLIPModel`, with its config beside them."""
    if stored.config is None:
        raise ValueError(
            f"{stored.origin} has no config.json beside it, which tells its activation: copy it "
            "there too"
        )
    patches = "vision_model.embeddings.patch_embedding.weight"
    image = image_geometry(stored, patches, POSITIONS, 2)
    text, projections = geometry(stored, image)
    image_told = sub_config(stored, "vision_config")
    text_told = sub_config(stored, "text_config")
    refuse_if(
        disagreements(stored.config, "", {"projection_dim": "width"}, {"width": projections})
        + other_end(text_told, text["vocabulary_size"]),
        f"the config of {stored.origin} does not fit",
    )
    model = clip_of(
        stored,
        image=ClipImageConfig(
            **image,
            heads=heads(stored, image["width"], image_told.get("num_attention_heads", 12)),
            **hugging_face(stored, image_told, "vision_config.", image),
        ),
        text=ClipTextConfig(
            **text,
            heads=heads(stored, text["width"], text_told.get("num_attention_heads", 8)),
            **hugging_face(stored, text_told, "text_config.", text),
        ),
        projection_width=projections,
    )
    return filled(
        model,
        stored,
        cls=CLS,
        positions=POSITIONS,
        transposed=(),
        names=NAMES,
        ignored=BUFFERS,
    )


def geometry(stored: Stored, image: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """As `clips_openai.geometry`; the image encoder's depth goes to ``image`` too."""
    mlp = "encoder.layers.0.mlp.fc1.weight"
    words, positions, image_mlp, text_mlp, projection, _ = shapes(
        stored,
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
        count_blocks(stored.tensors, rf"{part}_model\.encoder\.layers\.(\d+)\.")
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


def sub_config(stored: Stored, name: str) -> dict[str, Any]:
    """A part of transformers' config; what an old ``NAME_dict`` says goes before it, as there."""
    return {
        **section(stored, stored.config, name),
        **section(stored, stored.config, f"{name}_dict"),
    }


OLD_END = 2
"""In old configs the end-of-text token is a false 2, and the largest id is taken all the same."""


def other_end(config: Config, vocabulary_size: int) -> list[str]:
    """Why the state at a text's largest id is not the one that the published model takes."""
    end = config.get("eos_token_id", vocabulary_size - 1)
    if end in (OLD_END, vocabulary_size - 1):
        return []
    return [
        f"text_config.eos_token_id is {end!r}, and ids above it are in the vocabulary of "
        f"{vocabulary_size}: ours take a text's state at its largest id"
    ]


def write(model: Clip, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` into a folder."""
    state = export(model.state_dict(), NAMES, QUERY_KEY_VALUE)
    state[CLS], state[POSITIONS] = state[CLS][0, 0], state[POSITIONS][0]
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    # transformers refuses a safetensors file that does not say this.
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.dumps(published_config(model), indent=2)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")


def published_config(model: Clip) -> dict[str, Any]:
    """Their config of our geometry."""
    image, text, width = model.config.image, model.config.text, model.config.projection_width
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": width,
        "logit_scale_init_value": INITIAL_LOGIT_SCALE,
        "vision_config": {
            **clip_encoder(image),
            "model_type": "clip_vision_model",
            "projection_dim": width,
            "image_size": image.image_size,
            "patch_size": image.patch_size,
        },
        "text_config": {
            **clip_encoder(text),
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


def clip_encoder(config: TransformerConfig) -> dict[str, Any]:
    return {
        **published_encoder(config),
        "hidden_act": config.activation.value,
        "layer_norm_eps": config.norm_eps,
    }


LAYOUTS = (Layout(name="Hugging Face CLIPModel", matches=matches, build=build),)
