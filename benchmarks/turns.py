"""Runs tasks in this process, or in another one with its own memory and allocator."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import unwrap
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from flava.planning.costs import FLOP_FORMULAS

aten = torch.ops.aten

Calls = Mapping[str, Callable[[], object]]
"""Name -> task."""


@dataclass(frozen=True)
class Here:
    """A task in this process."""

    call: Callable[[], object]

    def seconds(self) -> float:
        started = time.perf_counter()
        self.call()
        return time.perf_counter() - started

    def operations(self) -> int:
        """Operations of one call: floating-point ones as torch counts them, and int8 products."""
        # torch wraps these functions itself, so they are given unwrapped.
        ours = FLOP_FORMULAS.keys() - flop_registry.keys()
        more = {op: unwrap(FLOP_FORMULAS[op]) for op in ours}
        more[aten._int_mm] = unwrap(flop_registry[aten.mm])
        with FlopCounterMode(display=False, custom_mapping=more) as counter:
            self.call()
        return counter.get_total_flops()


@dataclass(frozen=True)
class Elsewhere:
    """A task in another process, which runs it on request."""

    connection: Connection
    name: str

    def seconds(self) -> float:
        return self.ask("seconds")

    def operations(self) -> int:
        return self.ask("operations")

    def ask(self, question: str) -> Any:
        self.connection.send((self.name, question))
        return self.connection.recv()


Work = Here | Elsewhere


@contextmanager
def process(make: Callable[[], Calls]) -> Iterator[dict[str, Elsewhere]]:
    """The tasks that ``make`` creates in a new process, which ends with the context."""
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    child = context.Process(target=serve, args=(other, make, torch.get_num_threads()), daemon=True)
    child.start()
    other.close()  # so that recv() fails when the child ends
    try:
        yield {name: Elsewhere(own, name) for name in own.recv()}
    finally:
        own.close()
        child.join()


def serve(connection: Connection, make: Callable[[], Calls], threads: int) -> None:
    """Do what the other side asks for, until it is gone."""
    torch.set_num_threads(threads)
    calls = make()
    connection.send(list(calls))
    try:
        while True:
            name, question = connection.recv()
            connection.send(getattr(Here(calls[name]), question)())
    except EOFError:
        return
