"""The loss functions of pretraining, each with the accuracy of the same predictions.

All are means over what they predict, in 32 bits. Where there is nothing to predict the loss is 0
and its gradient too: it stays defined, finite and attached to the graph, so that every parameter
that a batch may train has a gradient on every worker.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from flava.distributed import Gather, gather, rank


@dataclass(frozen=True)
class Term:
    """One loss, and the share of its predictions that are right (None where there were none)."""

    loss: Float[Tensor, ""]
    accuracy: float | None = None


def classification(logits: Float[Tensor, "n classes"], targets: Int[Tensor, " n"]) -> Term:
    """Cross-entropy, the mean over ``n``: the loss of MIM, MLM, both MMMs and ITM."""
    if not len(targets):
        return Term(0.0 * logits.float().sum())
    loss = functional.cross_entropy(logits.float(), targets)
    return Term(loss, (logits.argmax(dim=-1) == targets).float().mean().item())


def contrastive(
    image: Float[Tensor, "batch width"],
    text: Float[Tensor, "batch width"],
    logit_scale: Float[Tensor, ""],
    rows: Bool[Tensor, " batch"],
    reach: Gather,
) -> Term:
    """InfoNCE both ways over the pairs of all workers.

    ``image`` and ``text`` are unit vectors, pair i in row i of both. Pairs where ``rows`` is False
    are no rows of the loss, but stay as candidates (columns) for the others. The accuracy is that
    of both directions together.
    """
    targets = (rank() * len(image) + torch.arange(len(image), device=image.device))[rows]
    scale = logit_scale.exp()
    to_text = classification(scale * image[rows] @ gather(text, reach).T, targets)
    to_image = classification(scale * text[rows] @ gather(image, reach).T, targets)
    accuracy = None
    if to_text.accuracy is not None and to_image.accuracy is not None:
        accuracy = (to_text.accuracy + to_image.accuracy) / 2
    return Term((to_text.loss + to_image.loss) / 2, accuracy)
