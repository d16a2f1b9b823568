"""The contrastive loss on two workers, beside one process that sees everything."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy, normalize

from flava.distributed import Gather
from flava.objectives.losses import contrastive

WORKERS = 2
PAIRS = 4
"""Of each worker."""

ROWS = {
    "all matched": [1, 1, 1, 1, 1, 1, 1, 1],
    "equally many mismatched": [1, 0, 1, 1, 1, 1, 1, 0],
    "more mismatched on one": [1, 0, 0, 1, 1, 1, 1, 1],
}
CASES = [(name, reach) for name in ROWS for reach in Gather]

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Image and text before normalisation, the weight that both go through, the scale."""


def inputs() -> Inputs:
    generator = torch.Generator().manual_seed(3)
    shapes = ((WORKERS * PAIRS, 5), (WORKERS * PAIRS, 5), (5, 6))
    image, text, weight = (torch.randn(shape, generator=generator) for shape in shapes)
    return image, text, weight.requires_grad_(), torch.tensor(1.2, requires_grad=True)


def features(image: Tensor, text: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return normalize(image @ weight, dim=1), normalize(text @ weight.flip(1), dim=1)


def shard(worker: int) -> slice:
    return slice(worker * PAIRS, (worker + 1) * PAIRS)


def work(worker: int, folder: Path) -> None:
    """One worker: its losses, and its gradients averaged over workers as DDP does."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=worker, world_size=WORKERS
    )
    results = {}
    for name, reach in CASES:
        image, text, weight, scale = inputs()
        mine = shard(worker)
        pair = features(image[mine], text[mine], weight)
        rows = torch.tensor(ROWS[name][mine], dtype=torch.bool)
        term = contrastive(*pair, scale, rows, reach)
        term.loss.backward()
        gradients = [weight.grad, scale.grad]
        for gradient in gradients:
            assert gradient is not None
            dist.all_reduce(gradient)
            gradient /= WORKERS
        results[name, reach.value] = (term.loss.item(), term.accuracy, gradients)
    torch.save(results, folder / f"{worker}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("workers")
    spawn(work, args=(folder,), nprocs=WORKERS)
    return [torch.load(folder / f"{worker}.pt") for worker in range(WORKERS)]


def expected(
    worker: int, rows: Tensor, reach: Gather, image: Tensor, text: Tensor, scale: Tensor
) -> Tensor:
    """A worker's loss by its definition: its rows against the columns of all."""
    own = torch.zeros(WORKERS * PAIRS, dtype=torch.bool)
    own[shard(worker)] = True
    loss = torch.zeros(())
    for questions, answers in ((image, text), (text, image)):
        if reach is Gather.LOCAL:
            answers = torch.where(own[:, None], answers, answers.detach())
        logits = scale.exp() * questions @ answers.T
        asked = (own & rows).nonzero()[:, 0]
        loss = loss + cross_entropy(logits[asked], asked) / 2
    return loss


@pytest.mark.parametrize(("name", "reach"), CASES)
def test_against_the_definition(results: list[dict], name: str, reach: Gather) -> None:
    """Loss of each worker; and the averaged gradient is that of the mean of the losses."""
    image, text, weight, scale = inputs()
    pair = features(image, text, weight)
    rows = torch.tensor(ROWS[name], dtype=torch.bool)
    losses = [expected(worker, rows, reach, *pair, scale) for worker in range(WORKERS)]
    torch.stack(losses).mean().backward()
    for worker, result in enumerate(results):
        loss, _, gradients = result[name, reach.value]
        assert loss == pytest.approx(losses[worker].item(), rel=1e-5)
        torch.testing.assert_close(gradients, [weight.grad, scale.grad])


@pytest.mark.parametrize("name", ["all matched", "equally many mismatched"])
def test_global_is_one_process_on_the_joined_batch(results: list[dict], name: str) -> None:
    image, text, weight, scale = inputs()
    rows = torch.tensor(ROWS[name], dtype=torch.bool)
    term = contrastive(*features(image, text, weight), scale, rows, Gather.GLOBAL)
    term.loss.backward()
    for result in results:
        torch.testing.assert_close(result[name, "global"][2], [weight.grad, scale.grad])
    found = [result[name, "global"] for result in results]
    assert sum(loss for loss, *_ in found) / WORKERS == pytest.approx(term.loss.item(), rel=1e-5)
    assert sum(accuracy for _, accuracy, _ in found) / WORKERS == pytest.approx(term.accuracy)


def test_local_is_another_gradient_of_the_same_loss(results: list[dict]) -> None:
    for result in results:
        loss, _, gradients = result["all matched", "global"]
        local_loss, _, local_gradients = result["all matched", "local"]
        assert local_loss == loss
        assert (gradients[0] - local_gradients[0]).abs().max() > 1e-3
