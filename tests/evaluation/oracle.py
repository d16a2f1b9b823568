"""Models that know the answers, and one that guesses: states are the numbers of concepts."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from flava.core.batch import unmap_pixels
from flava.inference.processor import bert_tokenizer
from flava.models import Flava, FlavaConfig, ImageConfig, TextConfig
from tests.evaluation.corpus import STEP, WORDS, word_ids
from tests.support import denormalise

GRID = 4
CODES = len(WORDS)


class ReadsPixels(nn.Module):
    """The concept's number at each patch: it sees through the mask."""

    norm = nn.Identity()

    def forward(self, pixels: Tensor, patch_mask: Tensor | None = None) -> Tensor:
        del patch_mask
        red = denormalise(pixels)[:, 0].flatten(1).mean(dim=1) * 255 / STEP
        return red.round()[:, None, None].expand(-1, 1 + GRID**2, 1)

    def cls(self, pixels: Tensor) -> Tensor:
        return self(pixels)[:, :1]


class ReadsWords(nn.Module):
    """The concept's number at each token, from those that are not hidden."""

    norm = nn.Identity()

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        del attention_mask
        known = (ids[..., None] == word_ids()).any(dim=1).float().argmax(dim=-1)
        return known.float()[:, None, None].expand(-1, ids.shape[1], 1)

    def cls(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self(ids, attention_mask)[:, :1]


class Codes(nn.Module):
    def codes(self, pixels: Tensor) -> Tensor:
        patches = functional.avg_pool2d(unmap_pixels(pixels)[:, 0], 8) * 255 / STEP
        return patches.round().long()


class Head(nn.Module):
    """A concept's number -> certainty of its answer."""

    def __init__(self, answers: Tensor, classes: int) -> None:
        super().__init__()
        self.answers, self.classes = answers, classes

    def forward(self, states: Tensor) -> Tensor:
        answers = self.answers[states[:, 0].long() % len(self.answers)]
        return functional.one_hot(answers, self.classes).float()


class Matches(nn.Module):
    """[CLS_M] holds 1 for a pair that matches."""

    def forward(self, states: Tensor) -> Tensor:
        return torch.cat([1 - states[:, 0], states[:, 0]], dim=1)


class Oracle(Flava):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.config = FlavaConfig(
            image=ImageConfig(image_size=16, patch_size=4, width=1, heads=1),
            text=TextConfig(width=1, heads=1, max_length=24),
        )
        self.device_holder = nn.Parameter(torch.zeros(()))
        self.image_encoder, self.text_encoder = ReadsPixels(), ReadsWords()  # type: ignore
        self.codebook = Codes()  # type: ignore
        codes, words = torch.arange(CODES), word_ids()
        self.mim_head = self.mmm_image_head = Head(codes, CODES)  # type: ignore
        self.mlm_head = self.mmm_text_head = Head(words, bert_tokenizer().size)  # type: ignore
        self.itm_head = Matches()  # type: ignore

    def multimodal(
        self,
        image_hidden: Tensor,
        text_hidden: Tensor,
        attention_mask: Tensor,
        output_positions: Tensor | None = None,
    ) -> Tensor:
        """Patches are known from the text and tokens from the image: the other side decides."""
        del attention_mask, output_positions
        image, text = image_hidden[:, :1], text_hidden[:, :1]
        return torch.cat(
            [
                (image == text).float(),
                text.expand(-1, image_hidden.shape[1], 1),
                image.expand(-1, text_hidden.shape[1], 1),
            ],
            dim=1,
        )


class Guess(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, states: Tensor) -> Tensor:
        return torch.randn(len(states), self.classes)


class Guesser(Oracle):
    """Answers at random."""

    def __init__(self) -> None:
        super().__init__()
        self.mim_head = self.mmm_image_head = Guess(CODES)  # type: ignore
        self.itm_head = Guess(2)  # type: ignore
