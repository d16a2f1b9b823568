"""The probe of masked modelling: its loss on held-out batches, always the same ones."""

from collections.abc import Callable, Sequence

from torch import nn

from flava.batch import Batch, to_device
from flava.evaluation.subject import evaluating
from flava.precision import Precision
from flava.training.loop import Objective


def loss_probe(
    objective: Objective, batches: Sequence[Batch], precision: Precision
) -> Callable[[nn.Module, int], dict[str, float]]:
    """(model, step) -> for each loss its mean over ``batches`` with the sign changed, and accuracy.

    With the sign changed it is the log-likelihood of what is hidden, in nats for each prediction:
    more is better, as the choice of the best checkpoint needs. Accuracies are in [0, 1].
    """

    def probe(model: nn.Module, step: int) -> dict[str, float]:  # noqa: ARG001
        device = next(model.parameters()).device
        with evaluating(model, precision):
            found = [objective(to_device(batch, device)) for batch in batches]
        figures = {}
        for name in found[0]:
            losses = [terms[name].loss.item() for terms in found]
            right = [a.item() for terms in found if (a := terms[name].accuracy) is not None]
            figures[f"{name}_log_likelihood"] = -sum(losses) / len(losses)
            figures[f"{name}_accuracy"] = sum(right) / max(1, len(right))
        return figures

    return probe
