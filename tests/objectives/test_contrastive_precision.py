"""Contrast is computed in 32 bits under autocast too, on one rank and on two, at once and in
blocks, and over several batches: loss and gradients are those that there are without autocast."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from flava.core.batch import ImageInputs, PairInputs, TextInputs, WholePairBatch
from flava.core.distributed import Gather
from flava.models import MAX_LOGIT_SCALE
from flava.models.flava import unit_length
from flava.objectives import ClipObjective, ClipObjectiveConfig, losses
from flava.objectives.accumulation import accumulated_losses
from flava.objectives.losses import contrastive
from tests.objectives.test_clip import tiny

PAIRS, WIDTH, WORKERS = 24, 32, 2
CPU = torch.device("cpu")
Found = tuple[float, list[Tensor]]
"""The loss, and the gradients of images, texts and temperature."""


def vectors() -> list[Tensor]:
    """Images and texts that are nearly those of the next pair: hard negatives."""
    draw = torch.Generator().manual_seed(0)
    centers = torch.randn(PAIRS // 4, WIDTH, generator=draw).repeat_interleave(4, 0)
    return [
        (centers + 0.15 * torch.randn(PAIRS, WIDTH, generator=draw)).requires_grad_()
        for _ in range(2)
    ]


def warmest() -> Tensor:
    """Temperature 0.01."""
    return torch.tensor(MAX_LOGIT_SCALE, requires_grad=True)


def contrast(own: slice, *, lower: bool) -> Found:
    """As an objective takes it: features are brought to unit length under autocast as well."""
    image, text = vectors()
    scale = warmest()
    rows = torch.arange(PAIRS) % 5 > 0
    with torch.autocast("cpu", torch.bfloat16, enabled=lower):
        pair = unit_length(image[own]), unit_length(text[own])
        loss = contrastive(*pair, scale, rows[own], Gather.GLOBAL).loss
    loss.backward()
    return loss.item(), [each.grad for each in (image, text, scale) if each.grad is not None]


def assert_same(found: Found, wanted: Found) -> None:
    """But for rounding in 32 bits, of logits of up to 100."""
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    for ours, theirs in zip(found[1], wanted[1], strict=True):
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()


def test_the_negatives_are_hard() -> None:
    """So that the loss depends on small differences of large logits."""
    loss, gradients = contrast(slice(PAIRS), lower=False)
    assert loss > 0.1
    assert all(gradient.norm() > 0.1 for gradient in gradients)


@pytest.mark.parametrize("undivided", [losses.MAX_LOGITS_AT_ONCE, 0])
def test_on_one_rank(monkeypatch: pytest.MonkeyPatch, undivided: int) -> None:
    wanted = contrast(slice(PAIRS), lower=False)
    monkeypatch.setattr(losses, "MAX_LOGITS_AT_ONCE", undivided)
    monkeypatch.setattr(losses, "BLOCK_SIZE", 7)
    assert_same(contrast(slice(PAIRS), lower=True), wanted)


def work(worker: int, folder: Path) -> None:
    """One of two ranks: its loss, and the gradients averaged as DDP does."""
    meeting = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meeting, rank=worker, world_size=WORKERS)
    losses.BLOCK_SIZE = 7
    found = []
    for undivided in (losses.MAX_LOGITS_AT_ONCE, 0):
        losses.MAX_LOGITS_AT_ONCE = undivided
        half = PAIRS // WORKERS
        loss, gradients = contrast(slice(worker * half, (worker + 1) * half), lower=True)
        means = [torch.tensor(loss), *gradients]
        for each in means:
            dist.all_reduce(each)
            each /= WORKERS
        found.append((means[0].item(), means[1:]))
    torch.save(found, folder / f"{worker}.pt")
    dist.destroy_process_group()


def test_two_ranks_are_one_without_autocast(tmp_path: Path) -> None:
    spawn(work, args=(tmp_path,), nprocs=WORKERS)
    wanted = contrast(slice(PAIRS), lower=False)
    for worker in range(WORKERS):
        for found in torch.load(tmp_path / f"{worker}.pt"):
            assert_same(found, wanted)


# Over several batches


def numbered(first: int, size: int) -> WholePairBatch:
    """Pairs that are told by their numbers alone."""
    numbers = torch.arange(first, first + size)
    image = ImageInputs(pixels=numbers.float()[:, None, None, None].expand(-1, 3, 1, 1))
    text = TextInputs(
        input_ids=numbers[:, None], attention_mask=torch.ones(size, 1, dtype=torch.bool)
    )
    inputs = PairInputs(image=image, text=text)
    return WholePairBatch(keys=tuple(map(str, numbers.tolist())), inputs=inputs)


def accumulated(batches: Sequence[WholePairBatch], *, lower: bool) -> Found:
    """With an encoder that looks the features up, in which nothing is rounded."""
    image, text = vectors()
    model = tiny()
    model.logit_scale.data.fill_(MAX_LOGIT_SCALE)
    model.encode_image = lambda pixels: unit_length(image[pixels[:, 0, 0, 0].long()])
    model.encode_text = lambda input_ids, attention_mask: unit_length(text[input_ids[:, 0]])  # noqa: ARG005
    objective = ClipObjective(ClipObjectiveConfig(gather=Gather.GLOBAL), model)

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=lower)

    with autocast():
        parts = accumulated_losses(objective, batches, lambda step: step(), CPU)
    found = []
    for part in parts:
        with autocast():
            loss = part()["gc"].loss
        (loss / len(parts)).backward()
        found.append(loss.item())
    gradients = [each.grad for each in (image, text, model.logit_scale) if each.grad is not None]
    return sum(found) / len(found), gradients


def test_over_several_batches() -> None:
    parts = [numbered(first, PAIRS // 3) for first in range(0, PAIRS, PAIRS // 3)]
    wanted = accumulated([numbered(0, PAIRS)], lower=False)
    assert_same(accumulated(parts, lower=False), wanted)
    assert_same(accumulated(parts, lower=True), wanted)
