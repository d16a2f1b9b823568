"""The dVAE beside transformers' encoder and OpenAI's encoder and decoder, on random weights."""

import re

import pytest
import torch
from torch import Tensor
from transformers import FlavaImageCodebook, FlavaImageCodebookConfig

from flava.checkpoints.flava_huggingface import KEY_MAPPING as NAMES
from flava.checkpoints.layout import rename
from flava.core.batch import map_pixels, unmap_pixels
from flava.models import Codebook, CodebookConfig


def published_encoder_state(codebook: Codebook) -> dict[str, Tensor]:
    state = codebook.encoder.state_dict()
    prefix = "image_codebook."
    return {
        rename(f"codebook.encoder.{n}", NAMES).removeprefix(prefix): t for n, t in state.items()
    }


@pytest.mark.parametrize(("blocks", "width"), [(1, 20), (2, 16), (3, 4)])
@torch.no_grad()
def test_encoder_is_the_published_one(blocks: int, width: int) -> None:
    ours = Codebook(CodebookConfig(codes=301, width=width, blocks=blocks))
    randomise_biases(ours)
    theirs = FlavaImageCodebook(
        FlavaImageCodebookConfig(hidden_size=width, vocab_size=301, num_blocks_per_group=blocks)
    )
    theirs.load_state_dict(published_encoder_state(ours), strict=True)
    pixels = map_pixels(torch.rand(3, 3, 40, 56))
    assert ours.codes(pixels).shape == (3, 5, 7)
    assert torch.equal(ours.codes(pixels), theirs.get_codebook_indices(pixels))
    torch.testing.assert_close(ours.encoder(pixels), theirs(pixels), rtol=1e-5, atol=1e-6)


def openai_state(part: torch.nn.Module) -> dict[str, Tensor]:
    """OpenAI's names, which are the published ones without `group` and `path`, with w and b."""
    renamed = {rename(f"codebook.encoder.{n}", NAMES): t for n, t in part.state_dict().items()}
    return {
        re.sub(r"\.weight$", ".w", re.sub(r"\.bias$", ".b", name))
        .removeprefix("image_codebook.")
        .replace(".group.", ".")
        .replace(".path.", "."): tensor
        for name, tensor in renamed.items()
    }


@pytest.mark.parametrize("blocks", [1, 2])
@torch.no_grad()
def test_encoder_and_decoder_are_openais(blocks: int) -> None:
    dall_e = pytest.importorskip("dall_e", reason="OpenAI's package of the dVAE is not installed")
    ours = Codebook(CodebookConfig(codes=512, width=64, blocks=blocks, decoder_input_width=24))
    randomise_biases(ours)
    encoder = dall_e.Encoder(n_hid=64, n_blk_per_group=blocks, vocab_size=512)
    encoder.load_state_dict(openai_state(ours.encoder), strict=True)
    decoder = dall_e.Decoder(n_init=24, n_hid=64, n_blk_per_group=blocks, vocab_size=512)
    decoder.load_state_dict(openai_state(ours.decoder), strict=True)

    picture = torch.rand(2, 3, 24, 16)
    pixels = map_pixels(picture)
    assert torch.equal(pixels, dall_e.map_pixels(picture))
    logits = encoder(pixels)
    torch.testing.assert_close(ours.encoder(pixels), logits, rtol=1e-5, atol=1e-6)
    assert torch.equal(ours.codes(pixels), logits.argmax(dim=1))

    # As in OpenAI's notebook `usage.ipynb`.
    codes = torch.randint(512, (2, 3, 2))
    one_hot = torch.nn.functional.one_hot(codes, 512).permute(0, 3, 1, 2).float()
    statistics = decoder(one_hot).float()
    torch.testing.assert_close(ours.decoder(one_hot), statistics, rtol=1e-5, atol=1e-5)
    shown = dall_e.unmap_pixels(torch.sigmoid(statistics[:, :3]))
    torch.testing.assert_close(ours.decode(codes), shown, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(unmap_pixels(pixels), dall_e.unmap_pixels(pixels), rtol=0, atol=0)


@torch.no_grad()
def randomise_biases(codebook: Codebook) -> None:
    """A bias is zero at first, where neither its place nor its absence would be seen."""
    for name, parameter in codebook.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(std=0.3)


@torch.no_grad()
def test_weights_start_as_openais() -> None:
    """The same spread of every convolution, hence the same spread of the first outputs."""
    dall_e = pytest.importorskip("dall_e", reason="OpenAI's package of the dVAE is not installed")
    ours = Codebook(CodebookConfig(codes=512, width=64, blocks=1))
    theirs = dall_e.Encoder(n_hid=64, n_blk_per_group=1, vocab_size=512).state_dict()
    for name, tensor in openai_state(ours.encoder).items():
        spread = theirs[name].std()
        # The spread of n normal draws has a relative standard error of 1 / sqrt(2 n).
        error = 5 * (2 * tensor.numel()) ** -0.5 if tensor.numel() > 1 else 0
        torch.testing.assert_close(tensor.std(), spread, rtol=2 * error, atol=0)
