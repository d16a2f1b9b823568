"""DALL-E's discrete VAE (dVAE; Ramesh et al. 2021).

Its encoder computes the codes that are the targets of masked image modelling, and its decoder turns
codes into images. The encoder has four groups of residual blocks, of 1, 2, 4 and 8 times the width,
with a max-pooling by two after each of the first three. So an image of 8h x 8w pixels has h x w
codes.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from flava.core.batch import unmap_pixels
from flava.core.constraints import config_errors
from flava.models.config import Model, ModelConfig
from flava.models.packing import select_masked

GROUPS = 4


@dataclass(frozen=True, kw_only=True)
class CodebookConfig(ModelConfig):
    """Geometry of the dVAE; the defaults are DALL-E's published encoder and decoder."""

    codes: PositiveInt = 8192
    """Number of different codes: the size of the visual vocabulary."""
    width: Annotated[int, Field(gt=0, multiple_of=4)] = 256
    """Channels of the encoder's first group of blocks, and of the decoder's last."""
    blocks: PositiveInt = 2
    """Residual blocks in each of the four groups."""
    decoder_input_width: PositiveInt = 128
    """Channels of the decoder's first layer, which embeds the codes."""

    def __post_init__(self) -> None:
        """Checked with the model that it is a part of, so that one error lists all; or by
        `Codebook`."""


class Residual(nn.Module):
    """identity + gain * (four times ReLU, convolution), a quarter of the width inside.

    The encoder's kernels are 3, 3, 3, 1; the decoder's are the reverse.
    """

    def __init__(self, inside: int, outside: int, kernels: tuple[int, ...], gain: float) -> None:
        super().__init__()
        hidden = outside // 4
        self.gain = gain
        self.identity = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()
        widths = [inside, hidden, hidden, hidden, outside]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], kernel, padding=kernel // 2)
            for i, kernel in enumerate(kernels)
        )

    def forward(self, x: Float[Tensor, "batch inside h w"]) -> Float[Tensor, "batch outside h w"]:
        y = x
        for convolution in self.convolutions:
            y = convolution(functional.relu(y))
        return torch.add(self.identity(x), y, alpha=self.gain)


def _residual_groups(
    widths: list[int], blocks: int, kernels: tuple[int, ...], gain: float
) -> nn.ModuleList:
    """A group of ``blocks`` residual blocks for each two neighbours of ``widths``."""
    return nn.ModuleList(
        nn.Sequential(
            *(Residual(before if b == 0 else after, after, kernels, gain) for b in range(blocks))
        )
        for before, after in pairwise(widths)
    )


class CodebookEncoder(nn.Module):
    """Mapped pixels -> logits over the codes."""

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        widths = [config.width * factor for factor in (1, 1, 2, 4, 8)]
        gain = 1 / (GROUPS * config.blocks) ** 2
        self.input = nn.Conv2d(3, config.width, 7, padding=3)
        self.groups = _residual_groups(widths, config.blocks, (3, 3, 3, 1), gain)
        self.output = nn.Conv2d(widths[-1], config.codes, 1)

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch codes rows columns"]:
        return self.output(self.states(pixels))

    def states(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        """The states before the last, linear layer."""
        x = self.input(pixels)
        for number, group in enumerate(self.groups):
            x = group(functional.max_pool2d(x, 2) if number else x)
        return functional.relu(x)


class CodebookDecoder(nn.Module):
    """One-hot or relaxed codes -> mean and log scale of each mapped pixel's logit-Laplace."""

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        widths = [config.decoder_input_width, *(config.width * f for f in (8, 4, 2, 1))]
        gain = 1 / (GROUPS * config.blocks) ** 2
        self.input = nn.Conv2d(config.codes, config.decoder_input_width, 1)
        self.groups = _residual_groups(widths, config.blocks, (1, 3, 3, 3), gain)
        self.output = nn.Conv2d(config.width, 2 * 3, 1)

    def forward(
        self, codes: Float[Tensor, "batch codes rows columns"]
    ) -> Float[Tensor, "batch 6 height width"]:
        x = self.input(codes)
        for number, group in enumerate(self.groups):
            x = group(functional.interpolate(x, scale_factor=2.0) if number else x)
        return self.output(functional.relu(x))


class Codebook(Model):
    """The dVAE: pixels to codes and back."""

    config: CodebookConfig
    missing_parts: frozenset[str] = frozenset()
    """Prefixes of parameters that the loaded file did not hold: they are still as at the start."""

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        if errors := config_errors(config, "codebook."):
            raise ValueError("\n".join(errors))
        self.config = config
        self.encoder = CodebookEncoder(config)
        self.decoder = CodebookDecoder(config)
        self.apply(initialise_convolution)
        # In this layout, convolutions on the CPU take two thirds of the time (docs/log.md).
        self.to(memory_format=torch.channels_last)

    def codes(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Int[Tensor, "batch rows columns"]:
        """The most likely code of each 8x8 patch of mapped pixels (see `batch.map_pixels`)."""
        with _full_precision(pixels.device):
            return self.encoder(pixels).argmax(dim=1)

    def codes_at(
        self,
        pixels: Float[Tensor, "batch 3 height width"],
        patch_mask: Bool[Tensor, "batch rows columns"],
    ) -> Int[Tensor, " selected"]:
        """The codes of the selected patches, in order.

        The logits of all patches would be an eighth of the work.
        """
        with _full_precision(pixels.device):
            states = select_masked(self.encoder.states(pixels).permute(0, 2, 3, 1), patch_mask)
            output = self.encoder.output
            return functional.linear(states, output.weight.flatten(1), output.bias).argmax(dim=1)

    def decode(
        self, codes: Int[Tensor, "batch rows columns"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """The image of the codes, in [0, 1]: the median of each pixel's distribution."""
        one_hot = functional.one_hot(codes, self.config.codes).permute(0, 3, 1, 2)
        statistics = self.decoder(one_hot.to(self.decoder.input.weight.dtype))
        return unmap_pixels(statistics[:, :3].sigmoid())


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """A context in which codes are computed: in 32 bits and without a graph.

    So codes that are computed under autocast equal those that are stored with the images.
    """
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def initialise_convolution(module: nn.Module) -> None:
    """DALL-E's initialisation: N(0, 1 / sqrt(fan in)), biases 0 (openai/DALL-E, utils.Conv2d)."""
    if isinstance(module, nn.Conv2d):
        fan_in = module.in_channels * math.prod(module.kernel_size)
        nn.init.normal_(module.weight, std=fan_in**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
