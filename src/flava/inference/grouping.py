"""Inputs in groups that are computed at once, and prepared ahead of that by threads."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

THREADS = 2
"""Preparing images. PIL lets go of Python's lock, so they do not wait for each other."""

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")


def groups(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices from short to long, in groups of at most ``tokens`` when padded to the longest.

    Equal lengths stay in the order given. What is longer than ``tokens`` is a group of its own.
    """
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and (len(group) + 1) * lengths[index] > tokens:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def prepare(
    function: Callable[[Item], Prepared], batches: Iterator[Sequence[Item]]
) -> Iterator[list[Prepared]]:
    """The function's results for each batch's items, computed one batch ahead of what is asked for.

    Raises:
        Whatever the function raises, when the batch is asked for.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[list[Future[Prepared]]] = deque()

        def submit(count: int) -> None:
            for batch in islice(batches, count):
                waiting.append([pool.submit(function, item) for item in batch])

        try:
            submit(2)
            while waiting:
                done = [future.result() for future in waiting.popleft()]
                yield done
                submit(1)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
