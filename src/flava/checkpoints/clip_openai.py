"""CLIP as OpenAI and open_clip publish it, with a ViT for its image encoder."""

import json
import re
from collections.abc import Mapping
from typing import Any

from flava.checkpoints.clip_huggingface import clip_of, filled
from flava.checkpoints.geometry import (
    WIDE_VIT_HEADS,
    Config,
    count_blocks,
    disagreements,
    heads,
    image_geometry,
    refuse_if,
    section,
    shapes,
)
from flava.checkpoints.layout import Layout, Stored, Table
from flava.models.clip import Clip, ClipImageConfig, ClipTextConfig
from flava.models.transformer import Activation

NAMES: Table = (
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
"""OpenAI's names, which are open_clip's too."""

OPENAI_BUFFERS = ("input_resolution", "context_length", "vocab_size")
"""Numbers beside the weights in the archives that OpenAI published."""

OPEN_CLIP_CONFIG = "open_clip_config.json"

OPEN_CLIP_FIELDS = {
    "width": "width",
    "layers": "depth",
    "patch_size": "patch_size",
    "context_length": "max_length",
    "vocab_size": "vocabulary_size",
}
"""Fields of open_clip's ``vision_cfg`` and ``text_cfg``, and ours of the same meaning."""

OPEN_CLIP_PLAIN: dict[str, tuple[Any, ...]] = {
    "pool_type": ("tok", "argmax"),
    "no_causal_mask": (False,),
    "norm_kwargs": (None, {}),
    "act_kwargs": (None, {}),
}
"""Fields that leave no trace in the tensors, and their values that ours compute."""


def matches(stored: Stored) -> bool:
    return "visual.conv1.weight" in stored.tensors and any(
        f"{prefix}token_embedding.weight" in stored.tensors for prefix in ("", "text.")
    )


def build(stored: Stored) -> Clip:
    """From OpenAI's names, which are open_clip's too.

    Where open_clip has a `CustomTextCLIP`, the text encoder's stand under ``text.``.
    """
    prefix = "text." if "text.token_embedding.weight" in stored.tensors else ""
    image = image_geometry(stored, "visual.conv1.weight", "visual.positional_embedding", 2)
    image["depth"] = count_blocks(stored.tensors, r"visual\.transformer\.resblocks\.(\d+)\.")
    text, projections = geometry(stored, image, prefix)
    told = open_clip_config(stored)
    vision_cfg, text_cfg = section(stored, told, "vision_cfg"), section(stored, told, "text_cfg")
    refuse_if(
        [
            *open_clip_misfits(vision_cfg, "vision_cfg.", image),
            *open_clip_misfits(text_cfg, "text_cfg.", text),
        ],
        f"{OPEN_CLIP_CONFIG} of {stored.origin} does not fit",
    )
    activation = openai_activation(stored, told)
    image_heads = heads(stored, image["width"], open_clip_heads(vision_cfg, image["width"]))
    text_heads = heads(stored, text["width"], text_cfg.get("heads"))
    model = clip_of(
        stored,
        image=ClipImageConfig(**image, heads=image_heads, activation=activation),
        text=ClipTextConfig(**text, heads=text_heads, activation=activation),
        projection_width=projections,
    )
    return filled(
        model,
        stored,
        cls="visual.class_embedding",
        positions="visual.positional_embedding",
        transposed=("visual.proj", f"{prefix}text_projection"),
        names=(*NAMES, (r"^(?!visual\.|logit_scale$)", prefix)),
        ignored=OPENAI_BUFFERS,
    )


def geometry(stored: Stored, image: dict[str, Any], prefix: str) -> tuple[dict[str, Any], int]:
    """The text encoder's geometry and the projections' width; the image MLP's goes to ``image``."""
    mlp = "transformer.resblocks.0.mlp.c_fc.weight"
    words, positions, image_mlp, text_mlp, _, image_projection, _ = shapes(
        stored,
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
            stored.tensors, rf"{re.escape(prefix)}transformer\.resblocks\.(\d+)\."
        ),
    }
    return text, image_projection[1]


def open_clip_config(stored: Stored) -> dict[str, Any]:
    """The ``model_cfg`` of open_clip's config beside the weights; empty if there is none.

    Raises:
        ValueError: it cannot be read.
    """
    path = stored.folder and stored.folder / OPEN_CLIP_CONFIG
    if path is None or not path.is_file():
        return dict(section(stored, stored.config, "model_cfg"))
    try:
        return dict(json.loads(path.read_bytes())["model_cfg"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} holds no model_cfg ({error}): copy it anew") from error


def open_clip_misfits(config: Config, where: str, geometry: Mapping[str, Any]) -> list[str]:
    return disagreements(config, where, OPEN_CLIP_FIELDS, geometry) + [
        f"{where}{key} is {config[key]!r}, which ours do not compute"
        for key, computed in OPEN_CLIP_PLAIN.items()
        if config.get(key, computed[0]) not in computed
    ]


def open_clip_heads(config: Config, width: int) -> object:
    """Of an image encoder: open_clip's config tells their width, 64 if it does not."""
    if not config:
        return WIDE_VIT_HEADS.get(width)
    head_width = config.get("head_width", 64)
    return width // head_width if isinstance(head_width, int) and head_width > 0 else head_width


def openai_activation(stored: Stored, config: Config) -> Activation:
    """What the tensors alone do not show: OpenAI's weights have another GELU than open_clip's.

    Raises:
        ValueError: neither a config nor OpenAI's buffers tell.
    """
    if config:
        return Activation.QUICK_GELU if config.get("quick_gelu", False) else Activation.GELU
    if any(name in stored.tensors for name in OPENAI_BUFFERS):
        return Activation.QUICK_GELU
    raise ValueError(
        f"{stored.origin} does not tell its activation, and weights of OpenAI and of open_clip "
        f"have the same names: put an {OPEN_CLIP_CONFIG} beside it with "
        '{"model_cfg": {"quick_gelu": true}} for weights of OpenAI and for open_clip\'s models '
        "called -quickgelu, with false for its others"
    )


LAYOUTS = (Layout(name="CLIP of OpenAI or open_clip", matches=matches, build=build),)
