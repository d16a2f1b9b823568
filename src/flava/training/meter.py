"""What the parts of an update cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch
from torch.profiler import record_function

PARTS: tuple[str, ...] = ("data", "forward", "backward", "optimizer")


class Meter:
    """Seconds of each part of an update, on the device that computes it.

    A GPU works behind the program: there, marks are put into its own queue and read when the update
    is over, so that no part waits for another.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.begin()

    def begin(self) -> None:
        """A new update."""
        self.started = perf_counter()
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Where one of `PARTS` is computed; a profile shows it by that name."""
        with record_function(name):
            if self.cuda and name != "data":
                first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                first.record()
                yield
                last.record()
                self.marks.append((name, first, last))
                return
            started = perf_counter()
            yield
            self.seconds[name] += perf_counter() - started

    def end(self) -> float:
        """The seconds of the whole update, whose work is then done."""
        if self.marks:
            self.marks[-1][2].synchronize()
        for name, first, last in self.marks:
            self.seconds[name] += first.elapsed_time(last) / 1000
        return perf_counter() - self.started

    def row(self) -> dict[str, float]:
        """The seconds of each part, by the names of metrics.jsonl."""
        return {f"{name}_seconds": seconds for name, seconds in self.seconds.items()}
