import math
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from flava.core.precision import Precision
from flava.methods import method_of
from flava.models import FlavaConfig
from flava.planning import costs
from flava.planning.operations import WorkCounter
from flava.recipes.start import start
from tests.support import random_pairs
from tests.tiny_runs import figures, flava_data, flava_run, rows


def test_work_is_real_tokens_and_the_operations_that_torch_counts(tmp_path, monkeypatch):
    # In 16 bits the CPU's attention is not fused: torch has no formula for that of CPUs.
    run = flava_run(tmp_path, flava_data(tmp_path / "data"), precision=Precision.BF16)
    checkpointed = replace(run, checkpoint_blocks=True)
    assert isinstance(run.model, FlavaConfig)
    batch = random_pairs(run.model, [3, 7, 12], torch.ones(3, dtype=torch.bool))
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        terms = method_of(run.model).build(run)(batch)
        torch.stack([term.loss for term in terms.values()]).sum().backward()
    monkeypatch.setattr(costs, "_as_on_gpu", nullcontext)
    state = torch.get_rng_state()
    work = WorkCounter(checkpointed)(batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert work.tokens == 3 * 2 * 2 + 3 + 7 + 12
    assert work.operations == counter.get_total_flops()


def test_rows_tell_tokens_operations_and_temperature(tmp_path):
    run = flava_run(
        tmp_path / "run", flava_data(tmp_path / "data"), max_steps=6, precision=Precision.FP32
    )
    run = replace(run, data=replace(run.data, images=None), init=replace(run.init, codebook=None))
    run = replace(run, data=replace(run.data, mask_pairs=False))
    start(run)
    for row in rows(run.output_dir):
        if "loss/total" not in row:
            continue
        assert row["tokens_per_second"] > row["samples_per_second"]
        assert row["tflops_per_second"] > 0
        assert "mfu" not in row  # of a CPU no peak is known
    temperatures = [r["temperature"] for r in figures(run.output_dir) if "temperature" in r]
    assert math.isclose(temperatures[0], 0.07, rel_tol=1e-4)
    assert len(set(temperatures)) > 1
