"""The loss functions, each with the accuracy of its predictions.

Losses are means over predictions, in 32 bits. Without any predictions the loss and its gradient are
0: the loss is still defined and attached to the graph, so that every parameter that a kind of batch
trains has a gradient on every rank.

The contrastive loss of very many pairs is computed block by block, in bounded memory. The loss of a
row of logits is their log-sum-exp minus the logit of the matching candidate. Only the first needs
all logits of the row, and it is added up over blocks.
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
    gather_ints,
    rank,
    scale_gradient,
    world_size,
)
from flava.models.packing import select_masked

BLOCK_SIZE = 4096
"""Rows and columns of a block of logits: 64 MiB in 32 bits. About four blocks are in memory at a
time."""


@dataclass(frozen=True)
class LogSums:
    """For each row of logits: the log-sum-exp, and the index of the largest logit."""

    values: Float[Tensor, " n"]
    argmax: Int[Tensor, " n"]


def _log_sums(
    queries: Float[Tensor, "n width"],
    candidates: Float[Tensor, "m width"],
    scale: Float[Tensor, ""],
) -> LogSums:
    """`LogSums` of the rows of ``scale * queries @ candidates.T``, in the inputs' precision."""
    sums, argmax, _, _ = _LogSums.apply(queries, candidates, scale, False)
    return LogSums(sums, argmax)


def _log_sums_both_ways(
    image: Float[Tensor, "n width"], text: Float[Tensor, "m width"], scale: Float[Tensor, ""]
) -> tuple[LogSums, LogSums]:
    """`LogSums` of the rows and of the columns of ``scale * image @ text.T``, in one pass."""
    row_sums, row_argmax, column_sums, column_argmax = _LogSums.apply(image, text, scale, True)
    return LogSums(row_sums, row_argmax), LogSums(column_sums, column_argmax)


class _LogSums(torch.autograd.Function):
    """`_log_sums` with a gradient that computes the blocks of logits again.

    It is not autocast: in 16 bits a logit of 100 is off by a tenth, and sums of them by more.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, candidates: Tensor, scale: Tensor, both: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.both = both
        rows, columns = (
            _RunningLogSums(len(queries), queries),
            _RunningLogSums(len(candidates), candidates),
        )
        with torch.autocast(queries.device.type, enabled=False):
            for here, there, logits in _blocks(queries, candidates, scale):
                rows.add(logits, here, there)
                if both:
                    columns.add(logits.T, there, here)
        ctx.save_for_backward(queries, candidates, scale, rows.sums, columns.sums)
        ctx.mark_non_differentiable(rows.argmax, columns.argmax)
        return rows.sums, rows.argmax, columns.sums, columns.argmax

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, of_rows: Tensor, _argmax: Any, of_columns: Tensor, _column_argmax: Any
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        queries, candidates, scale, rows, columns = ctx.saved_tensors
        query_gradient, candidate_gradient = torch.zeros_like(queries), torch.zeros_like(candidates)
        with torch.autocast(queries.device.type, enabled=False):
            for here, there, logits in _blocks(queries, candidates, scale):
                share = (logits - rows[here, None]).exp_().mul_(of_rows[here, None])
                if ctx.both:
                    share += logits.sub_(columns[there]).exp_().mul_(of_columns[there])
                query_gradient[here].addmm_(share, candidates[there])
                candidate_gradient[there].addmm_(share.T, queries[here])
        # A logit is scale * (query . candidate): the scale's gradient follows from the queries'.
        scale_gradient = (query_gradient * queries).sum().to(scale.dtype)
        return scale * query_gradient, scale * candidate_gradient, scale_gradient, None


class _RunningLogSums:
    """Log-sum-exps and largest logits of ``length`` rows, to which blocks of columns are added."""

    def __init__(self, length: int, like: Tensor) -> None:
        self.sums = like.new_full((length,), -torch.inf)
        self.argmax = torch.zeros(length, dtype=torch.int64, device=like.device)
        self._largest = self.sums.clone()

    def add(self, logits: Tensor, rows: slice, columns: slice) -> None:
        """Add a block of logits: those of ``rows`` and ``columns``."""
        self.sums[rows] = torch.logaddexp(self.sums[rows], logits.logsumexp(dim=1))
        largest, column = logits.max(dim=1)
        is_larger = largest > self._largest[rows]
        self.argmax[rows] = torch.where(is_larger, column + columns.start, self.argmax[rows])
        self._largest[rows] = torch.maximum(self._largest[rows], largest)


def _blocks(
    queries: Tensor, candidates: Tensor, scale: Tensor
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Every block of the logits, after the slices of its rows and of its columns."""
    for here in _slices(len(queries)):
        rows = scale * queries[here]
        for there in _slices(len(candidates)):
            yield here, there, rows @ candidates[there].T


def _slices(length: int) -> list[slice]:
    return [slice(start, min(start + BLOCK_SIZE, length)) for start in range(0, length, BLOCK_SIZE)]


MAX_LOGITS_AT_ONCE = 2**24
"""Up to so many logits of one direction (64 MiB) are computed at once, more in blocks."""


@dataclass(frozen=True)
class LossOutput:
    """A loss, and the share of its predictions that are right (None if there were none)."""

    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""] | None = None


def classification(logits: Float[Tensor, "n classes"], targets: Int[Tensor, " n"]) -> LossOutput:
    """The mean cross-entropy over ``n`` predictions: the loss of MIM, MLM, both MMMs and ITM.

    Its average over ranks is the mean over the predictions of all ranks, however many each has: the
    loss of one process on the joined batch. The accuracy is that of this rank's predictions.
    """
    return _weighted_by_count(_rank_classification(logits, targets), len(targets))


def _weighted_by_count(output: LossOutput, count: int) -> LossOutput:
    """A rank's mean over ``count`` predictions, weighted so that the average over ranks is the mean
    over the predictions of all ranks."""
    if world_size() == 1:
        return output
    share = count / gather_ints(torch.tensor([count])).sum().clamp(min=1)
    return LossOutput(world_size() * share * output.loss, output.accuracy)


def _rank_classification(
    logits: Float[Tensor, "n classes"], targets: Int[Tensor, " n"]
) -> LossOutput:
    """The mean cross-entropy over this rank's predictions."""
    if not len(targets):
        return LossOutput(0.0 * logits.float().sum())
    loss = functional.cross_entropy(logits.float(), targets)
    return LossOutput(loss, (logits.argmax(dim=-1) == targets).float().mean())


def answering(
    logits: Float[Tensor, "n classes"], answers: Float[Tensor, "n classes"]
) -> LossOutput:
    """Binary cross-entropy of every class with soft targets, summed over classes: VQA's loss.

    Summed and not averaged, as in the reference implementations (Teney et al. 2018, section 3.2;
    MMF's ``logit_bce``). The accuracy is the mean target of the most likely class. Ranks are
    averaged as in `classification`.
    """
    loss = functional.binary_cross_entropy_with_logits(logits.float(), answers, reduction="sum")
    chosen = answers.gather(1, logits.argmax(dim=1, keepdim=True))
    return _weighted_by_count(LossOutput(loss / len(answers), chosen.mean()), len(answers))


def regression(outputs: Float[Tensor, "n 1"], scores: Float[Tensor, " n"]) -> LossOutput:
    """The mean squared error; there is no accuracy.

    Ranks are averaged as in `classification`.
    """
    return _weighted_by_count(
        LossOutput(functional.mse_loss(outputs[:, 0].float(), scores)), len(scores)
    )


def matched_rows(matched: Bool[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
    """The pairs that count in the losses: those that match, or all of them if no pair of any rank
    matches, as in the published code."""
    any_matches = gather_ints(matched.any().long()[None]).any()
    return matched | ~any_matches


def contrastive(
    image: Float[Tensor, "batch width"],
    text: Float[Tensor, "batch width"],
    logit_scale: Float[Tensor, ""],
    rows: Bool[Tensor, " batch"],
    reach: Gather,
    ranks: int = 1,
) -> LossOutput:
    """The InfoNCE loss from image to text and from text to image, over the pairs of all ranks.

    ``image`` and ``text`` are unit vectors; pair i is row i of both. Pairs where ``rows`` is False
    are no rows of the loss, but they are candidates (columns) for the other rows. The accuracy is
    the mean of both directions over this rank's rows.

    Everything is computed in 32 bits, under autocast too. In bf16 a logit of 100 is off by up to a
    quarter, and at a low temperature right and wrong candidates differ by no more than that.

    The average over ranks (as DDP averages gradients) is the mean over the rows of all ranks,
    however many each has. So with `Gather.GLOBAL` the gradient is that of one process on the joined
    batch.

    With `Gather.LOCAL` it is what OpenCLIP did when the paper was written (``get_loss`` of
    mlfoundations/open_clip ``src/training/train.py``, be36164, November 2021): every rank has
    the loss of all rows, and differentiates it through its own features only. The average over
    ranks is the joined batch's gradient divided by the number of ranks, except that the gradient of
    the temperature is not divided. ``ranks`` is how many ranks this process stands for.
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
    """`contrastive` without autocast."""
    sizes, row_counts = gather_ints(torch.stack([torch.tensor(len(rows)), rows.sum()])).T
    sizes = sizes.tolist()
    indices = sum(sizes[: rank()]) + torch.arange(len(rows))
    targets = indices[rows].to(image.device, non_blocking=True)
    if reach is Gather.LOCAL:
        share = 1 / (ranks * world_size())
        image, text = scale_gradient(image, share), scale_gradient(text, share)
    scale = logit_scale.exp()
    every_text, every_image = gather_features(text, sizes), gather_features(image, sizes)
    if len(targets) * len(every_text) <= MAX_LOGITS_AT_ONCE:
        to_text = _rank_classification(scale * select_masked(image, rows) @ every_text.T, targets)
        to_image = _rank_classification(scale * select_masked(text, rows) @ every_image.T, targets)
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
    """The losses of both directions in bounded memory: as `_rank_classification` of the logits."""
    target_logits = scale * (select_masked(image, rows) * every_text[targets]).sum(dim=1)
    if world_size() == 1:
        both = _log_sums_both_ways(image, text, scale)
        sums = [
            LogSums(select_masked(each.values, rows), select_masked(each.argmax, rows))
            for each in both
        ]
    else:
        sums = [
            _log_sums(select_masked(image, rows), every_text, scale),
            _log_sums(select_masked(text, rows), every_image, scale),
        ]
    to_text, to_image = (
        LossOutput((each.values - target_logits).mean(), (each.argmax == targets).float().mean())
        for each in sums
    )
    return to_text, to_image
