import torch

from flava.models import Codebook, CodebookConfig
from flava.models.codebook import Residual

TINY = CodebookConfig(codes=23, width=8, blocks=1, decoder_input_width=6)


@torch.no_grad()
def test_codes_are_a_code_for_eight_pixels_each_way() -> None:
    codebook = Codebook(TINY)
    codes = codebook.codes(torch.rand(2, 3, 24, 40))
    assert codes.shape == (2, 3, 5)
    assert codes.dtype == torch.int64
    assert 0 <= codes.min() <= codes.max() < 23


@torch.no_grad()
def test_codes_of_some_patches_are_those_of_all() -> None:
    codebook = Codebook(CodebookConfig(codes=64, width=16, blocks=1))
    pixels, patch_mask = torch.rand(3, 3, 24, 40), torch.rand(3, 3, 5) < 0.4
    codes = codebook.codes(pixels)[patch_mask]
    assert len(codes.unique()) > 3
    assert torch.equal(codebook.codes_at(pixels, patch_mask), codes)
    assert not codebook.codes_at(pixels, torch.zeros_like(patch_mask)).numel()


def test_decoding_any_code_gives_a_picture() -> None:
    codebook = Codebook(TINY)
    torch.nn.init.normal_(codebook.decoder.output.weight, std=20)  # far out of any range
    picture = codebook.decode(torch.arange(23)[None, None])
    assert picture.shape == (1, 3, 8, 184)
    assert picture.min() == 0
    assert picture.max() == 1


@torch.no_grad()
def test_what_a_code_shows_stays_near_it() -> None:
    """The decoder is convolutional: a far code does not change the pixels here."""
    codebook = Codebook(TINY)
    codes = torch.randint(23, (1, 1, 12))
    changed = codes.clone()
    changed[..., -1] = (codes[..., -1] + 1) % 23
    before, after = codebook.decode(codes), codebook.decode(changed)
    assert torch.equal(before[..., :16], after[..., :16])
    assert not torch.equal(before[..., -8:], after[..., -8:])


def test_the_residual_gain_follows_the_depth() -> None:
    """1 / layers squared, OpenAI's post_gain: 1/64 at two blocks in each of four groups."""
    codebook = Codebook(CodebookConfig(codes=8, width=4, blocks=2))
    gains = [module.gain for module in codebook.modules() if isinstance(module, Residual)]
    assert gains == [1 / 64] * 16
