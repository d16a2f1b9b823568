"""Duplicates among any number of samples, in bounded memory: exact ones, and near ones by pHash.

Near-duplicates are found without comparing all with all: hashes that differ in at most d of 64 bits
agree in at least two of any d + 2 pieces of these bits (at most d pieces hold a difference). So the
samples are gone through once for each two pieces, and compared where these are equal. Each pass is
divided by the value of the pieces, so that no more than ``PART`` samples are held at a time,
whatever their number is (unless more than that look alike).
"""

import hashlib
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt64

PART = 4_000_000
"""Samples that are held at once: some 100 bytes each."""
BITS = 64
PLACE = np.uint32
"""Of a sample among all of them: two such are held for each, so that 70 million take 560 MB."""
NONE = np.iinfo(np.int64).max
"""After the place of every sample."""

Hashes = UInt64[np.ndarray, " samples"]
Chosen = Bool[np.ndarray, " samples"]
Key = Callable[[Hashes], Hashes]

_COUNTS = np.array([number.bit_count() for number in range(2**16)], np.uint8)


def repeated(
    contents: Hashes, part: int = PART, among: Chosen | None = None
) -> Bool[np.ndarray, " samples"]:
    """Which samples have an equal one before them.

    Args:
        among: Those that are looked at; all by default.
    """
    found = np.zeros(len(contents), bool)
    for chosen in parts(contents, lambda values: values, part, among):
        order = chosen[np.argsort(contents[chosen], kind="stable")]
        values = contents[order]
        found[order[1:][values[1:] == values[:-1]]] = True
    return found


def near_earlier(
    looks: Hashes,
    images: Hashes,
    distance: int,
    part: int = PART,
    among: Chosen | None = None,
) -> Bool[np.ndarray, " samples"]:
    """Which samples look like one of another image, which came up before theirs did.

    Args:
        looks: Perceptual hashes.
        images: What the samples of one image share. Several texts of an image are no duplicates.
        distance: Bits in which hashes differ at most.
        among: As for ``repeated``.
    """
    begins = beginnings(images, part, among)
    first = begins.copy()
    for key in keys(distance):
        for chosen in parts(looks, key, part, among):
            first[chosen] = earliest(looks[chosen], begins[chosen], first[chosen], key, distance)
    return first < begins


def beginnings(
    images: Hashes, part: int, among: Chosen | None = None
) -> Integer[np.ndarray, " samples"]:
    """Of each sample the place of the first of its image."""
    found = np.zeros(len(images), PLACE)
    for chosen in parts(images, lambda values: values, part, among):
        _, firsts, groups = np.unique(images[chosen], return_index=True, return_inverse=True)
        found[chosen] = chosen[firsts[groups]]
    return found


def near_any(
    looks: Hashes, others: UInt64[np.ndarray, " others"], distance: int, part: int = PART
) -> Bool[np.ndarray, " samples"]:
    """Which samples look like any of others."""
    found = np.zeros(len(looks), bool)
    different = np.unique(others)
    for key in keys(distance):
        wanted = different[np.argsort(key(different), kind="stable")]
        wanted_keys = key(wanted)
        for start in range(0, len(looks), part):
            some = np.asarray(looks[start : start + part])
            some_keys = key(some)
            begin = np.searchsorted(wanted_keys, some_keys, "left")
            end = np.searchsorted(wanted_keys, some_keys, "right")
            while (left := np.flatnonzero(begin < end)).size:
                close = differing(some[left], wanted[begin[left]]) <= distance
                found[start + left[close]] = True
                begin[left] += 1
                end[left[close]] = 0  # found: no need to look further
    return found


def keys(distance: int) -> Iterator[Key]:
    """For each two of ``distance`` + 2 pieces of the bits, what takes these from hashes."""
    edges = np.linspace(0, BITS, distance + 3).round().astype(int).tolist()
    masks = [sum(1 << bit for bit in range(*edge)) for edge in pairwise(edges)]
    for two in combinations(masks, 2):
        mask = np.uint64(sum(two))
        yield lambda values, mask=mask: values & mask


def parts(
    looks: Hashes, key: Key, size: int, among: Chosen | None = None
) -> Iterator[Int64[np.ndarray, " chosen"]]:
    """The places of the samples in parts of about ``size``; those of one key are in one part."""
    count = -(-len(looks) // size)
    for number in range(count):
        chosen = []
        for start in range(0, len(looks), size):
            values = key(np.asarray(looks[start : start + size]))
            here = mixed(values) % np.uint64(count) == number
            if among is not None:
                here &= among[start : start + size]
            chosen.append(start + np.flatnonzero(here))
        yield np.concatenate(chosen)


def mixed(values: Hashes) -> Hashes:
    """Spread evenly, whichever bits the values differ in: MurmurHash3's fmix64."""
    half = np.uint64(33)
    with np.errstate(over="ignore"):
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            values = (values ^ (values >> half)) * np.uint64(factor)
    return values ^ (values >> half)


def hash_of(content: bytes) -> int:
    """64 bits; among 70 million contents two share them with a probability of 1 in 7,500."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def differing(left: Hashes, right: Hashes) -> UInt64[np.ndarray, " pairs"]:
    """Bits in which hashes differ."""
    words = np.ascontiguousarray(left ^ right).view(np.uint16).reshape(-1, BITS // 16)
    return _COUNTS[words].sum(axis=1, dtype=np.uint64)


def earliest(
    looks: Hashes,
    begins: Integer[np.ndarray, " samples"],
    first: Integer[np.ndarray, " samples"],
    key: Key,
    distance: int,
) -> Integer[np.ndarray, " samples"]:
    """``first`` of each sample, lowered to where the first image begins that looks like it.

    Samples are taken together by hash, so a picture that was published a million times costs no
    more than it does once.
    """
    hashes, groups = np.unique(looks, return_inverse=True)
    best = np.full(len(hashes), NONE)
    np.minimum.at(best, groups, begins)
    near = pairs_of(hashes, key(hashes), distance)
    found = best.copy()
    for one, other in ((0, 1), (1, 0)):
        np.minimum.at(found, near[:, one], best[near[:, other]])
    return np.minimum(first, found[groups])


def pairs_of(hashes: Hashes, key: Hashes, distance: int) -> Int64[np.ndarray, "pairs 2"]:
    """The places of all two different hashes of one key that are near."""
    order = np.argsort(key, kind="stable")
    values, key = hashes[order], key[order]
    found = [np.zeros((0, 2), np.int64)]
    left = np.arange(len(values) - 1)
    for step in range(1, len(values)):
        left = left[left < len(values) - step]
        left = left[key[left] == key[left + step]]
        if not left.size:
            break
        close = left[differing(values[left], values[left + step]) <= distance]
        found.append(np.stack([order[close], order[close + step]], axis=1))
    return np.concatenate(found)
