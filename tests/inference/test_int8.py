"""Whole numbers of 8 bits: near to 32 bits, by a method of their own, and what they cannot do."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from flava.inference.int8 import (
    ROWS_AT_ONCE,
    InferencePrecision,
    Int8Linear,
    _quantizable_layers,
    _quantize_rows,
    to_precision,
)
from flava.inference.pretrained import Pretrained
from flava.models import Flava
from tests.data.shard_files import picture
from tests.inference.models import clip_processor, processor_of, tiny_clip
from tests.support import random_images, tiny_config, tiny_model

TEXTS = ["a b c d e f", "c d", "", "a"]
IMAGES = [picture(n, 20 + 3 * n, 30 - n) for n in range(len(TEXTS))]


def flava_in(precision: InferencePrecision) -> Pretrained:
    torch.manual_seed(0)
    model = tiny_model()
    return Pretrained(model, processor_of(model), precision=precision)


def clip_in(precision: InferencePrecision) -> Pretrained:
    torch.manual_seed(0)
    return Pretrained(tiny_clip(), clip_processor(), precision=precision)


def embeddings(pretrained: Pretrained) -> list[Tensor]:
    found = [pretrained.encode_image(IMAGES), pretrained.encode_text(TEXTS)]
    if isinstance(pretrained.model, Flava):
        found.append(pretrained.encode_pair(IMAGES, TEXTS))
    return found


def rounded(values: Tensor) -> Tensor:
    """Each row as whole numbers up to 127 times a number of its own."""
    scale = values.abs().amax(dim=-1, keepdim=True) / 127
    return (values / scale).round() * scale


@pytest.mark.parametrize("in_", [flava_in, clip_in])
def test_whole_numbers_are_near_to_32_bits(in_: Callable[[InferencePrecision], Pretrained]) -> None:
    exact, lower, whole = (
        embeddings(in_(each))
        for each in (InferencePrecision.FP32, InferencePrecision.BF16, InferencePrecision.INT8)
    )
    for expected, otherwise, found in zip(exact, lower, whole, strict=True):
        assert cosine_similarity(found, expected).min() > 0.999
        assert not torch.equal(found, otherwise)


def test_the_model_that_was_given_stays_as_it_was() -> None:
    model = tiny_model().eval()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    lower = to_precision(model, InferencePrecision.INT8)
    assert not any(isinstance(each, Int8Linear) for each in model.modules())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert lower.logit_scale is model.logit_scale


@pytest.mark.parametrize("precision", [InferencePrecision.BF16, InferencePrecision.INT8])
def test_codes_are_those_of_32_bits(precision: InferencePrecision) -> None:
    model = tiny_model().eval()
    pixels = random_images(tiny_config(), 32).codebook_pixels
    expected = model.codebook.codes(pixels)
    lower = to_precision(model, precision)
    assert isinstance(lower, Flava)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lower.codebook.codes(pixels), expected)


@pytest.mark.parametrize("tokens", [(1,), (3, 5), (ROWS_AT_ONCE + 1,), (3, ROWS_AT_ONCE)])
def test_a_product_is_that_of_rows_rounded_to_whole_numbers(tokens: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrix = nn.Linear(40, 24)
    states = torch.randn(*tokens, 40)
    states[..., 0] *= 50  # so that little is left of the others
    with torch.inference_mode():
        found = Int8Linear(matrix)(states)
        expected = rounded(states.double()) @ rounded(matrix.weight.double()).T + matrix.bias
        unrounded = matrix(states)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.bfloat16(), rtol=2**-8, atol=1e-3)
    assert (expected - unrounded).norm() > 0.01 * unrounded.norm()


def test_a_row_of_zeros_gives_the_bias() -> None:
    matrix = nn.Linear(8, 3)
    zeros = torch.zeros(2, 8)
    whole, step = _quantize_rows(zeros)
    assert not whole.any()
    assert (step > 0).all()  # what dividing by zero makes of a whole number is for nobody to say
    with torch.inference_mode():
        assert torch.equal(Int8Linear(matrix)(zeros)[1], matrix.bias.bfloat16())


def test_all_matrices_of_blocks_are_whole_but_those_that_are_read_in_parts() -> None:
    model = Flava(tiny_config())
    whole = {id(each) for each in _quantizable_layers(model)}
    left = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".blocks." in name and id(module) not in whole
    ]
    assert left == [
        f"{encoder}_encoder.blocks.{getattr(model.config, encoder).depth - 1}.attention.qkv"
        for encoder in ("image", "text", "multimodal")
    ]


def test_it_is_for_cpus_alone() -> None:
    with torch.device("meta"):
        model = Flava(tiny_config())
    with pytest.raises(ValueError, match="model is on meta: use bf16, or the device cpu"):
        to_precision(model, InferencePrecision.INT8)
