"""Randomness that belongs to one sample: the same in whichever worker or batch it lands."""

import hashlib

import numpy as np


def generator(seed: int, epoch: int, key: str) -> np.random.Generator:
    """A generator that is a pure function of the run's seed, the epoch and a sample's key."""
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{key}".encode(errors="replace"), digest_size=16)
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest.digest(), "little")))
