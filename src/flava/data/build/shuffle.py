"""A random order of any number of samples that is computed, not held.

A Feistel network permutes all numbers of an even number of bits: their halves take turns, and each
turn changes one half by what a hash makes of the other, which can be undone whatever the hash is.
A number that comes out beyond the samples goes in again until it is one of them (cycle walking,
Black and Rogaway 2002), which leaves a permutation of the samples. So any place of the order is
computed by itself, in no memory, by any process.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt64

from flava.data.build.duplicates import mixed

SEED = 0
"""Of the order of a build's samples, together with the name of the source."""
ROUNDS = 8
"""Turns; three are enough to look random where the hash is good (Luby and Rackoff 1988)."""
UPPER = np.uint64(32)
"""Bits of a hash that are not used: the upper ones are as good, and enough for a half."""


@dataclass(frozen=True)
class Permutation:
    """Which of ``size`` samples stands at a place; ``name`` stands for one permutation of many."""

    size: int
    name: str

    def __call__(self, places: Int64[np.ndarray, " places"]) -> Int64[np.ndarray, " places"]:
        """The samples at these places, all of them from 0 to ``size`` - 1."""
        found = self._permuted(places.astype(np.uint64))
        while (beyond := np.flatnonzero(found >= np.uint64(self.size))).size:
            found[beyond] = self._permuted(found[beyond])
        return found.astype(np.int64)

    def _permuted(self, values: UInt64[np.ndarray, " values"]) -> UInt64[np.ndarray, " values"]:
        """Each as another number of the fewest bits that all samples need, an even number."""
        bits = max(1, ((self.size - 1).bit_length() + 1) // 2)
        half, mask = np.uint64(bits), np.uint64(2**bits - 1)
        left, right = values >> half, values & mask
        for key in self._keys():
            left, right = right, left ^ ((mixed(right ^ key) >> UPPER) & mask)
        return (left << half) | right

    def _keys(self) -> UInt64[np.ndarray, " rounds"]:
        digest = hashlib.blake2b(f"{SEED} {self.name}".encode(), digest_size=8 * ROUNDS).digest()
        return np.frombuffer(digest, "<u8").astype(np.uint64)
