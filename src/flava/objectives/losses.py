"""The loss functions, each with its predictions' accuracy; contrast in bounded memory.

The loss of a question is ``log_sum - own``: the logarithm of the summed exponentials of its logits,
less the logit of its own answer. Only the first needs all logits.

All are means over what they predict, in 32 bits. Where there is nothing to predict the loss is 0
and its gradient too: it stays defined, finite and attached to the graph, so that every parameter
that a batch may train has a gradient on every rank.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from flava.core.distributed import (
    Gather,
    gather_features,
    gather_numbers,
    rank,
    scale_gradient,
    world_size,
)
from flava.models.packing import select_masked

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


UNDIVIDED_LOGITS = 2**24
"""So many logits of one direction (64 MiB) are computed at once; more are in blocks."""


@dataclass(frozen=True)
class LossOutput:
    """One loss, and the share of its predictions that are right (None where there were none)."""

    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""] | None = None


def classification(logits: Float[Tensor, "n classes"], targets: Int[Tensor, " n"]) -> LossOutput:
    """Cross-entropy, the mean over ``n``: the loss of MIM, MLM, both MMMs and ITM.

    Averaged over ranks it is the mean over the predictions of all of them, however many each has,
    as of one process on the joined batch. The accuracy is that of the rank's own predictions.
    """
    return shared(rank_classification(logits, targets), len(targets))


def shared(term: LossOutput, count: int) -> LossOutput:
    """A rank's mean over ``count`` predictions, as its part in the mean over those of all."""
    if world_size() == 1:
        return term
    share = count / gather_numbers(torch.tensor([count])).sum().clamp(min=1)
    return LossOutput(world_size() * share * term.loss, term.accuracy)


def rank_classification(
    logits: Float[Tensor, "n classes"], targets: Int[Tensor, " n"]
) -> LossOutput:
    """Cross-entropy, the mean over the rank's own predictions."""
    if not len(targets):
        return LossOutput(0.0 * logits.float().sum())
    loss = functional.cross_entropy(logits.float(), targets)
    return LossOutput(loss, (logits.argmax(dim=-1) == targets).float().mean())


def answering(
    logits: Float[Tensor, "n classes"], answers: Float[Tensor, "n classes"]
) -> LossOutput:
    """Binary cross-entropy of every class with soft targets, summed over classes: VQA's loss.

    Summed and not averaged, as in the reference implementations (Teney et al. 2018, section 3.2;
    MMF's ``logit_bce``). The accuracy is the mean share that the likeliest class is right. Over
    ranks as in `classification`.
    """
    loss = functional.binary_cross_entropy_with_logits(logits.float(), answers, reduction="sum")
    chosen = answers.gather(1, logits.argmax(dim=1, keepdim=True))
    return shared(LossOutput(loss / len(answers), chosen.mean()), len(answers))


def regression(outputs: Float[Tensor, "n 1"], scores: Float[Tensor, " n"]) -> LossOutput:
    """The mean squared error, of predictions that are right to no degree: it has no accuracy.

    Over ranks as in `classification`.
    """
    return shared(LossOutput(functional.mse_loss(outputs[:, 0].float(), scores)), len(scores))


def matched_rows(matched: Bool[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
    """The pairs that are rows of the losses: those that match, or all of them where no pair of any
    rank does, as in the published code."""
    some = gather_numbers(matched.any().long()[None]).any()
    return matched | ~some


def contrastive(
    image: Float[Tensor, "batch width"],
    text: Float[Tensor, "batch width"],
    logit_scale: Float[Tensor, ""],
    rows: Bool[Tensor, " batch"],
    reach: Gather,
    ranks: int = 1,
) -> LossOutput:
    """InfoNCE both ways over the pairs of all ranks.

    ``image`` and ``text`` are unit vectors, pair i in row i of both. Pairs where ``rows`` is False
    are no rows of the loss, but stay as candidates (columns) for the others. The accuracy is that
    of both directions together, of the rank's own rows.

    All of it is in 32 bits, under autocast too: a logit of 100 in bf16 is off by up to a quarter,
    which is as much as right and wrong answers differ by once the temperature is low.

    Averaged over ranks, as their gradients are (DDP), this is the mean over the rows of all
    ranks, however many each has: a rank's own mean weighs as much as it has rows. So with
    `Gather.GLOBAL` the gradient is that of one process on the joined batch.

    With `Gather.LOCAL` it is what OpenCLIP did when the paper was written (``get_loss`` of
    mlfoundations/open_clip ``src/training/train.py``, be36164, November 2021): every rank has
    the loss of all rows, and its gradient reaches the rank's own features alone. Averaged, that
    is the joined batch's gradient divided by the number of ranks, but for the temperature's,
    which is whole. ``ranks`` is how many ranks this process stands for.
    """
    with torch.autocast(image.device.type, enabled=False):
        return _contrastive(image.float(), text.float(), logit_scale, rows, reach, ranks)


def _contrastive(
    image: Float[Tensor, "batch width"],
    text: Float[Tensor, "batch width"],
    logit_scale: Float[Tensor, ""],
    rows: Bool[Tensor, " batch"],
    reach: Gather,
    ranks: int,
) -> LossOutput:
    """`contrastive` outside of autocast."""
    sizes, row_counts = gather_numbers(torch.stack([torch.tensor(len(rows)), rows.sum()])).T
    sizes = sizes.tolist()
    own = sum(sizes[: rank()]) + torch.arange(len(rows))
    targets = own[rows].to(image.device, non_blocking=True)
    if reach is Gather.LOCAL:
        share = 1 / (ranks * world_size())
        image, text = scale_gradient(image, share), scale_gradient(text, share)
    scale = logit_scale.exp()
    every_text, every_image = gather_features(text, sizes), gather_features(image, sizes)
    if len(targets) * len(every_text) <= UNDIVIDED_LOGITS:
        to_text = rank_classification(scale * select_masked(image, rows) @ every_text.T, targets)
        to_image = rank_classification(scale * select_masked(text, rows) @ every_image.T, targets)
    else:
        to_text, to_image = _in_blocks(image, text, every_image, every_text, scale, rows, targets)
    accuracy = None
    if to_text.accuracy is not None and to_image.accuracy is not None:
        accuracy = (to_text.accuracy + to_image.accuracy) / 2
    weight = world_size() * len(targets) / max(1, int(row_counts.sum()))
    return LossOutput(weight * (to_text.loss + to_image.loss) / 2, accuracy)


def _in_blocks(
    image: Float[Tensor, "batch width"],
    text: Float[Tensor, "batch width"],
    every_image: Float[Tensor, "total width"],
    every_text: Float[Tensor, "total width"],
    scale: Float[Tensor, ""],
    rows: Bool[Tensor, " batch"],
    targets: Int[Tensor, " n"],
) -> tuple[LossOutput, LossOutput]:
    """Both directions in bounded memory; each is `classification` of the same logits."""
    own = scale * (select_masked(image, rows) * every_text[targets]).sum(dim=1)
    if world_size() == 1:
        both = log_sums_both_ways(image, text, scale)
        sums = [
            LogSums(select_masked(each.values, rows), select_masked(each.best, rows))
            for each in both
        ]
    else:
        sums = [
            log_sums(select_masked(image, rows), every_text, scale),
            log_sums(select_masked(text, rows), every_image, scale),
        ]
    to_text, to_image = (
        LossOutput((each.values - own).mean(), (each.best == targets).float().mean())
        for each in sums
    )
    return to_text, to_image
