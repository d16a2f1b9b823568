"""Processes that are the ranks of a run, and batches that they share."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from flava.core.batch import Batch, Inputs
from flava.core.distributed import rank, world_size
from tests.support import random_images, random_pairs, random_texts, tiny_config

JOINED = 12
"""Samples of a batch of all ranks: 1, 2, 3 or 4 of them share it equally."""

Phase = tuple[int, Callable[[Path], None]]
"""So many ranks, and what each of them does in the folder of all results."""


def run_phases(phases: Sequence[Phase], folder: Path) -> None:
    """Do the phases one after another, in as many processes as the largest needs."""
    torch.set_num_threads(1)
    spawn(work, args=(phases, folder), nprocs=max(ranks for ranks, _ in phases))


def work(number: int, phases: Sequence[Phase], folder: Path) -> None:
    torch.set_num_threads(1)
    for index, (ranks, act) in enumerate(phases):
        if number < ranks:
            os.environ["LOCAL_WORLD_SIZE"] = str(ranks)
            meeting = f"file://{folder}/meeting-{index}"
            dist.init_process_group("gloo", init_method=meeting, rank=number, world_size=ranks)
            act(folder)
            dist.destroy_process_group()


def mixed_batches(first: int = 0) -> Iterator[Batch]:
    """Pairs, images, texts and again, always the same: joined batches of all ranks."""
    config = tiny_config()
    lengths = [3 + n % 5 for n in range(JOINED)]
    matched = torch.arange(JOINED) % 3 > 0
    while True:
        torch_state = torch.get_rng_state()
        torch.manual_seed(1000 + first)
        kind = first % 3
        if kind == 0:
            batch: Batch = random_pairs(config, lengths, matched)
        else:
            batch = random_images(config, JOINED) if kind == 1 else random_texts(config, lengths)
        torch.set_rng_state(torch_state)
        yield batch
        first += 1


def own_share(batches: Iterator[Batch]) -> Iterator[Batch]:
    """This rank's rows of each batch."""
    size = JOINED // world_size()
    for batch in batches:
        yield rows_of(batch, slice(rank() * size, (rank() + 1) * size))


def rows_of(batch: Any, rows: slice) -> Any:
    def cut(value: Any) -> Any:
        if isinstance(value, Tensor | tuple):
            return value[rows]
        return rows_of(value, rows) if isinstance(value, Batch | Inputs) else value

    return replace(batch, **{f.name: cut(getattr(batch, f.name)) for f in fields(batch)})
