"""The dVAE's layouts beside transformers' and OpenAI's own models, on random weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import FlavaImageCodebook, FlavaImageCodebookConfig

from flava.checkpoints.codebooks import LAYOUTS
from flava.checkpoints.layout import Stored
from flava.core.batch import map_pixels
from flava.models import Codebook
from tests.checkpoints.checkpoints import recognised, saved, stored
from tests.golden.test_codebook import randomise_biases

GEOMETRIES = [(1, 20), (2, 8), (3, 4)]
"""Blocks of a group, and width."""


def published(blocks: int, width: int) -> FlavaImageCodebook:
    config = FlavaImageCodebookConfig(hidden_size=width, vocab_size=37, num_blocks_per_group=blocks)
    model = FlavaImageCodebook(config).eval()
    for parameter in model.parameters():
        fan_in = parameter[0].numel()
        torch.nn.init.normal_(parameter, std=3 * fan_in**-0.5 if parameter.ndim > 1 else 0.3)
    return model


@pytest.mark.parametrize(("blocks", "width"), GEOMETRIES)
@torch.no_grad()
def test_hugging_face(blocks: int, width: int, tmp_path: Path) -> None:
    theirs = published(blocks, width)
    ours = recognised(LAYOUTS, saved(theirs, tmp_path))
    assert isinstance(ours, Codebook)
    # Colours change by the patch: noise would leave the codes the same everywhere.
    pixels = map_pixels(torch.rand(3, 3, 3, 5).repeat_interleave(8, 2).repeat_interleave(8, 3))
    codes = ours.codes(pixels)
    assert len(codes.unique()) > 2
    assert torch.equal(codes, theirs.get_codebook_indices(pixels))
    logits = theirs(pixels)
    assert (ours.encoder(pixels) - logits).abs().max() < 1e-5 * logits.std()
    assert ours.missing_parts == {"decoder"}


@torch.no_grad()
def test_the_codebooks_part_of_a_whole_model(tmp_path: Path) -> None:
    checkpoint = saved(published(2, 8), tmp_path)
    part = {f"image_codebook.{name}": tensor for name, tensor in checkpoint.tensors.items()}
    whole, alone = recognised(LAYOUTS, stored(part)), recognised(LAYOUTS, checkpoint)
    assert isinstance(whole, Codebook)
    assert isinstance(alone, Codebook)
    pixels = torch.rand(2, 3, 16, 16)
    assert torch.equal(whole.encoder(pixels), alone.encoder(pixels))
    others = {"flava.logit_scale": torch.ones(())}
    assert not any(layout.matches(stored({**part, **others})) for layout in LAYOUTS)


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("blocks", [1, 3])
@torch.no_grad()
def test_openai(blocks: int) -> None:
    dall_e = pytest.importorskip("dall_e", reason="OpenAI's package of the dVAE is not installed")
    encoder = dall_e.Encoder(n_hid=64, n_blk_per_group=blocks, vocab_size=513)
    decoder = dall_e.Decoder(n_init=24, n_hid=64, n_blk_per_group=blocks, vocab_size=513)
    for parameter in (*encoder.parameters(), *decoder.parameters()):
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    pixels = map_pixels(torch.rand(2, 3, 24, 16))
    logits = encoder(pixels)

    alone = recognised(LAYOUTS, stored(encoder.state_dict()))
    assert isinstance(alone, Codebook)
    assert alone.missing_parts == {"decoder"}
    assert torch.equal(alone.codes(pixels), logits.argmax(dim=1))
    torch.testing.assert_close(alone.encoder(pixels), logits, rtol=0, atol=1e-5)

    both = {
        **prefixed("encoder.", encoder.state_dict()),
        **prefixed("decoder.", decoder.state_dict()),
    }
    ours = recognised(LAYOUTS, stored(both))
    assert isinstance(ours, Codebook)
    assert ours.missing_parts == frozenset()
    codes = torch.randint(513, (2, 3, 2))
    one_hot = torch.nn.functional.one_hot(codes, 513).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(ours.encoder(pixels), logits, rtol=0, atol=1e-5)
    statistics = decoder(one_hot)
    assert statistics.std() > 0.1
    torch.testing.assert_close(ours.decoder(one_hot), statistics, rtol=0, atol=1e-5)

    with pytest.raises(ValueError, match="it is a decoder alone, which gives no codes"):
        recognised(LAYOUTS, stored(decoder.state_dict()))


def test_the_absent_decoder_is_whole_with_initial_weights(tmp_path: Path) -> None:
    ours = recognised(LAYOUTS, saved(published(1, 4), tmp_path))
    assert isinstance(ours, Codebook)
    assert ours.decode(torch.zeros(1, 2, 3, dtype=torch.long)).shape == (1, 3, 16, 24)
    whole = Codebook(ours.config)
    randomise_biases(whole)
    assert whole.missing_parts == frozenset()


def refusal(checkpoint: Stored) -> list[str]:
    with pytest.raises(ValueError, match=r"\S") as error:
        recognised(LAYOUTS, checkpoint)
    return str(error.value).splitlines()[1:]


def test_every_misfit_stands_in_one_error(tmp_path: Path) -> None:
    checkpoint = saved(published(1, 4), tmp_path)
    tensors = dict(checkpoint.tensors)
    del tensors["blocks.group_2.group.block_1.id_path.weight"]
    tensors["blocks.group_5.group.block_1.id_path.weight"] = torch.zeros(1)
    tensors["blocks.input.bias"] = torch.zeros(5)
    assert refusal(replace(checkpoint, tensors=tensors)) == [
        "  missing: blocks.group_2.group.block_1.id_path.weight",
        "  unexpected: blocks.group_5.group.block_1.id_path.weight",
        "  blocks.input.bias is [5] in the file, [4] in the model",
    ]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("hidden_size", 8, "hidden_size is 8, but the tensors have 4"),
        ("vocab_size", 8192, "vocab_size is 8192, but the tensors have 37"),
        ("num_blocks_per_group", 2, "num_blocks_per_group is 2, but the tensors have 1"),
    ],
)
def test_a_config_that_disagrees(field: str, value: int, reason: str, tmp_path: Path) -> None:
    checkpoint = saved(published(1, 4), tmp_path)
    config = {**(checkpoint.config or {}), field: value}
    assert refusal(replace(checkpoint, config=config)) == [f"  {reason}"]


def test_a_width_that_blocks_cannot_quarter() -> None:
    state = {f"blocks.{name}": torch.zeros(6, 3, 7, 7) for name in ("input.w", "output.conv.w")}
    assert refusal(stored({**state, "blocks.group_1.block_1.id_path.b": torch.zeros(6)})) == [
        "  codebook.width is 6: it should be a multiple of 4"
    ]
