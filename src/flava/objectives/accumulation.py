"""Gradient accumulation that gives the losses and gradients of one large batch, over all ranks.

A contrastive loss needs the features of all pairs at once, but the graphs of all batches do not fit
in memory together. So each batch is first encoded without a graph. The loss of all features gives
the gradient of each feature. When its turn comes, a batch is encoded again with a graph, which is
given the gradient of its features (GradCache: Gao et al. 2021, "Scaling Deep Contrastive Learning
Batch Size under Memory Limited Setup"). Every other loss is a mean over predictions, so a batch is
weighted by its number of predictions.

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

ComputeLosses = Callable[[], dict[str, LossOutput]]
"""Computes the losses of a batch, with their graph."""
RunInModel = Callable[[Callable[[], list[Tensor]]], list[Tensor]]
"""Calls a function that uses the model, within the forward pass that DDP and FSDP hook."""


@runtime_checkable
class ContrastiveObjective(Protocol):
    """An objective whose contrastive loss can be computed over several batches."""

    config: ContrastConfig

    @property
    def model(self) -> Flava | Clip: ...

    def other_losses(
        self, batch: PairBatch | WholePairBatch, rows: Bool[Tensor, " batch"]
    ) -> dict[str, LossOutput]:
        """The losses of a batch besides contrast; ``rows`` selects the pairs that count."""
        ...


def accumulated_losses(
    objective: Callable[[Batch], dict[str, LossOutput]],
    batches: Sequence[Batch],
    run_in_model: RunInModel,
    device: torch.device,
) -> list[ComputeLosses]:
    """For each batch of a step, a function that computes its losses on ``device``.

    The mean of these losses over batches and ranks, and its gradient, are those of the joined batch
    of all batches and ranks. All batches of all ranks must be of the same kind. Call each function
    once and in order, within ``run_in_model``, and in a new autocast context like that of this
    call: autocast caches the weights that it casts, and those cached by this call have no graph.
    """
    compute: list[ComputeLosses] = [
        partial(_compute_on_device, objective, batch, device) for batch in batches
    ]
    if len(batches) == 1:
        return compute  # `classification` and `contrastive` average over ranks themselves
    rows = _rows(batches)
    if isinstance(objective, ContrastiveObjective) and rows is not None:
        compute = _losses_with_contrast(objective, batches, rows, run_in_model, device)
    weights = _weights(batches, rows)
    return [partial(_weighted, *each) for each in zip(compute, weights, strict=True)]


def _compute_on_device(
    objective: Callable[[Batch], dict[str, LossOutput]], batch: Batch, device: torch.device
) -> dict[str, LossOutput]:
    return objective(to_device(batch, device))


def _rows(batches: Sequence[Batch]) -> list[Tensor] | None:
    """For each batch, which of its pairs count in the losses; None if there are no pairs."""
    pairs = [batch for batch in batches if isinstance(batch, PairBatch)]
    if pairs:
        rows = matched_rows(torch.cat([batch.matched for batch in pairs]))
        return list(rows.split([len(batch.matched) for batch in pairs]))
    whole = [batch.inputs.text.input_ids for batch in batches if isinstance(batch, WholePairBatch)]
    return [torch.ones_like(input_ids[:, 0], dtype=torch.bool) for input_ids in whole] or None


# Weights of the losses that are means


def _weighted(compute: ComputeLosses, weights: dict[str, Tensor]) -> dict[str, LossOutput]:
    return {
        name: LossOutput(weights[name] * output.loss, output.accuracy)
        if name in weights
        else output
        for name, output in compute().items()
    }


def _weights(batches: Sequence[Batch], rows: list[Tensor] | None) -> list[dict[str, Tensor]]:
    """For each batch, the weight of each of its losses in the mean over batches.

    The losses weight ranks themselves, so here a batch counts with its predictions on all ranks.
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
    """The number of predictions that each loss averages, where batches differ in it."""
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
class _RandomState:
    """The states of the random generators that a model on ``device`` uses."""

    device: torch.device
    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def current(cls, device: torch.device) -> "_RandomState":
        on_cuda = device.type == "cuda"
        cuda = torch.cuda.get_rng_state(device) if on_cuda else None
        return cls(device, torch.get_rng_state(), cuda)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """A context that draws the same numbers again; afterwards the states are as before."""
        with torch.random.fork_rng(devices=[] if self.cuda is None else [self.device]):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)
            yield


def _losses_with_contrast(
    objective: ContrastiveObjective,
    batches: Sequence[Batch],
    rows: list[Tensor],
    run_in_model: RunInModel,
    device: torch.device,
) -> list[ComputeLosses]:
    """For each batch, a function that computes its losses with the contrast of all batches."""
    model = objective.model
    states, features = [], []
    for batch in batches:
        states.append(_RandomState.current(device))
        with torch.no_grad():
            encode = partial(_encode, model, to_device(_inputs(batch), device))
            features.append(run_in_model(encode))
            del encode  # with the batch on the device
    whole, gradients, scale_gradient = _contrast_of_all(objective, features, torch.cat(rows))

    def losses(index: int) -> dict[str, LossOutput]:
        batch = to_device(batches[index], device)
        with states[index].restored():
            encoded = _encode(model, _inputs(batch))
        # A sum whose gradient is that of the loss of all features, as far as it comes from here.
        products = [(e * g).sum() for e, g in zip(encoded, gradients[index], strict=True)]
        surrogate = torch.stack(products).sum() + model.logit_scale * scale_gradient / len(batches)
        # The value is the loss of all features. The gradient is multiplied by the number of
        # batches, since the trainer takes the mean over them.
        loss = whole.loss + len(batches) * (surrogate - surrogate.detach())
        assert isinstance(batch, PairBatch | WholePairBatch)
        other_losses = objective.other_losses(batch, rows[index])
        return {"gc": LossOutput(loss, whole.accuracy), **other_losses}

    return [partial(losses, index) for index in range(len(batches))]


def _inputs(batch: Batch) -> PairInputs:
    """The unmasked pairs, which contrast compares."""
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


def _contrast_of_all(
    objective: ContrastiveObjective,
    features: Sequence[Sequence[Tensor]],
    rows: Bool[Tensor, " batch"],
) -> tuple[LossOutput, list[list[Tensor]], Float[Tensor, ""]]:
    """The contrastive loss of all features, its gradients for them, and that for the scale."""
    config = objective.config
    leaves = [[each.detach().requires_grad_() for each in pair] for pair in features]
    scale = objective.model.logit_scale.detach().requires_grad_()
    image, text = (torch.cat(each) for each in zip(*leaves, strict=True))
    output = contrastive(image, text, scale, rows, config.gather, config.ranks)
    flat = [leaf for pair in leaves for leaf in pair]
    with torch.autocast(image.device.type, enabled=False):
        *gradients, scale_gradient = torch.autograd.grad(output.loss, [*flat, scale])
    pairs = [gradients[start : start + 2] for start in range(0, len(gradients), 2)]
    return LossOutput(output.loss.detach(), output.accuracy), pairs, scale_gradient
