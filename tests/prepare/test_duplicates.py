from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flava.prepare.duplicates import (
    _hamming_distance,
    _partitions,
    keys,
    near_any,
    near_earlier,
    repeated,
)


def brute_near(looks: list[int], images: list[int], distance: int) -> list[bool]:
    """By comparing all with all."""
    return [
        any(
            images.index(other) < images.index(image) and (seen ^ each).bit_count() <= distance
            for seen, other in zip(looks, images, strict=True)
        )
        for each, image in zip(looks, images, strict=True)
    ]


@st.composite
def alike(draw: st.DrawFn) -> list[int]:
    """Hashes that differ from few others in few bits."""
    centres = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    flips = st.lists(st.integers(0, 63), max_size=6)
    made = draw(st.lists(st.tuples(st.sampled_from(centres), flips), max_size=40))
    hashes = []
    for centre, bits in made:
        for bit in bits:
            centre ^= 1 << bit
        hashes.append(centre)
    return hashes


@given(alike(), st.integers(0, 8), st.integers(1, 50), st.data())
def test_near_duplicates_are_those_that_brute_force_finds(
    hashes: list[int], distance: int, part: int, data: st.DataObject
) -> None:
    """However the passes are divided."""
    size = len(hashes)
    images = data.draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))
    looks, owners = np.array(hashes, np.uint64), np.array(images, np.uint64)
    found = near_earlier(looks, owners, distance, part)
    assert found.tolist() == brute_near(hashes, images, distance)
    among = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool)
    found = near_earlier(looks, owners, distance, part, among)
    assert not found[~among].any()
    assert found[among].tolist() == near_earlier(looks[among], owners[among], distance).tolist()
    again = repeated(owners, part, among)
    assert not again[~among].any()
    assert again[among].tolist() == repeated(owners[among]).tolist()


@given(alike(), alike(), st.integers(0, 8), st.integers(1, 50))
def test_what_is_near_to_an_evaluation_set_is_what_brute_force_finds(
    hashes: list[int], others: list[int], distance: int, part: int
) -> None:
    found = near_any(np.array(hashes, np.uint64), np.array(others, np.uint64), distance, part)
    assert found.tolist() == [
        any((each ^ other).bit_count() <= distance for other in others) for each in hashes
    ]


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 20))
def test_repeated_are_all_but_the_first(contents: list[int], part: int) -> None:
    found = repeated(np.array(contents, np.uint64), part)
    assert found.tolist() == [each in contents[:place] for place, each in enumerate(contents)]


@given(st.lists(st.tuples(*[st.integers(0, 2**64 - 1)] * 2), max_size=20))
def test_differing_counts_bits(pairs: list[tuple[int, int]]) -> None:
    left, right = (np.array([pair[i] for pair in pairs], np.uint64) for i in range(2))
    assert _hamming_distance(left, right).tolist() == [(a ^ b).bit_count() for a, b in pairs]


def test_a_picture_published_many_times_costs_no_more(tmp_path: Path) -> None:
    """Compared with each other, these 200,000 would take 20 thousand million comparisons."""
    count = 200_000
    path = tmp_path / "looks.npy"
    np.save(path, np.full(count, 7, np.uint64))
    looks = np.load(path, mmap_mode="r")
    found = near_earlier(looks, np.arange(count).astype(np.uint64), 3, part=50_000)
    assert not found[0]
    assert found[1:].all()


@pytest.mark.parametrize("distance", [0, 3, 8])
def test_random_hashes_are_no_duplicates(distance: int) -> None:
    looks = np.random.default_rng(0).integers(0, 2**64, 20_000, np.uint64)
    assert not near_earlier(looks, np.arange(20_000).astype(np.uint64), distance).any()


@pytest.mark.parametrize("distance", [0, 3, 8])
def test_no_part_holds_much_more_than_its_share(distance: int) -> None:
    """Whichever bits a pass looks at."""
    looks = np.random.default_rng(0).integers(0, 2**64, 40_000, np.uint64)
    for key in keys(distance):
        sizes = [len(chosen) for chosen in _partitions(looks, key, 10_000)]
        assert (len(sizes), sum(sizes)) == (4, 40_000)
        assert max(sizes) < 12_500
