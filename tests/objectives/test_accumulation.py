"""Batches that count as one, beside the joined batch: in one process, and in two."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

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
    TargetBatch,
    TextBatch,
    TextInputs,
    WholePairBatch,
    map_tensors,
    to_device,
)
from flava.core.distributed import Gather
from flava.models import Flava, classifier_of
from flava.objectives import (
    ClipObjective,
    ClipObjectiveConfig,
    FinetuneObjective,
    FlavaObjective,
    FlavaObjectiveConfig,
    accumulation,
)
from flava.objectives.accumulation import accumulated_losses
from tests.objectives.test_clip import tiny
from tests.support import (
    random_images,
    random_pairs,
    random_texts,
    randomise,
    tiny_config,
    tiny_model,
)

CPU = torch.device("cpu")
WORKERS = 2
PARTS, EACH = 4, 8
"""Four batches of eight are one of 32."""
TUNED = ("classes", "answers", "scores")
"""Fine-tuning, of which the batches differ in size."""
KINDS = ("pairs", "images", "coded images", "text", "whole pairs", "clip", *TUNED)


def lengths(part: int) -> list[int]:
    """Texts of a batch are padded to its longest, which differs between batches."""
    return [3 + (part * 5 + row * 3) % (4 + 2 * part) for row in range(EACH)]


def batches(kind: str) -> list[Batch]:
    torch.manual_seed(4)
    config = tiny_config()
    # The hidden shares differ, and in the second batch no pair matches.
    match kind:
        case "images":
            return [random_images(config, EACH, share=0.1 + 0.2 * part) for part in range(PARTS)]
        case "coded images":
            shares = [0.1 + 0.2 * part for part in range(PARTS)]
            return [coded(random_images(config, EACH, share)) for share in shares]
        case "text":
            return [random_texts(config, lengths(part), 0.1 + 0.2 * part) for part in range(PARTS)]
        case "clip":
            return [whole_pairs_of_clip(lengths(part)) for part in range(PARTS)]
        case "classes" | "answers" | "scores":
            return [targeted(kind, size) for size in (3, 8, 5, 2)]
    pairs = [
        random_pairs(config, lengths(part), torch.rand(EACH) < 0.8 * (part != 1))
        for part in range(PARTS)
    ]
    return [*pairs] if kind == "pairs" else [whole(batch) for batch in pairs]


def coded(batch: ImageBatch) -> CodedImageBatch:
    codes = torch.randint(tiny_config().codebook.codes, batch.patch_mask.shape)
    return CodedImageBatch(
        keys=batch.keys, pixels=batch.pixels, codes=codes, patch_mask=batch.patch_mask
    )


def targeted(kind: str, size: int) -> TargetBatch:
    config, keys = tiny_config(), tuple("abcdefgh"[:size])
    inputs = ImageInputs(pixels=random_images(config, size).pixels)
    match kind:
        case "classes":
            return LabelledBatch(keys=keys, inputs=inputs, labels=torch.randint(3, (size,)))
        case "answers":
            return AnsweredBatch(keys=keys, inputs=inputs, answers=torch.rand(size, 3))
    return ScoredBatch(keys=keys, inputs=inputs, scores=torch.randn(size))


def whole(batch: PairBatch) -> WholePairBatch:
    image = ImageInputs(pixels=batch.image.pixels)
    text = TextInputs(input_ids=batch.text.input_ids, attention_mask=batch.text.attention_mask)
    return WholePairBatch(keys=batch.keys, inputs=PairInputs(image=image, text=text))


def whole_pairs_of_clip(text_lengths: list[int]) -> WholePairBatch:
    attention_mask = torch.arange(9) < torch.tensor(text_lengths).clamp(max=9)[:, None]
    input_ids = torch.randint(1, 30, attention_mask.shape).where(attention_mask, 0)
    input_ids[torch.arange(EACH), attention_mask.sum(1) - 1] = 30
    image = ImageInputs(pixels=torch.randn(EACH, 3, 12, 12))
    text = TextInputs(input_ids=input_ids, attention_mask=attention_mask)
    return WholePairBatch(keys=tuple("abcdefgh"), inputs=PairInputs(image=image, text=text))


def together(parts: Sequence[Any]) -> Any:
    """The joined batch: rows one after another, texts padded to the longest."""

    def join(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        if not isinstance(values[0], Tensor):
            return sum(values, ()) if isinstance(values[0], tuple) else together(values)
        if isinstance(parts[0], TextBatch | TextInputs):
            longest = max(value.shape[1] for value in values)
            values = [functional.pad(v, (0, longest - v.shape[1])) for v in values]
        return torch.cat(values)

    return type(parts[0])(**{name: join(name) for name in vars(parts[0])})


Method = FlavaObjective | ClipObjective | FinetuneObjective


def objective(kind: str, reach: Gather = Gather.GLOBAL) -> Method:
    torch.manual_seed(0)
    if kind in TUNED:
        classes = () if kind == "scores" else ("ant", "bee", "cow")
        classifier = classifier_of(tiny_model(), "images", classes, hidden_width=None)
        randomise(classifier.head)
        return FinetuneObjective(classifier.eval())  # with no dropout in its head
    if kind == "clip":
        return ClipObjective(ClipObjectiveConfig(gather=reach), tiny())
    return FlavaObjective(FlavaObjectiveConfig(gather=reach), tiny_model())


Found = tuple[dict[str, float], dict[str, Tensor]]
"""Losses and gradients by name."""


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def at_once(kind: str, reach: Gather = Gather.GLOBAL) -> Found:
    """What is to be matched: the joined batch in one pass."""
    method = objective(kind, reach)
    terms = method(together(batches(kind)))
    torch.stack([term.loss for term in terms.values()]).sum().backward()
    return {name: term.loss.item() for name, term in terms.items()}, gradients(method.model)


class Inside(nn.Module):
    """What the training loop wraps: it calls a function of the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, step: Callable[[], Any]) -> Any:
        return step()


def in_parts(method: Method, parts: Sequence[Batch], inside: nn.Module) -> Found:
    """As the training loop does: gradients are added up, and means are taken."""
    losses: list[dict[str, float]] = []
    for index, part in enumerate(accumulated_losses(method, parts, inside, CPU)):
        if isinstance(inside, DistributedDataParallel):
            inside.require_backward_grad_sync = index == len(parts) - 1
        found = inside(lambda part=part: {name: term.loss for name, term in part().items()})
        (torch.stack(list(found.values())).sum() / len(parts)).backward()
        losses.append({name: loss.item() for name, loss in found.items()})
    means = {name: sum(each[name] for each in losses) / len(losses) for name in losses[0]}
    return means, gradients(method.model)


def assert_same(found: Found, wanted: Found) -> None:
    """To what sums of 32 bits in another order differ by."""
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    assert found[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=2e-6, msg=name)


@pytest.mark.parametrize("reach", Gather)
@pytest.mark.parametrize("kind", KINDS)
def test_four_batches_are_the_joined_one(kind, reach):
    method = objective(kind, reach)
    assert_same(in_parts(method, batches(kind), Inside(method.model)), at_once(kind, reach))


def test_one_batch_is_what_it_was():
    method = objective("pairs")
    batch = batches("pairs")[0]
    (part,) = accumulated_losses(method, [batch], Inside(method.model), CPU)
    for name, term in method(batch).items():
        assert torch.equal(part()[name].loss, term.loss)


def test_the_contrast_of_each_is_that_of_all():
    method = objective("whole pairs")
    parts = accumulated_losses(method, batches("whole pairs"), Inside(method.model), CPU)
    terms = [part()["gc"] for part in parts]
    of_all = method(together(batches("whole pairs")))["gc"]
    for term in terms:
        assert term.loss.item() == pytest.approx(of_all.loss.item(), rel=1e-5)
        assert term.accuracy == of_all.accuracy


def test_what_is_dropped_at_random_is_dropped_again():
    """A batch's second encoding has the features of the first, and later draws are new."""
    config = tiny_config()
    config = replace(config, image=replace(config.image, drop_path=0.5))
    model = Flava(config).train()
    method = FlavaObjective(FlavaObjectiveConfig(), model)
    encoded: list[Tensor] = []
    encode = model.encode_image

    def watched(pixels: Tensor) -> Tensor:
        features = encode(pixels)
        encoded.append(features.detach())
        return features

    model.encode_image = watched
    parts = accumulated_losses(method, batches("whole pairs"), Inside(model), CPU)
    before = torch.get_rng_state()
    for part in parts:
        part()
    assert torch.equal(torch.get_rng_state(), before)
    first, second = encoded[:PARTS], encoded[PARTS:]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    every = together(batches("whole pairs"))
    assert not torch.equal(model.eval().encode_image(every.inputs.image.pixels)[:EACH], first[0])


@pytest.mark.parametrize("kind", ["pairs", "whole pairs", "images", "classes"])
def test_one_batch_at_a_time_is_on_the_device(kind, monkeypatch):
    there: list[weakref.ref[Tensor]] = []

    def move(batch: Any, device: torch.device) -> Any:
        assert not any(each() is not None for each in there)

        def copied(value: Tensor) -> Tensor:
            copy = value.clone()
            there.append(weakref.ref(copy))
            return copy

        return map_tensors(to_device(batch, device), copied)

    monkeypatch.setattr(accumulation, "to_device", move)
    method = objective(kind)
    in_parts(method, batches(kind), Inside(method.model))
    assert there


def work(worker: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=worker, world_size=WORKERS
    )
    results = {}
    for kind in KINDS:
        for of_rank in (PARTS // WORKERS, 1):
            # One of them has more to predict than the other.
            every = batches(kind) if of_rank > 1 else [batches(kind)[0], batches(kind)[3]]
            method = objective(kind)
            inside = DistributedDataParallel(Inside(method.model), find_unused_parameters=True)
            mine = every[worker * of_rank : (worker + 1) * of_rank]
            losses, found = in_parts(method, mine, inside)
            shared = torch.tensor([*losses.values()], dtype=torch.float64)
            dist.all_reduce(shared)
            means = dict(zip(losses, (shared / WORKERS).tolist(), strict=True))
            results[kind, of_rank] = means, {n: g.clone() for n, g in found.items()}
    torch.save(results, folder / f"{worker}.pt")
    dist.destroy_process_group()


def test_two_processes_with_two_batches_each_are_one_with_the_joined_batch(tmp_path):
    """And two with one each: what counts more there weighs more."""
    spawn(work, args=(tmp_path,), nprocs=WORKERS)
    for worker in range(WORKERS):
        results = torch.load(tmp_path / f"{worker}.pt")
        for kind in KINDS:
            assert_same(results[kind, 2], at_once(kind))
            method = objective(kind)
            terms = method(together([batches(kind)[0], batches(kind)[3]]))
            torch.stack([term.loss for term in terms.values()]).sum().backward()
            losses = {name: term.loss.item() for name, term in terms.items()}
            assert_same(results[kind, 1], (losses, gradients(method.model)))
