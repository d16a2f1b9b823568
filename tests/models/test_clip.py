"""CLIP by itself; `tests/checkpoints/test_clip_layouts.py` has it beside the published models."""

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from flava.checkpoints.clip_openai import NAMES as OPENAI
from flava.checkpoints.layout import rename
from flava.models import Activation, Clip, ClipConfig, ClipImageConfig, ClipTextConfig
from tests.support import randomise


def tiny() -> Clip:
    image = ClipImageConfig(image_size=12, patch_size=4, width=24, depth=2, heads=3, mlp_width=20)
    text = ClipTextConfig(
        vocabulary_size=31, max_length=9, width=20, depth=2, heads=5, mlp_width=28
    )
    model = Clip(ClipConfig(image=image, text=text, projection_width=16)).eval()
    randomise(model)
    return model


def test_weights_start_as_the_published_ones() -> None:
    """The same spread of every parameter as open_clip's, which is OpenAI's."""
    image = CLIPVisionCfg(layers=2, width=128, patch_size=8, image_size=64)
    text = CLIPTextCfg(context_length=20, vocab_size=100, width=64, heads=1, layers=3)
    theirs = CLIP(48, image, text).state_dict()
    ours = Clip(
        ClipConfig(
            image=ClipImageConfig(
                image_size=64, patch_size=8, width=128, depth=2, heads=2, mlp_width=512
            ),
            text=ClipTextConfig(
                vocabulary_size=100, max_length=20, width=64, depth=3, heads=1, mlp_width=256
            ),
            projection_width=48,
        )
    )
    for name, tensor in ours.state_dict().items():
        published = theirs[rename(name, OPENAI).removesuffix(" (transposed)")]
        assert tensor.numel() == published.numel()
        if published.numel() == 1:
            assert tensor.item() == published.item()
            continue
        # The spread of n draws has a relative standard error of at most 1 / sqrt(2 n).
        error = 5 * (2 * tensor.numel()) ** -0.5 * 2**0.5
        assert tensor.std() == pytest.approx(published.std().item(), rel=error), name
        assert tensor.mean() == pytest.approx(
            published.mean().item(),
            abs=5 * published.std().item() * tensor.numel() ** -0.5 * 2**0.5,
        ), name


def test_the_default_is_the_papers_vit_b_16() -> None:
    """Table 19 of the paper: 86 and 63 million parameters or so, in both encoders 12 blocks."""
    with torch.device("meta"):
        ours = Clip(ClipConfig())
        theirs = CLIP(512, CLIPVisionCfg(), CLIPTextCfg())
    mine = {
        rename(name, OPENAI).removesuffix(" (transposed)"): tensor.numel()
        for name, tensor in ours.state_dict().items()
    }
    assert mine == {name: tensor.numel() for name, tensor in theirs.state_dict().items()}
    assert sum(mine.values()) == 149_620_737
    assert ours.config.image.activation is ours.config.text.activation is Activation.QUICK_GELU


@torch.no_grad()
def test_a_state_has_seen_only_what_is_before_it() -> None:
    model = tiny()
    input_ids = torch.randint(31, (2, 9))
    attention_mask = torch.ones_like(input_ids, dtype=torch.bool)
    before = model.text_encoder(input_ids, attention_mask)
    for place in range(9):
        changed = input_ids.clone()
        changed[:, place] = (input_ids[:, place] + 1) % 31
        moved = (model.text_encoder(changed, attention_mask) - before).abs().amax(dim=(0, 2)) > 1e-6
        assert moved.tolist() == [i >= place for i in range(9)]


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    """Neither how much there is, nor which id stands there."""
    model = tiny()
    input_ids = torch.randint(30, (3, 5))
    input_ids[:, 4] = 30
    expected = model.encode_text(input_ids, torch.ones_like(input_ids, dtype=torch.bool))
    for padding in (0, 7, 30):
        padded = torch.cat([input_ids, torch.full((3, 4), padding)], dim=1)
        attention_mask = torch.arange(9).expand(3, 9) < 5
        torch.testing.assert_close(model.encode_text(padded, attention_mask), expected)


@torch.no_grad()
def test_features_are_unit_vectors_in_32_bits() -> None:
    model = tiny()
    with torch.autocast("cpu", torch.bfloat16):
        image = model.encode_image(torch.randn(2, 3, 12, 12))
    assert image.dtype == torch.float32
    torch.testing.assert_close(image.norm(dim=1), torch.ones(2))


def test_every_mistake_stands_in_one_error() -> None:
    with pytest.raises(ValueError, match="geometry does not hold") as error:
        ClipConfig(
            image=ClipImageConfig(image_size=30, patch_size=7, norm_eps=0.0),
            text=ClipTextConfig(heads=7, max_length=1),
            projection_width=0,
        )
    assert str(error.value).splitlines()[1:] == [
        "  image.norm_eps is 0.0: it should be greater than 0",
        "  image.image_size is 30: use a positive multiple of image.patch_size 7",
        "  text.max_length is 1: it should be greater than or equal to 2",
        "  text.heads is 7, which does not divide text.width 512",
        "  projection_width is 0: it should be greater than 0",
    ]


def test_what_does_not_fit_the_encoders_is_named() -> None:
    model = tiny()
    with pytest.raises(ValueError, match="12 x 13 pixels is not whole patches of 4"):
        model.encode_image(torch.zeros(1, 3, 12, 13))
    with pytest.raises(ValueError, match="10 tokens is longer than the encoder's max_length 9"):
        model.encode_text(torch.zeros(1, 10, dtype=torch.long), torch.ones(1, 10, dtype=torch.bool))
