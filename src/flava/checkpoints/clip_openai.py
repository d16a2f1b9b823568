"""CLIP as OpenAI and open_clip publish it, with a ViT as image encoder; read only.

Both libraries use the same keys, by which the layout is recognised. The weights do not tell the
activation: it comes from ``open_clip_config.json``, or from buffers that only OpenAI's files have.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from flava.checkpoints.clip_common import empty_clip, load_clip
from flava.checkpoints.geometry import (
    WIDE_VIT_HEADS,
    Config,
    config_mismatches,
    config_section,
    count_blocks,
    head_count,
    read_image_geometry,
    tensor_shapes,
)
from flava.checkpoints.layout import Checkpoint, KeyMapping, Layout, raise_if_any
from flava.models.clip import Clip, ClipImageConfig, ClipTextConfig
from flava.models.transformer import Activation

KEY_MAPPING: KeyMapping = (
    (r"\.blocks\.(\d+)\.", r".transformer.resblocks.\1."),
    (r"\.norm_before\.", ".ln_1."),
    (r"\.norm_after\.", ".ln_2."),
    (r"\.attention\.qkv\.(weight|bias)$", r".attn.in_proj_\1"),
    (r"\.attention\.output\.", ".attn.out_proj."),
    (r"\.mlp_in\.", ".mlp.c_fc."),
    (r"\.mlp_out\.", ".mlp.c_proj."),
    (r"^image_encoder\.patches\.", "visual.conv1."),
    (r"^image_encoder\.cls_token$", "visual.class_embedding"),
    (r"^image_encoder\.positions$", "visual.positional_embedding"),
    (r"^image_encoder\.norm_pre\.", "visual.ln_pre."),
    (r"^image_encoder\.norm\.", "visual.ln_post."),
    (r"^image_encoder\.", "visual."),
    (r"^image_projection\.weight$", "visual.proj (transposed)"),
    (r"^text_encoder\.words\.", "token_embedding."),
    (r"^text_encoder\.positions\.weight$", "positional_embedding"),
    (r"^text_encoder\.norm\.", "ln_final."),
    (r"^text_encoder\.", ""),
    (r"^text_projection\.weight$", "text_projection (transposed)"),
)
OPENAI_BUFFERS = ("input_resolution", "context_length", "vocab_size")
"""Buffers beside the weights in the archives that OpenAI published."""

OPEN_CLIP_CONFIG = "open_clip_config.json"

OPEN_CLIP_FIELDS = {
    "width": "width",
    "layers": "depth",
    "patch_size": "patch_size",
    "context_length": "max_length",
    "vocab_size": "vocabulary_size",
}
"""Fields of open_clip's ``vision_cfg`` and ``text_cfg`` -> our fields of the same meaning."""

OPEN_CLIP_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "pool_type": ("tok", "argmax"),
    "no_causal_mask": (False,),
    "norm_kwargs": (None, {}),
    "act_kwargs": (None, {}),
}
"""Fields that the tensors do not show, and the values of them that our model computes."""


def _matches(checkpoint: Checkpoint) -> bool:
    return "visual.conv1.weight" in checkpoint.state_dict and any(
        f"{prefix}token_embedding.weight" in checkpoint.state_dict for prefix in ("", "text.")
    )


def _build(checkpoint: Checkpoint) -> Clip:
    # open_clip's CustomTextCLIP has the text encoder under this prefix.
    prefix = "text." if "text.token_embedding.weight" in checkpoint.state_dict else ""
    positions = "visual.positional_embedding"
    image = read_image_geometry(checkpoint, "visual.conv1.weight", positions, 2)
    image["depth"] = count_blocks(checkpoint.state_dict, r"visual\.transformer\.resblocks\.(\d+)\.")
    text, projections = geometry(checkpoint, image, prefix)
    config = _open_clip_config(checkpoint)
    vision_cfg = config_section(checkpoint, config, "vision_cfg")
    text_cfg = config_section(checkpoint, config, "text_cfg")
    raise_if_any(
        [
            *_open_clip_mismatches(vision_cfg, "vision_cfg.", image),
            *_open_clip_mismatches(text_cfg, "text_cfg.", text),
        ],
        f"{OPEN_CLIP_CONFIG} of {checkpoint.origin} does not fit",
    )
    activation = _openai_activation(checkpoint, config)
    given_heads = _open_clip_heads(vision_cfg, image["width"])
    image_heads = head_count(checkpoint, image["width"], given_heads)
    text_heads = head_count(checkpoint, text["width"], text_cfg.get("heads"))
    model = empty_clip(
        checkpoint,
        image=ClipImageConfig(**image, heads=image_heads, activation=activation),
        text=ClipTextConfig(**text, heads=text_heads, activation=activation),
        projection_width=projections,
    )
    return load_clip(
        model,
        checkpoint,
        cls="visual.class_embedding",
        positions=positions,
        transposed=("visual.proj", f"{prefix}text_projection"),
        mapping=(*KEY_MAPPING, (r"^(?!visual\.|logit_scale$)", prefix)),
        ignored=OPENAI_BUFFERS,
    )


def geometry(
    checkpoint: Checkpoint, image: dict[str, Any], prefix: str
) -> tuple[dict[str, Any], int]:
    """The text encoder's geometry, and the width of the projections.

    ``mlp_width`` of the image encoder is added to ``image``.
    """
    mlp = "transformer.resblocks.0.mlp.c_fc.weight"
    words, positions, image_mlp, text_mlp, _, image_projection, _ = tensor_shapes(
        checkpoint,
        {
            f"{prefix}token_embedding.weight": 2,
            f"{prefix}positional_embedding": 2,
            f"visual.{mlp}": 2,
            f"{prefix}{mlp}": 2,
            "visual.class_embedding": 1,
            "visual.proj": 2,
            f"{prefix}text_projection": 2,
        },
    )
    image["mlp_width"] = image_mlp[0]
    text = {
        "vocabulary_size": words[0],
        "width": words[1],
        "max_length": positions[0],
        "mlp_width": text_mlp[0],
        "depth": count_blocks(
            checkpoint.state_dict, rf"{re.escape(prefix)}transformer\.resblocks\.(\d+)\."
        ),
    }
    return text, image_projection[1]


def _open_clip_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The ``model_cfg`` of open_clip's config beside the weights; empty if there is none.

    Raises:
        ValueError: it is damaged.
    """
    path = checkpoint.folder and checkpoint.folder / OPEN_CLIP_CONFIG
    if path is None or not path.is_file():
        return dict(config_section(checkpoint, checkpoint.config, "model_cfg"))
    try:
        return dict(json.loads(path.read_bytes())["model_cfg"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} holds no model_cfg ({error}): copy it anew") from error


def _open_clip_mismatches(config: Config, where: str, geometry: Mapping[str, Any]) -> list[str]:
    return config_mismatches(config, where, OPEN_CLIP_FIELDS, geometry) + [
        f"{where}{key} is {config[key]!r}, which ours do not compute"
        for key, computed in OPEN_CLIP_SUPPORTED.items()
        if config.get(key, computed[0]) not in computed
    ]


def _open_clip_heads(config: Config, width: int) -> object:
    """The heads of an image encoder. The config of open_clip gives their width, by default 64."""
    if not config:
        return WIDE_VIT_HEADS.get(width)
    head_width = config.get("head_width", 64)
    return width // head_width if isinstance(head_width, int) and head_width > 0 else head_width


def _openai_activation(checkpoint: Checkpoint, config: Config) -> Activation:
    """Quick GELU for OpenAI's weights and for those of open_clip that say so, else GELU.

    Raises:
        ValueError: neither a config nor OpenAI's buffers tell which.
    """
    if config:
        return Activation.QUICK_GELU if config.get("quick_gelu", False) else Activation.GELU
    if any(name in checkpoint.state_dict for name in OPENAI_BUFFERS):
        return Activation.QUICK_GELU
    raise ValueError(
        f"{checkpoint.origin} does not tell its activation, and weights of OpenAI and of open_clip "
        f"have the same names: put an {OPEN_CLIP_CONFIG} beside it with "
        '{"model_cfg": {"quick_gelu": true}} for weights of OpenAI and for open_clip\'s models '
        "called -quickgelu, with false for its others"
    )


LAYOUTS = (Layout(name="CLIP of OpenAI or open_clip", matches=_matches, build=_build),)
