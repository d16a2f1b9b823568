"""ViTs' layouts beside timm's and transformers' own models, on random weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import (
    BeitConfig,
    BeitForMaskedImageModeling,
    BeitModel,
    FlavaImageConfig,
    FlavaImageModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from flava.checkpoints.image_encoders import LAYOUTS
from flava.checkpoints.layout import Checkpoint
from flava.models import ImageEncoder
from tests.checkpoints.checkpoints import recognised, saved, spread, stored
from tests.support import randomise

ODD = {"img_size": 15, "patch_size": 5, "embed_dim": 42, "depth": 3, "num_heads": 7}
HEADS = {"architecture": "vit_odd", "model_args": {"num_heads": 7}}
USUAL = {"img_size": 24, "patch_size": 8, "embed_dim": 128, "depth": 1, "num_heads": 2}
"""Two heads of 64 each, as every width tells that is a multiple of it."""


def timm_vit(**arguments: Any) -> VisionTransformer:
    model = VisionTransformer(**{**ODD, "mlp_ratio": 1.5, "num_classes": 11, **arguments}).eval()
    randomise(model)
    return model


def timm_beit(**arguments: Any) -> Beit:
    settings = {"mlp_ratio": 2.5, "num_classes": 11, "global_pool": "token", "init_values": 0.1}
    model = Beit(**{**ODD, **settings, **arguments}).eval()
    randomise(model)
    return model


def build(checkpoint: Checkpoint) -> ImageEncoder:
    model = recognised(LAYOUTS, checkpoint)
    assert isinstance(model, ImageEncoder)
    return model


def compare(ours: ImageEncoder, published: Callable[[Tensor], Tensor], side: int) -> None:
    """The states after the final norm."""
    pixels = torch.randn(3, 3, side, side)
    states = ours.norm(ours(pixels))
    assert spread(states) > 0.5
    torch.testing.assert_close(states, published(pixels), rtol=0, atol=1e-5)


@torch.no_grad()
def test_timm_with_a_config() -> None:
    theirs = timm_vit()
    ours = build(stored(theirs.state_dict(), config=HEADS))
    compare(ours, theirs.forward_features, 15)
    assert ours.missing_parts == {"mask_token", "pooler"}


@torch.no_grad()
def test_timm_without_one() -> None:
    theirs = timm_vit(**USUAL)
    compare(build(stored(theirs.state_dict())), theirs.forward_features, 24)


@torch.no_grad()
def test_layer_scale_goes_into_the_weights() -> None:
    """As in DINOv2 and DeiT III; DINOv2's mask token has an axis less than ours."""
    theirs = timm_vit(init_values=0.1)
    token = torch.randn(1, 42)
    ours = build(stored({**theirs.state_dict(), "mask_token": token}, config=HEADS))
    compare(ours, theirs.forward_features, 15)
    assert torch.equal(ours.mask_token[0], token)
    assert ours.missing_parts == {"pooler"}


DINO_HEAD = ("mlp.0.weight", "mlp.0.bias", "last_layer.weight_g", "last_layer.weight_v")
"""The names of its projection head, which an encoder does without."""


@pytest.mark.parametrize(
    ("prefix", "head"),
    [
        ("", False),  # dino_vitbase16_pretrain.pth
        ("backbone.", True),  # the teacher of a full checkpoint
        ("module.backbone.", True),  # its student
    ],
)
@torch.no_grad()
def test_dino(prefix: str, head: bool) -> None:
    """DINO's ViT has timm's names, and LayerNorms with its epsilon of 1e-6."""
    theirs = timm_vit(num_classes=0)
    state = {prefix + name: tensor for name, tensor in theirs.state_dict().items()}
    if head:
        outside = prefix.removesuffix("backbone.") + "head."
        state |= {outside + name: torch.zeros(2) for name in DINO_HEAD}
    compare(build(stored(state, config=HEADS)), theirs.forward_features, 15)


@torch.no_grad()
def test_the_epsilon_is_the_published_one() -> None:
    """Patches of nearly one colour have so little variance that another epsilon would be seen."""
    theirs = timm_vit()
    for name in ("pos_embed", "cls_token", "patch_embed.proj.bias"):
        theirs.get_parameter(name).mul_(1e-3)
    ours = build(stored(theirs.state_dict(), config=HEADS))
    pixels = 1e-4 * torch.randn(2, 3, 15, 15)
    expected = theirs.forward_features(pixels)
    torch.testing.assert_close(ours.norm(ours(pixels)), expected, rtol=0, atol=1e-5)
    for module in ours.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-12
    assert (ours.norm(ours(pixels)) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_beit_with_absolute_positions() -> None:
    """Its layer scale, and its queries and values with a bias beside keys without."""
    theirs = timm_beit()
    assert any(name.endswith("gamma_1") for name in theirs.state_dict())
    assert any(name.endswith("q_bias") for name in theirs.state_dict())
    compare(build(stored(theirs.state_dict(), config=HEADS)), theirs.forward_features, 15)


HUGGING_FACE = {
    "hidden_size": 45,
    "num_attention_heads": 5,
    "intermediate_size": 33,
    "num_hidden_layers": 2,
    "image_size": 21,
    "patch_size": 7,
    "layer_norm_eps": 1e-4,
}


def beit_config(**arguments: Any) -> BeitConfig:
    settings = {
        "use_absolute_position_embeddings": True,
        "use_mask_token": True,
        "use_mean_pooling": False,
        "vocab_size": 13,
    }
    return BeitConfig(**{**HUGGING_FACE, **settings, **arguments})


def patch_mask() -> Tensor:
    return torch.rand(3, 9) < 0.5


@pytest.mark.parametrize("size", [21, 35], ids=["its own size", "a larger one"])
@torch.no_grad()
def test_hugging_face_vit(size: int, tmp_path: Path) -> None:
    theirs = ViTModel(ViTConfig(**HUGGING_FACE, hidden_act="quick_gelu")).eval()  # pyright: ignore
    randomise(theirs)
    ours = build(saved(theirs, tmp_path))
    compare(ours, lambda x: theirs(x, interpolate_pos_encoding=True).last_hidden_state, size)
    pixels = torch.randn(2, 3, 21, 21)
    pooled = ours.pooler(ours.norm(ours(pixels)))
    torch.testing.assert_close(pooled, theirs(pixels).pooler_output, rtol=0, atol=1e-5)
    assert ours.missing_parts == {"mask_token"}


@torch.no_grad()
def test_hugging_face_vit_with_a_classifier(tmp_path: Path) -> None:
    theirs = ViTForImageClassification(ViTConfig(**HUGGING_FACE)).eval()  # pyright: ignore
    randomise(theirs)
    ours = build(saved(theirs, tmp_path))
    compare(ours, lambda x: theirs.vit(x).last_hidden_state, 21)
    assert ours.missing_parts == {"mask_token", "pooler"}


@pytest.mark.parametrize("prefix", ["", "image_model.", "flava.image_model."])
@torch.no_grad()
def test_hugging_face_flava(prefix: str, tmp_path: Path) -> None:
    theirs = FlavaImageModel(FlavaImageConfig(**HUGGING_FACE)).eval()  # pyright: ignore
    randomise(theirs)
    alone = saved(theirs, tmp_path)
    ours = build(replace(alone, state_dict={prefix + n: t for n, t in alone.state_dict.items()}))
    assert ours.missing_parts == frozenset()
    compare(ours, lambda x: theirs(x).last_hidden_state, 21)
    pixels, hidden = torch.randn(3, 3, 21, 21), patch_mask()
    expected = theirs(pixels, bool_masked_pos=hidden.clone()).last_hidden_state
    states = ours.norm(ours(pixels, hidden.view(3, 3, 3)))
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-5)


def test_the_image_encoder_of_a_whole_flava_is_no_image_encoder(tmp_path: Path) -> None:
    alone = saved(FlavaImageModel(FlavaImageConfig(**HUGGING_FACE)), tmp_path)  # pyright: ignore
    whole = {f"flava.image_model.{name}": tensor for name, tensor in alone.state_dict.items()}
    whole["flava.text_model.layernorm.weight"] = torch.ones(45)
    assert not any(layout.matches(stored(whole)) for layout in LAYOUTS)


@pytest.mark.parametrize("cls", [BeitModel, BeitForMaskedImageModeling])
@torch.no_grad()
def test_hugging_face_beit(cls: type, tmp_path: Path) -> None:
    theirs = cls(beit_config()).eval()
    randomise(theirs)
    checkpoint = saved(theirs, tmp_path)
    assert not any(name.endswith("key.bias") for name in checkpoint.state_dict)
    ours = build(checkpoint)
    beit = theirs if cls is BeitModel else theirs.beit
    compare(ours, lambda x: beit(x).last_hidden_state, 21)
    pixels, hidden = torch.randn(3, 3, 21, 21), patch_mask()
    expected = beit(pixels, bool_masked_pos=hidden).last_hidden_state
    states = ours.norm(ours(pixels, hidden.view(3, 3, 3)))
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-5)


def refusal(checkpoint: Checkpoint) -> list[str]:
    with pytest.raises(ValueError, match=r"\S") as error:
        build(checkpoint)
    return str(error.value).splitlines()


RELATIVE = "it adds relative position biases to its attention scores"
POSITIONS = "it has no absolute position embeddings"


@pytest.mark.parametrize("kind", ["use_rel_pos_bias", "use_shared_rel_pos_bias"])
def test_relative_positions_are_refused(kind: str) -> None:
    published = timm_beit(use_abs_pos_emb=False, **{kind: True}).state_dict()
    assert [line.strip().split(",")[0] for line in refusal(stored(published))[1:]] == [
        RELATIVE,
        POSITIONS,
    ]
    assert RELATIVE in refusal(stored(timm_beit(**{kind: True}).state_dict()))[1]


@pytest.mark.parametrize(
    "kind", ["use_relative_position_bias", "use_shared_relative_position_bias"]
)
def test_relative_positions_of_transformers_are_refused(kind: str, tmp_path: Path) -> None:
    model = BeitModel(beit_config(use_absolute_position_embeddings=False, **{kind: True}))
    told = refusal(saved(model, tmp_path))
    assert RELATIVE in told[1]
    assert POSITIONS in told[2]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"pre_norm": True}, "it has a LayerNorm before its blocks"),
        ({"reg_tokens": 2}, "it has more tokens than [CLS] and the patches"),
        ({"global_pool": "avg"}, "its norm is that of the patches' mean"),
        ({"qk_norm": True}, "it normalises within its attention"),
        ({"pos_embed": "none"}, POSITIONS),
    ],
)
def test_other_vits_are_refused(arguments: dict[str, Any], reason: str) -> None:
    told = refusal(stored(timm_vit(**arguments).state_dict(), config=HEADS))
    assert any(reason in line for line in told[1:])


def test_a_beit_without_a_norm_of_cls_is_refused(tmp_path: Path) -> None:
    told = refusal(saved(BeitModel(beit_config(use_mean_pooling=True)), tmp_path))
    assert "its norm is that of the patches' mean, and it has none for [CLS]" in told[1]


def test_every_misfit_stands_in_one_error() -> None:
    state = dict(timm_beit().state_dict())
    del state["blocks.1.attn.q_bias"]
    del state["cls_token"]
    state["blocks.0.gamma_2"] = torch.zeros(41)
    state["blocks.2.attn.qkv.weight"] = torch.zeros(125, 42)
    state["mystery"] = torch.zeros(1)
    assert refusal(stored(state, config=HEADS))[1:] == [
        "  missing: blocks.1.attn.q_bias",
        "  missing: cls_token",
        "  unexpected: mystery",
        "  blocks.0.gamma_2 is [41] in the file, [42] in the model",
        "  blocks.2.attn.qkv.weight is [125, 42] in the file, [126, 42] in the model",
    ]


def test_untold_heads() -> None:
    told = refusal(stored(timm_vit().state_dict()))
    assert "does not tell how many attention heads it has, and its width 42" in told[0]


@pytest.mark.parametrize(
    ("width", "count"), [(192, 3), (768, 12), (1024, 16), (1280, 16), (1664, 16)]
)
def test_the_heads_of_usual_widths(width: int, count: int) -> None:
    """ViT-H and ViT-G have 16, though 64 would divide their widths."""
    model = timm_vit(embed_dim=width, num_heads=1, depth=1, mlp_ratio=0.1)
    attention = build(stored(model.state_dict())).blocks[0].attention
    assert attention.heads == count  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("hidden_size", 48, "hidden_size is 48, but the tensors have 45"),
        ("num_hidden_layers", 12, "num_hidden_layers is 12, but the tensors have 2"),
        ("patch_size", 16, "patch_size is 16, but the tensors have 7"),
        ("hidden_act", "swish", "hidden_act is 'swish': ours compute gelu, quick_gelu"),
        ("num_attention_heads", 4, "image.heads is 4, which does not divide image.width 45"),
        ("layer_norm_eps", -1.0, "image.norm_eps is -1.0: it should be greater than 0"),
    ],
)
def test_a_config_that_does_not_fit(field: str, value: object, reason: str, tmp_path: Path) -> None:
    checkpoint = saved(ViTModel(ViTConfig(**HUGGING_FACE)), tmp_path)  # pyright: ignore
    told = refusal(replace(checkpoint, config={**(checkpoint.config or {}), field: value}))
    assert told[1:] == [f"  {reason}"]
