"""`--profile`: a trace of a few updates, which ui.perfetto.dev and chrome://tracing open."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from flava.distributed import rank
from flava.training.run import LoopConfig

PASSED, WARM, RECORDED = 3, 1, 3
"""Updates before the profiler, while it warms up, and in the trace (ours: allocators and caches
have settled by then)."""


@contextmanager
def profiled(run: LoopConfig) -> Iterator[Callable[[], None]]:
    """What is to be called after each update. ``trace.json.gz`` in the run's folder is of rank 0;
    parts of an update stand in it by the names of `meter.PARTS`."""
    if not run.profile or rank() != 0:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)

    def write(profiler: profile) -> None:
        profiler.export_chrome_trace(str(run.output_dir / "trace.json.gz"))

    with profile(
        activities=activities,
        schedule=schedule(skip_first=PASSED, wait=0, warmup=WARM, active=RECORDED, repeat=1),
        on_trace_ready=write,
    ) as profiler:
        yield profiler.step
