"""Image encoders: ViTs of timm, DINO, DINOv2, BEiT and of Hugging Face; read only.

They are recognised by the key of the patch embedding. All have the same pre-norm blocks as ours.
Two things do not come from the tensors: LayerNorm's epsilon (1e-6, but Hugging Face's configs tell
it) and the number of heads. Heads for classification or masked images are left out, and mask token
and pooler may be missing. Two things of BEiT are converted exactly: its layer scale is multiplied
into the weights that it scales, and the key bias that it does not have becomes a bias of zeros.
Relative position biases are refused: they are added within the attention, which no weights of ours
can express.
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
    activation_and_eps,
    check_config,
    config_section,
    count_blocks,
    head_count,
    raise_if_any,
    read_image_geometry,
    tensor_shapes,
)
from flava.checkpoints.layout import (
    TRANSFORMERS_BLOCKS,
    Checkpoint,
    KeyMapping,
    Layout,
    load_weights,
    published_keys,
    rename,
)
from flava.models.encoders import ImageConfig, ImageEncoder
from flava.models.transformer import Block

TIMM_EPS = 1e-6
"""Epsilon of LayerNorm in the ViTs of timm, DINO, DINOv2 and BEiT."""

NO_KEY_BIAS = "(zeros for the absent key bias)"

LAYER_SCALES = {"attention_scale": "attention.output", "mlp_scale": "mlp_out"}
"""The layer scales of a block -> the layer whose output each multiplies."""

OPTIONAL = ("mask_token", "pooler")
"""Parts of ours that a ViT may lack: a forward pass without a mask does not use them."""

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
"""(pattern of a key, why an encoder with such a key is refused)."""


@dataclass(frozen=True, kw_only=True)
class ViTNaming:
    """One way to name the parameters of a ViT."""

    mapping: KeyMapping
    prefixes: tuple[str, ...]
    """Prefixes that all keys of the encoder may have."""
    blocks: str
    """Pattern of a block's keys, whose first group is the number of the block."""
    heads: str
    """Pattern of the keys, without prefix, of heads, which are left out."""

    def prefix(self, checkpoint: Checkpoint) -> str | None:
        """The prefix that the keys have; None if the checkpoint is not named this way."""
        patches = rename("patches.weight", self.mapping)
        return next((p for p in self.prefixes if p + patches in checkpoint.state_dict), None)


TIMM = ViTNaming(
    mapping=(
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
    # Heads of classifiers, DINO, and the masked images of BEiT and iBOT.
    heads=r"(module\.)?(head|head_dist|pre_logits|lm_head)\.",
)

HUGGING_FACE = ViTNaming(
    mapping=(
        *TRANSFORMERS_BLOCKS,
        (r"^patches\.", "embeddings.patch_embeddings.projection."),
        (r"^positions$", "embeddings.position_embeddings"),
        (r"^(cls_token|mask_token)$", r"embeddings.\1"),
        (r"\.attention_scale$", ".lambda_1"),
        (r"\.mlp_scale$", ".lambda_2"),
    ),
    prefixes=("", "vit.", "beit.", "data2vec_vision.", "image_model.", "flava.image_model."),
    blocks=r"encoder\.layer\.(\d+)\.",
    heads=r"(classifier|lm_head|decoder)\.",
)


def _is_timm(checkpoint: Checkpoint) -> bool:
    return TIMM.prefix(checkpoint) is not None


def _is_hugging_face(checkpoint: Checkpoint) -> bool:
    prefix = HUGGING_FACE.prefix(checkpoint)
    if prefix is None:
        return False
    # The image encoder inside a whole FLAVA is not meant.
    return "image_model" not in prefix or all(
        name.startswith(prefix) for name in checkpoint.state_dict
    )


def _build_timm(checkpoint: Checkpoint) -> ImageEncoder:
    model_args = config_section(checkpoint, checkpoint.config, "model_args")
    return _build(checkpoint, TIMM, {"norm_eps": TIMM_EPS}, model_args.get("num_heads"))


def _build_hugging_face(checkpoint: Checkpoint) -> ImageEncoder:
    return _build(
        checkpoint, HUGGING_FACE, {}, _image_config(checkpoint).get("num_attention_heads")
    )


def _image_config(checkpoint: Checkpoint) -> Config:
    """The config of the image encoder, which in that of a whole FLAVA is a part."""
    return config_section(checkpoint, checkpoint.config, "image_config") or checkpoint.config or {}


NO_POSITIONS = "it has no absolute position embeddings"


def _build(
    checkpoint: Checkpoint, naming: ViTNaming, settings: Mapping[str, Any], given_heads: object
) -> ImageEncoder:
    """``settings`` and ``given_heads`` are what the layout or its config says of an encoder."""
    prefix = naming.prefix(checkpoint) or ""
    state_dict = _without_heads(checkpoint, naming, prefix)
    raise_if_any(
        [reason for pattern, reason in REFUSED if any(re.search(pattern, k) for k in state_dict)]
        + ([] if prefix + rename("positions", naming.mapping) in state_dict else [NO_POSITIONS]),
        f"{checkpoint.origin} computes what our image encoders cannot",
    )
    geometry = _read_geometry(checkpoint, naming, prefix)
    if naming is HUGGING_FACE:
        settings = activation_and_eps(checkpoint, _image_config(checkpoint), "", geometry)
    width = geometry["width"]
    if given_heads is None:
        given_heads = WIDE_VIT_HEADS.get(width)
    heads = head_count(checkpoint, width, given_heads)
    config = ImageConfig(**geometry, heads=heads, **settings)
    check_config(checkpoint, config, "image")
    model = ImageEncoder(config)
    _load_image_encoder(model, state_dict, naming, prefix, checkpoint.origin)
    return model.eval()


def _without_heads(checkpoint: Checkpoint, naming: ViTNaming, prefix: str) -> dict[str, Tensor]:
    """The state dict without the heads."""
    if prefix == "beit.":
        # A BEiT for masked images has, beside its own norm, one in its head.
        return {k: t for k, t in checkpoint.state_dict.items() if k.startswith(prefix)}
    return {
        key: tensor
        for key, tensor in checkpoint.state_dict.items()
        if not re.match(naming.heads, key.removeprefix(prefix))
    }


def _read_geometry(checkpoint: Checkpoint, naming: ViTNaming, prefix: str) -> dict[str, Any]:
    patches, positions, mlp = (
        prefix + rename(name, naming.mapping)
        for name in ("patches.weight", "positions", "blocks.0.mlp_in.weight")
    )
    geometry = read_image_geometry(checkpoint, patches, positions, 3)
    geometry["mlp_width"] = tensor_shapes(checkpoint, {mlp: 2})[0][0]
    geometry["depth"] = count_blocks(checkpoint.state_dict, re.escape(prefix) + naming.blocks)
    return geometry


def _load_image_encoder(
    model: ImageEncoder, state_dict: dict[str, Tensor], naming: ViTNaming, prefix: str, origin: str
) -> None:
    """Load the weights; layer scales, if there are any, are multiplied into what they scale.

    Raises:
        ValueError: as `load_weights`.
    """
    mapping = naming.mapping
    if any(key.endswith(".ls1.gamma") for key in state_dict):
        mapping = (*mapping, (r"\.gamma_(\d)$", r".ls\1.gamma"))
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if any(re.search(r"\.(gamma_\d|ls\d\.gamma|lambda_\d)$", key) for key in state_dict):
        _add_layer_scales(blocks)
    mask_token = prefix + rename("mask_token", mapping)
    if mask_token in state_dict and state_dict[mask_token].ndim == 2:  # as in DINOv2
        state_dict[mask_token] = state_dict[mask_token][None]
    state_dict[NO_KEY_BIAS] = model.norm.bias.new_zeros(model.norm.bias.shape)
    keys = published_keys(
        model.state_dict(), mapping, lambda key: _qkv_keys(prefix + key, state_dict)
    )
    model.missing_parts = frozenset(
        part
        for part in OPTIONAL
        if not any(k in state_dict for n, ks in keys.items() if n.startswith(part) for k in ks)
    )
    present = {n: k for n, k in keys.items() if not n.startswith(tuple(model.missing_parts))}
    load_weights(model, state_dict, present, origin=origin, ignored=(NO_KEY_BIAS,))
    _fold_layer_scales(blocks)


def _qkv_keys(key: str, state_dict: Mapping[str, Tensor]) -> list[str]:
    """The published keys of a renamed key: three for a ``qkv`` that the file has in parts."""
    if ".attention.qkv." in key:  # Hugging Face
        parts = [key.replace("qkv", part) for part in ("query", "key", "value")]
    elif key.endswith(".attn.qkv.bias") and any(k.endswith(".attn.q_bias") for k in state_dict):
        parts = [key.replace("qkv.bias", f"{part}_bias") for part in "qkv"]  # BEiT
    else:
        return [key]
    has_key_bias = any(k.endswith((".attention.key.bias", ".attn.k_bias")) for k in state_dict)
    return [
        part if has_key_bias or not part.endswith((".key.bias", ".k_bias")) else NO_KEY_BIAS
        for part in parts
    ]


def _add_layer_scales(blocks: list[Block]) -> None:
    """Add parameters into which `load_weights` loads the layer scales."""
    for block in blocks:
        for name in LAYER_SCALES:
            block.register_parameter(name, nn.Parameter(torch.ones(block.mlp_out.out_features)))


@torch.no_grad()
def _fold_layer_scales(blocks: list[Block]) -> None:
    """Multiply layer scales into weights: s * (W x + b) is (s * W) x + s * b."""
    for block in blocks:
        for name, layer_name in LAYER_SCALES.items():
            if hasattr(block, name):
                scale, layer = block.get_parameter(name), block.get_submodule(layer_name)
                assert isinstance(layer, nn.Linear)
                layer.weight.mul_(scale[:, None])
                layer.bias.mul_(scale)
                delattr(block, name)


LAYOUTS = (
    Layout(name="ViT of timm, DINO, DINOv2 or BEiT", matches=_is_timm, build=_build_timm),
    Layout(
        name="Hugging Face ViTModel, FlavaImageModel, BeitModel",
        matches=_is_hugging_face,
        build=_build_hugging_face,
    ),
)
