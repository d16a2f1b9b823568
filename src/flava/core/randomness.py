"""Random generators that depend on a seed and a name alone, and subsamples drawn with them."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np


def random_generator(seed: int, epoch: int, key: str) -> np.random.Generator:
    """A generator that is a pure function of the run's seed, the epoch and a sample's key."""
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{key}".encode(errors="replace"), digest_size=16)
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest.digest(), "little")))


T = TypeVar("T")


def subsample(items: Sequence[T], few: int | None, seed: int, name: str) -> list[T]:
    """``few`` items drawn by the seed and the name, in their order; all of them if it is None."""
    if few is None or len(items) <= few:
        return list(items)
    chosen = random_generator(seed, 0, f"few of {name}").permutation(len(items))[:few]
    return [items[i] for i in sorted(chosen)]
