"""Plans beside real optimisers, real sharding and the messages that FSDP really sends."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flava.core.precision import Precision
from flava.data.data_config import DataConfig
from flava.methods import method_of
from flava.models import FlavaConfig
from flava.objectives.accumulation import accumulated_losses
from flava.planning.costs import _fake_process_group, cost_of, fake_batch, fake_objective
from flava.planning.plan import Hardware, ParameterShards, plan
from flava.recipes import RECIPES
from flava.training.optimizer import build_optimizer
from flava.training.parallel import ParallelModel, losses_and_accuracies
from flava.training.trainer_config import Parallel
from tests.objectives.test_accumulation import whole
from tests.support import random_images, random_pairs, random_texts
from tests.tiny_runs import flava_run

RUN = flava_run(Path("nowhere"), DataConfig(), precision=Precision.FP32)
CPU = torch.device("cpu")
KINDS = ["pairs", "images", "text"]


def given(gpus: int = 8, **changes: Any) -> Hardware:
    return replace(Hardware(gpus=gpus, gpu="h100", utilisation=0.4), **changes)


def batch_of(kind: str) -> Any:
    config = RUN.model
    assert isinstance(config, FlavaConfig)
    if kind == "images":
        return random_images(config, 4)
    lengths = [5, 6, 7, 8]
    if kind == "text":
        return random_texts(config, lengths)
    pairs = random_pairs(config, lengths, torch.ones(4, dtype=torch.bool))
    return pairs if kind == "pairs" else whole(pairs)


# A GPU's part of the weights


def test_the_optimiser_holds_what_is_planned():
    objective = method_of(RUN.model).build(RUN)
    optimizer = build_optimizer(RUN.optimizer, objective.model)
    for each in objective.model.parameters():
        each.grad = torch.zeros_like(each) if each.requires_grad else None
    optimizer.step()
    states = [s for state in optimizer.state.values() for n, s in state.items() if n != "step"]
    planned = ParameterShards.of(objective.model, RUN, gpus=4).memory()
    assert planned["parameters"] == sum(p.nbytes for p in objective.model.parameters())
    assert planned["optimizer"] == sum(each.nbytes for each in states)


@pytest.mark.parametrize("ranks", [2, 8])
def test_sharded_weights_are_as_large_as_planned(ranks):
    run = replace(RUN, parallel=Parallel.FSDP)
    built = method_of(run.model).build(run)
    planned = ParameterShards.of(built.model, run, gpus=ranks).memory()["parameters"]
    with _fake_process_group(ranks):
        model = ParallelModel(run, method_of(run.model).build(run), torch.device("cpu")).model
    own = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    # Rank 0 has the longer parts of what cannot be cut equally.
    assert planned <= sum(p.nbytes for p in own) < 1.1 * planned


class Received(TorchDispatchMode):
    """Bytes that collectives bring to a rank, by what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, float] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping | None = None
    ) -> Any:
        if func.namespace == "c10d":
            name = func._schema.name.removeprefix("c10d::")
            sizes = [
                each.nbytes for each in tree_leaves(args[:2]) if isinstance(each, torch.Tensor)
            ]
            size = max(sizes) * (dist.get_world_size() - 1) / dist.get_world_size()
            self.bytes[name] = self.bytes.get(name, 0) + size
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", [*KINDS, "whole pairs"])
def test_fsdp_receives_what_is_planned(kind, accumulate):
    run, ranks = replace(RUN, parallel=Parallel.FSDP, accumulate=accumulate), 2
    batch = batch_of(kind)
    with _fake_process_group(ranks):
        objective = method_of(run.model).build(run)
        parallel = ParallelModel(run, objective, CPU)
        with Received() as received:
            parts = accumulated_losses(
                objective, [batch] * accumulate, parallel.training_module, CPU
            )
            for part in parts:
                with parallel.gradient_sync(is_last=part is parts[-1]):
                    losses, _ = parallel.training_module(partial(losses_and_accuracies, part))
                    torch.stack(list(losses.values())).sum().backward()
        reached = {n for n, p in parallel.model.named_parameters() if p.grad is not None}
    on_paper = fake_objective(run)
    cost = cost_of(on_paper, fake_batch(batch), torch.float32, ranks, accumulate)
    assert cost.with_gradient == reached
    planned = ParameterShards.of(on_paper.model, run, ranks).received(cost)
    # Parts that cannot be cut equally are filled up.
    assert received.bytes["_allgather_base_"] == pytest.approx(planned["weights"], rel=1e-3)
    scattered = received.bytes["_reduce_scatter_base_"]
    assert scattered == pytest.approx(planned["gradients"], rel=1e-2, abs=500)


# Whole plans

CASES = {
    "flava-tiny": {"pairs", "images", "text"},
    "flava-c-tiny": {"pairs"},
    "clip-pmd-tiny": {"pairs"},
    "image-dino-tiny": {"images"},
    "codebook-tiny": {"images"},
    "text-mlm-tiny": {"text"},
}
"""One for each model, objective and form of batch."""


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_recipe_is_planned_in_every_way(name):
    def planned(**changes: Any) -> dict[str, float]:
        found = plan(replace(RECIPES[name](), **changes), given(8))
        assert set(found.updates) == CASES[name]
        return {kind: sum(each.memory.values()) for kind, each in found.updates.items()}

    ddp, fsdp = planned(), planned(parallel=Parallel.FSDP)
    bare = planned(checkpoint_blocks=True)
    for kind in CASES[name]:
        assert 0 < bare[kind] <= ddp[kind]
        assert fsdp[kind] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_planned(name):
    found = plan(RECIPES[name](), given(32))  # the smallest batch of them
    assert found.days > 0
    assert sum(each.share for each in found.updates.values()) == pytest.approx(1)


def test_days_are_those_of_six_operations_a_weight_and_token():
    """RoBERTa's rule (Kaplan et al. 2020): 6 N a token for weights that each token passes; and two
    products of 12 d l for attention's scores and mixtures, three times."""
    run = RECIPES["text-mlm"]()
    planned = plan(run, given(8))
    tokens, layers, width = 2048 * 512, 12, 768
    blocks = 12 * layers * width**2
    head = 0.15 * (width * 30_522 + width**2)
    attention = 2 * layers * width * 512
    expected = 6 * tokens * (blocks + head + attention)
    (update,) = planned.updates.values()
    # The last block computes what is hidden alone; fused attention computes its scores twice.
    assert 8 * update.operations == pytest.approx(expected, rel=0.1)
    seconds = 125_000 * expected / (8 * 0.4 * 989e12)
    assert planned.days == pytest.approx(seconds / 86_400, rel=0.1)


def test_all_that_does_not_hold_is_told_at_once():
    run = replace(RECIPES["flava-tiny"](), parallel=Parallel.HYBRID)
    with pytest.raises(ValueError, match="cannot be planned") as error:
        plan(run, given(7, gpu="h1000", utilisation=1.5))
    for part in ("h1000", "1.5", "pairs.batch_size is 128", "text.batch_size is 128", "hybrid"):
        assert part in str(error.value)


def test_what_is_too_large_is_told_with_what_helps():
    large = plan(RECIPES["flava-mm"](), given(8, gpu="a100-40gb"))
    (misfit,) = large.misfits()
    assert "pairs" in misfit and "--checkpoint-blocks" in misfit
    assert not plan(RECIPES["flava-mm"](), given(256)).misfits()


def test_the_second_encoding_of_batches_that_count_as_one_is_planned_and_told():
    run = RECIPES["flava-c-tiny"]()
    ours, theirs = (plan(replace(run, accumulate=count), given(8)) for count in (1, 2))
    (one,), (two,) = ours.updates.values(), theirs.updates.values()
    # A third of a step is its forward pass.
    assert two.operations == pytest.approx(2 * 4 / 3 * one.operations, rel=0.05)
    assert two.computing == pytest.approx(2 * 4 / 3 * one.computing, rel=0.05)
    assert sum(two.memory.values()) < 1.1 * sum(one.memory.values())
    said = "the contrast of 2 batches of pairs as one encodes each once more: 25%"
    assert any(said in each for each in theirs.assumptions)
    assert not any("once more" in each for each in ours.assumptions)
