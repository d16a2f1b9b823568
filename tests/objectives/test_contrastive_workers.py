"""The contrastive loss on two workers, beside one process that sees everything."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy, normalize

from flava.core.distributed import Gather
from flava.objectives import losses
from flava.objectives.losses import contrastive

WORKERS = 2
PAIRS = 8
"""Of both workers together."""

ROWS = {
    "all matched": [1, 1, 1, 1, 1, 1, 1, 1],
    "equally many mismatched": [1, 0, 1, 1, 1, 1, 1, 0],
    "more mismatched on one": [1, 0, 0, 1, 1, 1, 1, 1],
    "one with none": [0, 0, 0, 0, 1, 1, 1, 1],
}
FIRST = {"equal batches": 4, "more pairs on the first": 5, "many more on the second": 1}
"""Pairs of the first worker; the second has the others."""
CASES = [(name, sizes, reach) for name in ROWS for sizes in FIRST for reach in Gather]

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Image and text before normalisation, the weight that both go through, the scale."""


def inputs() -> Inputs:
    generator = torch.Generator().manual_seed(3)
    shapes = ((PAIRS, 5), (PAIRS, 5), (5, 6))
    image, text, weight = (torch.randn(shape, generator=generator) for shape in shapes)
    return image, text, weight.requires_grad_(), torch.tensor(1.2, requires_grad=True)


def features(image: Tensor, text: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return normalize(image @ weight, dim=1), normalize(text @ weight.flip(1), dim=1)


def shard(worker: int, sizes: str) -> slice:
    return slice(FIRST[sizes], PAIRS) if worker else slice(FIRST[sizes])


def every_case(worker: int) -> dict:
    results = {}
    for name, sizes, reach in CASES:
        image, text, weight, scale = inputs()
        mine = shard(worker, sizes)
        pair = features(image[mine], text[mine], weight)
        rows = torch.tensor(ROWS[name][mine], dtype=torch.bool)
        term = contrastive(*pair, scale, rows, reach)
        term.loss.backward()
        gradients = [weight.grad, scale.grad]
        for gradient in gradients:
            assert gradient is not None
            dist.all_reduce(gradient)
            gradient /= WORKERS
        results[name, sizes, reach.value] = (term.loss.item(), term.accuracy, gradients)
    return results


def work(worker: int, folder: Path) -> None:
    """One worker: its losses, and its gradients averaged as DDP does; then in blocks."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=worker, world_size=WORKERS
    )
    results = every_case(worker)
    losses.MAX_LOGITS_AT_ONCE, losses.BLOCK_SIZE = 0, 3
    torch.save((results, every_case(worker)), folder / f"{worker}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict, dict]]:
    folder = tmp_path_factory.mktemp("workers")
    spawn(work, args=(folder,), nprocs=WORKERS)
    return [torch.load(folder / f"{worker}.pt") for worker in range(WORKERS)]


@pytest.fixture(scope="module")
def results(both: list[tuple[dict, dict]]) -> list[dict]:
    return [undivided for undivided, _ in both]


def test_in_blocks_it_is_the_same(both: list[tuple[dict, dict]]) -> None:
    for undivided, in_blocks in both:
        for case, (loss, accuracy, gradients) in undivided.items():
            assert in_blocks[case][0] == pytest.approx(loss, rel=1e-5, abs=1e-7)
            assert in_blocks[case][1] == accuracy
            torch.testing.assert_close(in_blocks[case][2], gradients)


def share(
    worker: int, rows: Tensor, sizes: str, pair: tuple[Tensor, Tensor], scale: Tensor
) -> Tensor:
    """What a worker's rows add to the mean over workers: their share of the mean over all rows."""
    own = torch.zeros(PAIRS, dtype=torch.bool)
    own[shard(worker, sizes)] = True
    asked = (own & rows).nonzero()[:, 0]
    loss = torch.zeros(())
    for questions, answers in (pair, pair[::-1]):
        logits = scale.exp() * questions @ answers.T
        loss = loss + cross_entropy(logits[asked], asked, reduction="sum") / 2
    return WORKERS * loss / rows.sum()


def open_clips_local(
    worker: int, rows: Tensor, sizes: str, pair: tuple[Tensor, Tensor], scale: Tensor
) -> Tensor:
    """OpenCLIP's, as of 2021: the loss of all rows, with others' features as constants."""
    own = torch.zeros(PAIRS, dtype=torch.bool)
    own[shard(worker, sizes)] = True
    image, text = (torch.where(own[:, None], each, each.detach()) for each in pair)
    logits, asked = scale.exp() * image @ text.T, rows.nonzero()[:, 0]
    both = (cross_entropy(each[asked], asked) for each in (logits, logits.T))
    return torch.stack(list(both)).mean()


@pytest.mark.parametrize(("name", "sizes", "reach"), CASES)
def test_against_the_definition(results: list[dict], name: str, sizes: str, reach: Gather) -> None:
    """Loss of each worker; and the averaged gradient is that of the mean of the losses."""
    image, text, weight, scale = inputs()
    pair = features(image, text, weight)
    rows = torch.tensor(ROWS[name], dtype=torch.bool)
    losses = [share(worker, rows, sizes, pair, scale) for worker in range(WORKERS)]
    define = share if reach is Gather.GLOBAL else open_clips_local
    defined = [define(worker, rows, sizes, pair, scale) for worker in range(WORKERS)]
    torch.stack(defined).mean().backward()
    for worker, result in enumerate(results):
        loss, _, gradients = result[name, sizes, reach.value]
        assert loss == pytest.approx(losses[worker].item(), rel=1e-5)
        torch.testing.assert_close(gradients, [weight.grad, scale.grad])


@pytest.mark.parametrize("sizes", FIRST)
@pytest.mark.parametrize("name", ROWS)
def test_global_is_one_process_on_the_joined_batch(
    results: list[dict], name: str, sizes: str
) -> None:
    image, text, weight, scale = inputs()
    rows = torch.tensor(ROWS[name], dtype=torch.bool)
    term = contrastive(*features(image, text, weight), scale, rows, Gather.GLOBAL)
    term.loss.backward()
    found = [result[name, sizes, "global"] for result in results]
    for _, _, gradients in found:
        torch.testing.assert_close(gradients, [weight.grad, scale.grad])
    assert sum(loss for loss, *_ in found) / WORKERS == pytest.approx(term.loss.item(), rel=1e-5)


@pytest.mark.parametrize("reach", Gather)
def test_a_workers_accuracy_is_that_of_its_rows(results: list[dict], reach: Gather) -> None:
    image, text, weight, scale = inputs()
    rows = torch.tensor(ROWS["all matched"], dtype=torch.bool)
    term = contrastive(*features(image, text, weight), scale, rows, Gather.GLOBAL)
    for sizes, first in FIRST.items():
        found = [result["all matched", sizes, reach.value][1] for result in results]
        assert (first * found[0] + (PAIRS - first) * found[1]) / PAIRS == pytest.approx(
            term.accuracy
        )


@pytest.mark.parametrize("sizes", FIRST)
def test_local_is_another_gradient_of_the_same_loss(results: list[dict], sizes: str) -> None:
    for result in results:
        loss, _, gradients = result["all matched", sizes, "global"]
        local_loss, _, local_gradients = result["all matched", sizes, "local"]
        assert local_loss == loss
        assert (gradients[0] - local_gradients[0]).abs().max() > 1e-3


def test_workers_within_one_process_are_workers(results: list[dict]) -> None:
    """Loss and gradient of the local contrast in one process, as averaged over two."""
    for name in ("all matched", "equally many mismatched"):
        image, text, weight, scale = inputs()
        rows = torch.tensor(ROWS[name], dtype=torch.bool)
        pair = features(image, text, weight)
        term = contrastive(*pair, scale, rows, Gather.LOCAL, ranks=WORKERS)
        term.loss.backward()
        found = [result[name, "equal batches", "local"] for result in results]
        for _, _, gradients in found:
            torch.testing.assert_close(gradients, [weight.grad, scale.grad])
        assert sum(loss for loss, *_ in found) / WORKERS == pytest.approx(term.loss.item())
