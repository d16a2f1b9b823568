"""Duplicates among any number of samples, in bounded memory: exact ones, and near ones by pHash.

Near-duplicates are found without comparing each sample with each: hashes that differ in at most d
of 64 bits agree in at least two of any d + 2 pieces of these bits, since at most d pieces hold a
difference. So there is a pass over the samples for each two pieces, in which samples are compared
where these pieces are equal. Each pass is divided by the value of the pieces, so that no more than
``PART`` samples are held at a time, whatever their number is (unless more than that look alike).
"""

import hashlib
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt64

PART = 4_000_000
"""Samples that are held at once, which take some 100 bytes each."""
BITS = 64
"""Bits of a hash."""
INDEX_TYPE = np.uint32
"""The number of a sample. Two are held for each sample, so that 70 million take 560 MB."""
NO_SAMPLE = np.iinfo(np.int64).max
"""Larger than the number of any sample."""

Hashes = UInt64[np.ndarray, " samples"]
Chosen = Bool[np.ndarray, " samples"]
Key = Callable[[Hashes], Hashes]

_COUNTS = np.array([number.bit_count() for number in range(2**16)], np.uint8)


def repeated(
    contents: Hashes, part: int = PART, among: Chosen | None = None
) -> Bool[np.ndarray, " samples"]:
    """Which samples have an equal one before them.

    Args:
        among: The samples that are compared; all by default.
    """
    found = np.zeros(len(contents), bool)
    for chosen in _partitions(contents, lambda values: values, part, among):
        order = chosen[np.argsort(contents[chosen], kind="stable")]
        values = contents[order]
        found[order[1:][values[1:] == values[:-1]]] = True
    return found


def near_earlier(
    phashes: Hashes,
    images: Hashes,
    distance: int,
    part: int = PART,
    among: Chosen | None = None,
) -> Bool[np.ndarray, " samples"]:
    """Which samples look like a sample of another image whose first sample came earlier.

    Args:
        phashes: Perceptual hashes.
        images: A number that the samples of one image share: several texts of an image are no
            duplicates of each other.
        distance: Bits in which the hashes of duplicates differ at most.
        among: As for ``repeated``.
    """
    begins = _first_of_image(images, part, among)
    first = begins.copy()
    for key in keys(distance):
        for chosen in _partitions(phashes, key, part, among):
            first[chosen] = _earliest_similar(
                phashes[chosen], begins[chosen], first[chosen], key, distance
            )
    return first < begins


def _first_of_image(
    images: Hashes, part: int, among: Chosen | None = None
) -> Integer[np.ndarray, " samples"]:
    """For each sample the number of the first sample of its image."""
    found = np.zeros(len(images), INDEX_TYPE)
    for chosen in _partitions(images, lambda values: values, part, among):
        _, firsts, groups = np.unique(images[chosen], return_index=True, return_inverse=True)
        found[chosen] = chosen[firsts[groups]]
    return found


def near_any(
    phashes: Hashes, others: UInt64[np.ndarray, " others"], distance: int, part: int = PART
) -> Bool[np.ndarray, " samples"]:
    """Which samples look like any of others."""
    found = np.zeros(len(phashes), bool)
    different = np.unique(others)
    for key in keys(distance):
        wanted = different[np.argsort(key(different), kind="stable")]
        wanted_keys = key(wanted)
        for start in range(0, len(phashes), part):
            some = np.asarray(phashes[start : start + part])
            some_keys = key(some)
            begin = np.searchsorted(wanted_keys, some_keys, "left")
            end = np.searchsorted(wanted_keys, some_keys, "right")
            while (left := np.flatnonzero(begin < end)).size:
                close = _hamming_distance(some[left], wanted[begin[left]]) <= distance
                found[start + left[close]] = True
                begin[left] += 1
                end[left[close]] = 0  # found: no need to look further
    return found


def keys(distance: int) -> Iterator[Key]:
    """A function for each two of ``distance`` + 2 pieces of the bits: it clears all others."""
    edges = np.linspace(0, BITS, distance + 3).round().astype(int).tolist()
    masks = [sum(1 << bit for bit in range(*edge)) for edge in pairwise(edges)]
    for two in combinations(masks, 2):
        mask = np.uint64(sum(two))
        yield lambda values, mask=mask: values & mask


def _partitions(
    phashes: Hashes, key: Key, size: int, among: Chosen | None = None
) -> Iterator[Int64[np.ndarray, " chosen"]]:
    """The samples' numbers in parts of about ``size``; samples of one key are in one part."""
    count = -(-len(phashes) // size)
    for number in range(count):
        chosen = []
        for start in range(0, len(phashes), size):
            values = key(np.asarray(phashes[start : start + size]))
            here = mix_bits(values) % np.uint64(count) == number
            if among is not None:
                here &= among[start : start + size]
            chosen.append(start + np.flatnonzero(here))
        yield np.concatenate(chosen)


def mix_bits(values: Hashes) -> Hashes:
    """Values mixed so that each bit depends on all bits: MurmurHash3's fmix64."""
    half = np.uint64(33)
    with np.errstate(over="ignore"):
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            values = (values ^ (values >> half)) * np.uint64(factor)
    return values ^ (values >> half)


def hash64(content: bytes) -> int:
    """A hash of 64 bits; two of 70 million contents share one with a probability of 1 in 7,500."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def _hamming_distance(left: Hashes, right: Hashes) -> UInt64[np.ndarray, " pairs"]:
    """The number of bits in which each two hashes differ."""
    words = np.ascontiguousarray(left ^ right).view(np.uint16).reshape(-1, BITS // 16)
    return _COUNTS[words].sum(axis=1, dtype=np.uint64)


def _earliest_similar(
    phashes: Hashes,
    begins: Integer[np.ndarray, " samples"],
    first: Integer[np.ndarray, " samples"],
    key: Key,
    distance: int,
) -> Integer[np.ndarray, " samples"]:
    """``first``, lowered for each sample to the start of the earliest image that looks like it.

    Samples are grouped by hash, so an image that was published a million times costs no more than
    one that was published once.
    """
    hashes, groups = np.unique(phashes, return_inverse=True)
    best = np.full(len(hashes), NO_SAMPLE)
    np.minimum.at(best, groups, begins)
    near = _near_pairs(hashes, key(hashes), distance)
    found = best.copy()
    for one, other in ((0, 1), (1, 0)):
        np.minimum.at(found, near[:, one], best[near[:, other]])
    return np.minimum(first, found[groups])


def _near_pairs(hashes: Hashes, key: Hashes, distance: int) -> Int64[np.ndarray, "pairs 2"]:
    """The numbers of each two different hashes of one key that are near."""
    order = np.argsort(key, kind="stable")
    values, key = hashes[order], key[order]
    found = [np.zeros((0, 2), np.int64)]
    left = np.arange(len(values) - 1)
    for step in range(1, len(values)):
        left = left[left < len(values) - step]
        left = left[key[left] == key[left + step]]
        if not left.size:
            break
        close = left[_hamming_distance(values[left], values[left + step]) <= distance]
        found.append(np.stack([order[close], order[close + step]], axis=1))
    return np.concatenate(found)
