"""Several batches as one: their losses and gradients are those of the joined batch, of all ranks.

Contrast needs the features of all pairs at once, and their graphs do not fit in memory together. So
each batch is encoded without a graph; the loss of all features gives a gradient for each; and when
its turn comes, a batch is encoded again with a graph, which is handed the gradient of its features
(Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"). Every
other loss is a mean over what a batch predicts, and weighs as much as it predicts.

Batches wait on the host: each is on the device only while it is computed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor

from flava.core.batch import (
    AnsweredBatch,
    Batch,
    CodedImageBatch,
    ImageBatch,
    ImageInputs,
    LabelledBatch,
    PairBatch,
    PairInputs,
    ScoredBatch,
    TextBatch,
    TextInputs,
    WholePairBatch,
    to_device,
)
from flava.core.distributed import world_size
from flava.models import Clip, Flava
from flava.objectives.clip import ContrastConfig
from flava.objectives.losses import LossOutput, contrastive, matched_rows

Losses = Callable[[], dict[str, LossOutput]]
"""What computes the losses of a batch, with their graph."""
Inside = Callable[[Callable[[], list[Tensor]]], list[Tensor]]
"""Calls a function where the model may be used: inside of what joins the ranks (DDP, FSDP)."""


@runtime_checkable
class Contrasting(Protocol):
    """What an objective with a contrastive loss offers so that it can be taken over batches."""

    config: ContrastConfig

    @property
    def model(self) -> Flava | Clip: ...

    def others(
        self, batch: PairBatch | WholePairBatch, rows: Bool[Tensor, " batch"]
    ) -> dict[str, LossOutput]:
        """The losses of a batch but for contrast; ``rows`` are the pairs taken to match."""
        ...


def accumulated_losses(
    objective: Callable[[Batch], dict[str, LossOutput]],
    batches: Sequence[Batch],
    inside: Inside,
    device: torch.device,
) -> list[Losses]:
    """For each batch of an update, what computes its losses on ``device``, as a part of the joined
    batch.

    The losses' mean over batches and ranks, with its gradient, is that of the joined batch of all
    batches and ranks. All batches are of one kind, that of every rank. The functions are called
    once each and in order, within ``inside``, under an autocast like that of this call, but another
    one: autocast keeps the weights that it converts, and those of this call have no graph.
    """
    parts: list[Losses] = [partial(_moved, objective, batch, device) for batch in batches]
    if len(batches) == 1:
        return parts  # `classification` and `contrastive` join the ranks
    rows = _rows(batches)
    if isinstance(objective, Contrasting) and rows is not None:
        parts = _contrasted(objective, batches, rows, inside, device)
    weights = _weights(batches, rows)
    return [partial(_weighed, *each) for each in zip(parts, weights, strict=True)]


def _moved(
    objective: Callable[[Batch], dict[str, LossOutput]], batch: Batch, device: torch.device
) -> dict[str, LossOutput]:
    return objective(to_device(batch, device))


def _rows(batches: Sequence[Batch]) -> list[Tensor] | None:
    """The pairs of each batch that are rows of the losses; None if there are no pairs."""
    pairs = [batch for batch in batches if isinstance(batch, PairBatch)]
    if pairs:
        rows = matched_rows(torch.cat([batch.matched for batch in pairs]))
        return list(rows.split([len(batch.matched) for batch in pairs]))
    whole = [batch.inputs.text.input_ids for batch in batches if isinstance(batch, WholePairBatch)]
    return [torch.ones_like(input_ids[:, 0], dtype=torch.bool) for input_ids in whole] or None


# Weights of the losses that are means


def _weighed(losses: Losses, weights: dict[str, Tensor]) -> dict[str, LossOutput]:
    return {
        name: LossOutput(weights[name] * term.loss, term.accuracy) if name in weights else term
        for name, term in losses().items()
    }


def _weights(batches: Sequence[Batch], rows: list[Tensor] | None) -> list[dict[str, Tensor]]:
    """For each batch, how much each of its means weighs in the mean over batches.

    Between the ranks the losses weigh them already, so here a batch counts with all of them.
    """
    counts = [
        _predictions(batch, None if rows is None else rows[index])
        for index, batch in enumerate(batches)
    ]
    if not (names := list(counts[0])):
        return [{} for _ in batches]
    table = torch.stack([torch.stack([each[name] for name in names]) for each in counts]).double()
    if world_size() > 1:
        dist.all_reduce(table)
    table *= len(batches) / table.sum(dim=0).clamp(min=1)
    return [dict(zip(names, row.float().unbind(), strict=True)) for row in table]


def _predictions(batch: Batch, rows: Tensor | None) -> dict[str, Tensor]:
    """Over how many predictions each loss is a mean, where that differs between batches."""
    match batch:
        case ImageBatch() | CodedImageBatch():
            return {"mim": batch.patch_mask.sum()}
        case TextBatch():
            return {"mlm": batch.token_mask.sum()}
        case PairBatch() if rows is not None:
            return {
                "mmm_image": (batch.image.patch_mask & rows[:, None, None]).sum(),
                "mmm_text": (batch.text.token_mask & rows[:, None]).sum(),
                "itm": torch.tensor(len(batch.matched)),
            }
        case LabelledBatch():
            return {"classification": torch.tensor(len(batch.keys))}
        case AnsweredBatch():
            return {"answering": torch.tensor(len(batch.keys))}
        case ScoredBatch():
            return {"regression": torch.tensor(len(batch.keys))}
    return {}


# Contrast


@dataclass(frozen=True)
class _Random:
    """The state of the generators that a model on ``device`` draws from."""

    device: torch.device
    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> "_Random":
        on_cuda = device.type == "cuda"
        cuda = torch.cuda.get_rng_state(device) if on_cuda else None
        return cls(device, torch.get_rng_state(), cuda)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draws what was drawn then; afterwards the generators stand where they stood before."""
        with torch.random.fork_rng(devices=[] if self.cuda is None else [self.device]):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)
            yield


def _contrasted(
    objective: Contrasting,
    batches: Sequence[Batch],
    rows: list[Tensor],
    inside: Inside,
    device: torch.device,
) -> list[Losses]:
    model = objective.model
    states, features = [], []
    for batch in batches:
        states.append(_Random.now(device))
        with torch.no_grad():
            features.append(inside(partial(_encode, model, to_device(_inputs(batch), device))))
    term, gradients, of_scale = _whole(objective, features, torch.cat(rows))

    def losses(index: int) -> dict[str, LossOutput]:
        batch = to_device(batches[index], device)
        with states[index].again():
            encoded = _encode(model, _inputs(batch))
        reached = [(e * g).sum() for e, g in zip(encoded, gradients[index], strict=True)]
        handed = torch.stack(reached).sum() + model.logit_scale * of_scale / len(batches)
        # The value is that of the whole; so that the mean over batches has the whole's gradient,
        # each hands on as many times its own.
        contrast = term.loss + len(batches) * (handed - handed.detach())
        assert isinstance(batch, PairBatch | WholePairBatch)
        return {"gc": LossOutput(contrast, term.accuracy), **objective.others(batch, rows[index])}

    return [partial(losses, index) for index in range(len(batches))]


def _inputs(batch: Batch) -> PairInputs:
    """What contrast reads of pairs, nothing of it hidden."""
    match batch:
        case WholePairBatch(inputs=inputs):
            return inputs
        case PairBatch(image=image, text=text):
            return PairInputs(
                image=ImageInputs(pixels=image.pixels),
                text=TextInputs(input_ids=text.input_ids, attention_mask=text.attention_mask),
            )
    raise AssertionError("only pairs have contrast")


def _encode(model: Flava | Clip, pairs: PairInputs) -> list[Tensor]:
    """The features of a batch's images and of its texts."""
    text = pairs.text
    return [
        model.encode_image(pairs.image.pixels),
        model.encode_text(text.input_ids, text.attention_mask),
    ]


def _whole(
    objective: Contrasting, features: Sequence[Sequence[Tensor]], rows: Bool[Tensor, " batch"]
) -> tuple[LossOutput, list[list[Tensor]], Float[Tensor, ""]]:
    """The contrast of all features; its gradient for each of them, and for the temperature."""
    config = objective.config
    leaves = [[each.detach().requires_grad_() for each in pair] for pair in features]
    scale = objective.model.logit_scale.detach().requires_grad_()
    image, text = (torch.cat(each) for each in zip(*leaves, strict=True))
    term = contrastive(image, text, scale, rows, config.gather, config.ranks)
    flat = [leaf for pair in leaves for leaf in pair]
    with torch.autocast(image.device.type, enabled=False):
        *found, of_scale = torch.autograd.grad(term.loss, [*flat, scale])
    pairs = [found[start : start + 2] for start in range(0, len(found), 2)]
    return LossOutput(term.loss.detach(), term.accuracy), pairs, of_scale
