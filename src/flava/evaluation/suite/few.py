"""A few of many, for a trial of the path."""

from collections.abc import Sequence
from typing import TypeVar

from flava.data.seeding import generator

Item = TypeVar("Item")


def few_of(items: Sequence[Item], few: int | None, seed: int, name: str) -> list[Item]:
    """``few`` of the items, drawn by the seed and the name, in their order; all if not set."""
    if few is None or len(items) <= few:
        return list(items)
    chosen = generator(seed, 0, f"few of {name}").permutation(len(items))[:few]
    return [items[i] for i in sorted(chosen)]
