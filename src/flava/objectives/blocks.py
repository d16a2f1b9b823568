"""Contrast of many vectors in bounded memory: similarities are computed in blocks, and again in the
backward pass, so that no more than a few blocks are held at a time.

The loss of a question is ``log_sum - own``: the logarithm of the summed exponentials of its logits,
less the logit of its own answer. Only the first needs all logits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

SIDE = 4096
"""Rows and columns of a block: 64 MiB in 32 bits, of which some four are held at a time."""


@dataclass(frozen=True)
class LogSums:
    """Of each vector: the log of its summed exponentials, and the place of its largest logit."""

    values: Float[Tensor, " n"]
    best: Int[Tensor, " n"]


def log_sums(
    questions: Float[Tensor, "n width"],
    answers: Float[Tensor, "m width"],
    scale: Float[Tensor, ""],
) -> LogSums:
    """Those of the rows of ``scale * questions @ answers.T``, in the precision of the inputs."""
    rows, best, _, _ = _LogSums.apply(questions, answers, scale, False)
    return LogSums(rows, best)


def log_sums_both_ways(
    image: Float[Tensor, "n width"], text: Float[Tensor, "m width"], scale: Float[Tensor, ""]
) -> tuple[LogSums, LogSums]:
    """Those of the rows and of the columns of ``scale * image @ text.T``, each block made once."""
    rows, best_of_rows, columns, best_of_columns = _LogSums.apply(image, text, scale, True)
    return LogSums(rows, best_of_rows), LogSums(columns, best_of_columns)


class _LogSums(torch.autograd.Function):
    """Without autocast: logits of up to 100 in 16 bits are off by a tenth, sums of them by more."""

    @staticmethod
    def forward(
        ctx: Any, questions: Tensor, answers: Tensor, scale: Tensor, both: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.both = both
        rows, columns = _Largest(len(questions), questions), _Largest(len(answers), answers)
        with torch.autocast(questions.device.type, enabled=False):
            for here, there, logits in _blocks(questions, answers, scale):
                rows.add(logits, here, there)
                if both:
                    columns.add(logits.T, there, here)
        ctx.save_for_backward(questions, answers, scale, rows.sums, columns.sums)
        ctx.mark_non_differentiable(rows.best, columns.best)
        return rows.sums, rows.best, columns.sums, columns.best

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, of_rows: Tensor, _best: Any, of_columns: Tensor, _best_of_columns: Any
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        questions, answers, scale, rows, columns = ctx.saved_tensors
        of_questions, of_answers = torch.zeros_like(questions), torch.zeros_like(answers)
        with torch.autocast(questions.device.type, enabled=False):
            for here, there, logits in _blocks(questions, answers, scale):
                share = (logits - rows[here, None]).exp_().mul_(of_rows[here, None])
                if ctx.both:
                    share += logits.sub_(columns[there]).exp_().mul_(of_columns[there])
                of_questions[here].addmm_(share, answers[there])
                of_answers[there].addmm_(share.T, questions[here])
        # Each logit is scale * q . a: so the scale's gradient is a sum over the questions'.
        of_scale = (of_questions * questions).sum().to(scale.dtype)
        return scale * of_questions, scale * of_answers, of_scale, None


class _Largest:
    """Sums and largest logits of ``length`` vectors, while blocks are added."""

    def __init__(self, length: int, like: Tensor) -> None:
        self.sums = like.new_full((length,), -torch.inf)
        self.best = torch.zeros(length, dtype=torch.int64, device=like.device)
        self._largest = self.sums.clone()

    def add(self, logits: Tensor, here: slice, there: slice) -> None:
        """A block: vectors ``here`` by candidates ``there``."""
        self.sums[here] = torch.logaddexp(self.sums[here], logits.logsumexp(dim=1))
        largest, place = logits.max(dim=1)
        is_larger = largest > self._largest[here]
        self.best[here] = torch.where(is_larger, place + there.start, self.best[here])
        self._largest[here] = torch.maximum(self._largest[here], largest)


def _blocks(
    questions: Tensor, answers: Tensor, scale: Tensor
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Every block of the logits, with its rows and columns."""
    for here in _slices(len(questions)):
        rows = scale * questions[here]
        for there in _slices(len(answers)):
            yield here, there, rows @ answers[there].T


def _slices(length: int) -> list[slice]:
    return [slice(start, min(start + SIDE, length)) for start in range(0, length, SIDE)]
