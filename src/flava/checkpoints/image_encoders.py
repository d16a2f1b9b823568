"""Image encoders from ViTs: timm's, DINO's and DINOv2's, BEiT's, and those of Hugging Face.

All have the same pre-norm blocks as ours. What does not come from the tensors is their LayerNorm's
epsilon (1e-6 but for Hugging Face's, which their config tells) and the number of heads. Two things
that BEiT has and ours has not are taken exactly: its layer scale is multiplied into the weights
that it scales, and the key bias that it lacks is a bias of zeros. Its relative position biases,
which are added within the attention, no weights of ours can stand for: those are refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flava.checkpoints.geometry import (
    WIDE_VIT_HEADS,
    Config,
    check,
    count_blocks,
    heads,
    hugging_face,
    image_geometry,
    refuse_if,
    section,
    shapes,
)
from flava.checkpoints.layout import (
    TRANSFORMERS_BLOCKS,
    Layout,
    Stored,
    Table,
    fill,
    rename,
    sources,
)
from flava.models.encoders import ImageConfig, ImageEncoder
from flava.models.transformer import Block

TIMM_EPS = 1e-6
"""LayerNorm's epsilon in the ViTs of timm, DINO, DINOv2 and BEiT."""

NO_KEY_BIAS = "(zeros for the absent key bias)"

SCALED = {"attention_scale": "attention.output", "mlp_scale": "mlp_out"}
"""A block's layer scales, and the layers whose output each multiplies."""

OPTIONAL = ("mask_token", "pooler")
"""Prefixes of our parameters that a ViT need not have: no pass without a mask reads them."""

REFUSED = (
    (
        r"rel_pos_bias|relative_position_bias",
        "it adds relative position biases to its attention scores, which no weights of ours can "
        "stand for: only a BEiT with absolute positions alone can be taken",
    ),
    (r"norm_pre\.", "it has a LayerNorm before its blocks, as CLIP's image encoders have"),
    (
        r"(reg_token|register_tokens|dist_token)",
        "it has more tokens than [CLS] and the patches",
    ),
    (
        r"(?<!\w)(fc_norm|pooler\.layernorm)\.",
        "its norm is that of the patches' mean, and it has none for [CLS]",
    ),
    (r"\.attn\.(q_norm|k_norm|norm)\.", "it normalises within its attention"),
    (r"\.mlp\.(w12|w1|fc1_g|norm)\.", "its MLP is gated or normalised"),
)
"""(pattern of an entry's name, why an encoder with one is refused)."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One way to name a ViT's parameters."""

    names: Table
    prefixes: tuple[str, ...]
    """What may stand before all names but the heads'."""
    blocks: str
    """Pattern of a block's names, the first group its number."""
    passed_over: str
    """Pattern of entries, without their prefix, that belong to heads."""

    def prefix(self, stored: Stored) -> str | None:
        """The prefix in this file; None if it is not in this dialect."""
        patches = rename("patches.weight", self.names)
        return next((p for p in self.prefixes if p + patches in stored.tensors), None)


TIMM = Dialect(
    names=(
        (r"^patches\.", "patch_embed.proj."),
        (r"^positions$", "pos_embed"),
        (r"\.norm_before\.", ".norm1."),
        (r"\.norm_after\.", ".norm2."),
        (r"\.attention\.qkv\.", ".attn.qkv."),
        (r"\.attention\.output\.", ".attn.proj."),
        (r"\.mlp_in\.", ".mlp.fc1."),
        (r"\.mlp_out\.", ".mlp.fc2."),
        (r"\.attention_scale$", ".gamma_1"),
        (r"\.mlp_scale$", ".gamma_2"),
    ),
    prefixes=("", "module.", "backbone.", "module.backbone."),
    blocks=r"blocks\.(\d+)\.",
    # Of ImageNet, of ViT before its classifier, of DINO, of BEiT's and iBOT's masked images.
    passed_over=r"(module\.)?(head|head_dist|pre_logits|lm_head)\.",
)

HUGGING_FACE = Dialect(
    names=(
        *TRANSFORMERS_BLOCKS,
        (r"^patches\.", "embeddings.patch_embeddings.projection."),
        (r"^positions$", "embeddings.position_embeddings"),
        (r"^(cls_token|mask_token)$", r"embeddings.\1"),
        (r"\.attention_scale$", ".lambda_1"),
        (r"\.mlp_scale$", ".lambda_2"),
    ),
    prefixes=("", "vit.", "beit.", "data2vec_vision.", "image_model.", "flava.image_model."),
    blocks=r"encoder\.layer\.(\d+)\.",
    passed_over=r"(classifier|lm_head|decoder)\.",
)


def is_timm(stored: Stored) -> bool:
    return TIMM.prefix(stored) is not None


def is_hugging_face(stored: Stored) -> bool:
    prefix = HUGGING_FACE.prefix(stored)
    if prefix is None:
        return False
    # The image encoder within a whole FLAVA is not all that is there.
    return "image_model" not in prefix or all(name.startswith(prefix) for name in stored.tensors)


def build_timm(stored: Stored) -> ImageEncoder:
    """From timm's names, which DINO, DINOv2 and BEiT share."""
    model_args = section(stored, stored.config, "model_args")
    return build(stored, TIMM, {"norm_eps": TIMM_EPS}, model_args.get("num_heads"))


def build_hugging_face(stored: Stored) -> ImageEncoder:
    """From the names of transformers' `ViTModel`, `FlavaImageModel` and `BeitModel`."""
    return build(stored, HUGGING_FACE, {}, image_config(stored).get("num_attention_heads"))


def image_config(stored: Stored) -> Config:
    """Of a whole FLAVA's config, the part that tells of its image encoder."""
    return section(stored, stored.config, "image_config") or stored.config or {}


def build(
    stored: Stored, dialect: Dialect, told: Mapping[str, Any], head_count: object
) -> ImageEncoder:
    prefix = dialect.prefix(stored) or ""
    tensors = backbone(stored, dialect, prefix)
    refuse_if(
        [reason for pattern, reason in REFUSED if any(re.search(pattern, n) for n in tensors)]
        + ([] if prefix + rename("positions", dialect.names) in tensors else [NO_POSITIONS]),
        f"{stored.origin} computes what our image encoders cannot",
    )
    geometry = read_geometry(stored, dialect, prefix)
    if dialect is HUGGING_FACE:
        told = hugging_face(stored, image_config(stored), "", geometry)
    width = geometry["width"]
    usual = WIDE_VIT_HEADS.get(width)
    count = heads(stored, width, usual if head_count is None else head_count)
    config = ImageConfig(**geometry, heads=count, **told)
    check(stored, config, "image")
    model = ImageEncoder(config)
    take(model, tensors, dialect, prefix, stored.origin)
    return model.eval()


NO_POSITIONS = "it has no absolute position embeddings"


def backbone(stored: Stored, dialect: Dialect, prefix: str) -> dict[str, Tensor]:
    """The entries without those of heads."""
    if prefix == "beit.":
        # Beside its own norm, BEiT for masked images has another in its head.
        return {n: t for n, t in stored.tensors.items() if n.startswith(prefix)}
    return {
        name: tensor
        for name, tensor in stored.tensors.items()
        if not re.match(dialect.passed_over, name.removeprefix(prefix))
    }


def read_geometry(stored: Stored, dialect: Dialect, prefix: str) -> dict[str, Any]:
    patches, positions, mlp = (
        prefix + rename(name, dialect.names)
        for name in ("patches.weight", "positions", "blocks.0.mlp_in.weight")
    )
    geometry = image_geometry(stored, patches, positions, 3)
    geometry["mlp_width"] = shapes(stored, {mlp: 2})[0][0]
    geometry["depth"] = count_blocks(stored.tensors, re.escape(prefix) + dialect.blocks)
    return geometry


def take(
    model: ImageEncoder, tensors: dict[str, Tensor], dialect: Dialect, prefix: str, origin: str
) -> None:
    """Fill the model; its layer scales, if the file has any, go into the weights they scale.

    Raises:
        ValueError: as `strict.fill`.
    """
    names = dialect.names
    if any(name.endswith(".ls1.gamma") for name in tensors):
        names = (*names, (r"\.gamma_(\d)$", r".ls\1.gamma"))
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if any(re.search(r"\.(gamma_\d|ls\d\.gamma|lambda_\d)$", name) for name in tensors):
        add_scales(blocks)
    mask_token = prefix + rename("mask_token", names)
    if mask_token in tensors and tensors[mask_token].ndim == 2:  # DINOv2's has an axis less
        tensors[mask_token] = tensors[mask_token][None]
    tensors[NO_KEY_BIAS] = model.norm.bias.new_zeros(model.norm.bias.shape)
    entries = sources(model.state_dict(), names, lambda name: qkv_entries(prefix + name, tensors))
    model.missing_parts = frozenset(
        start
        for start in OPTIONAL
        if not any(e in tensors for n, es in entries.items() if n.startswith(start) for e in es)
    )
    present = {n: e for n, e in entries.items() if not n.startswith(tuple(model.missing_parts))}
    fill(model, tensors, present, origin=origin, ignored=(NO_KEY_BIAS,))
    fold_scales(blocks)


def qkv_entries(name: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """The entries that make up ``name``, which may hold "qkv": a whole, or three parts of it."""
    if ".attention.qkv." in name:  # Hugging Face's
        parts = [name.replace("qkv", part) for part in ("query", "key", "value")]
    elif name.endswith(".attn.qkv.bias") and any(n.endswith(".attn.q_bias") for n in tensors):
        parts = [name.replace("qkv.bias", f"{part}_bias") for part in "qkv"]
    else:
        return [name]
    biased = any(n.endswith((".attention.key.bias", ".attn.k_bias")) for n in tensors)
    return [
        part if biased or not part.endswith((".key.bias", ".k_bias")) else NO_KEY_BIAS
        for part in parts
    ]


def add_scales(blocks: list[Block]) -> None:
    """Parameters for layer scales, for `strict.fill` to find."""
    for block in blocks:
        for name in SCALED:
            block.register_parameter(name, nn.Parameter(torch.ones(block.mlp_out.out_features)))


@torch.no_grad()
def fold_scales(blocks: list[Block]) -> None:
    """scale * (weight x + bias) is (scale * weight) x + scale * bias."""
    for block in blocks:
        for name, layer_name in SCALED.items():
            if hasattr(block, name):
                scale, layer = block.get_parameter(name), block.get_submodule(layer_name)
                assert isinstance(layer, nn.Linear)
                layer.weight.mul_(scale[:, None])
                layer.bias.mul_(scale)
                delattr(block, name)


LAYOUTS = (
    Layout(name="ViT of timm, DINO, DINOv2 or BEiT", matches=is_timm, build=build_timm),
    Layout(
        name="Hugging Face ViTModel, FlavaImageModel, BeitModel",
        matches=is_hugging_face,
        build=build_hugging_face,
    ),
)
