"""DINO's crops: as many and as large as asked, drawn as published, and the same again."""

import itertools
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from flava.core.batch import CropBatch
from flava.core.randomness import random_generator
from flava.data import multi_crop
from flava.data.data_config import DataConfig, SourceConfig
from flava.data.loader import Loader
from flava.data.multi_crop import CropCollator, CropConfig
from flava.data.shards import RawSample
from tests.data.shard_files import encoded, picture, write_tar
from tests.support import denormalise

SIZE = 24
WHOLE = CropConfig(
    global_size=SIZE,
    local_size=SIZE,
    local_crops=1,
    global_scale=(1.0, 1.0),
    local_scale=(1.0, 1.0),
)
"""Of a square image no other crop of its whole area has an allowed ratio: it stays as it is."""
DRAWS = 600


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    images = {f"i{n}.png": encoded(picture(n)) for n in range(9)}
    shard = write_tar(tmp_path / "images.tar", images)
    return DataConfig(
        images=SourceConfig(shards=(str(shard),), weight=1.0, batch_size=4),
        crops=CropConfig(global_size=16, local_size=8, local_crops=3),
        workers=0,
    )


def take(data: DataConfig, count: int, start_step: int = 0) -> list[CropBatch]:
    with Loader(data, seed=3, start_step=start_step) as loader:
        found = list(itertools.islice(loader, count))
    assert all(isinstance(batch, CropBatch) for batch in found)
    return [batch for batch in found if isinstance(batch, CropBatch)]


def same(first: list[CropBatch], second: list[CropBatch]) -> bool:
    return all(
        a.keys == b.keys
        and torch.equal(a.global_crops, b.global_crops)
        and torch.equal(a.local_crops, b.local_crops)
        for a, b in zip(first, second, strict=True)
    )


# What a batch holds, and that it is the same again


def test_a_batch_has_two_large_crops_and_some_small_ones_of_each_image(data):
    (batch,) = take(data, 1)
    assert batch.kind == "images"
    assert batch.global_crops.shape == (2, 4, 3, 16, 16)
    assert batch.local_crops.shape == (3, 4, 3, 8, 8)
    assert len({crop.sum().item() for crop in batch.local_crops.flatten(0, 1)}) == 12


def test_row_i_is_image_i_in_every_crop():
    """Single colours, and no colour changed: every crop has that of its image."""
    colours = np.random.default_rng(0).integers(0, 255, (5, 3))
    with without_changes():
        collator = CropCollator(CropConfig(global_size=8, local_size=4, local_crops=3))
        raws = [raw(np.broadcast_to(c, (12, 12, 3)).astype(np.uint8), str(c)) for c in colours]
        batch = collator.collate([collator.decode(r, seeded(0)) for r in raws], seeded(0))
    for found in (batch.global_crops, batch.local_crops):
        means = denormalise(found).mean((-2, -1)) * 255
        expected = torch.from_numpy(colours).float().expand_as(means)
        torch.testing.assert_close(means, expected, atol=0.01, rtol=0)


def test_no_local_crops(data):
    assert data.crops is not None
    (batch,) = take(replace(data, crops=replace(data.crops, local_crops=0)), 1)
    assert batch.local_crops.shape == (0, 4, 3, 8, 8)
    assert batch.global_crops.shape == (2, 4, 3, 16, 16)


def test_crops_are_the_same_for_any_number_of_workers_and_when_resumed(data):
    batches = take(data, 6)
    assert same(batches, take(data, 6))
    assert same(batches, take(replace(data, workers=2), 6))
    assert same(batches[4:], take(data, 2, start_step=4))
    assert not torch.equal(batches[0].global_crops, batches[1].global_crops)


def test_an_image_is_cut_anew_in_each_epoch(data):
    found: dict[str, list[Tensor]] = {}
    for batch in take(data, 7):
        for row, key in enumerate(batch.keys):
            found.setdefault(key, []).append(batch.global_crops[:, row])
    assert all(not torch.equal(first, second) for first, second, *_ in found.values())


def test_torchs_own_generator_is_left_alone():
    before = torch.get_rng_state()
    first = examples(noise(), WHOLE, 1)
    torch.rand(3)  # and what stands in it does not matter
    assert np.array_equal(examples(noise(), WHOLE, 1)[0][0], first[0][0])
    torch.set_rng_state(before)
    examples(noise(), WHOLE, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_can_be_started_with_a_collator():
    collator = CropCollator(WHOLE)
    copy = pickle.loads(pickle.dumps(collator))
    ours, theirs = (c.decode(raw(noise()), seeded(1)) for c in (collator, copy))
    assert np.array_equal(ours.local_crops, theirs.local_crops)


# How the crops are drawn: the published probabilities, each seen where nothing else hides it


def seeded(number: int) -> np.random.Generator:
    return random_generator(5, 0, str(number))


def raw(pixels: np.ndarray, key: str = "key") -> RawSample:
    return RawSample(shard="shard", key=key, files={"png": encoded(Image.fromarray(pixels))})


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)


def flat(red: int, green: int, blue: int) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), (red, green, blue), np.uint8)


def examples(pixels: np.ndarray, config: CropConfig, count: int) -> list[list[np.ndarray]]:
    """The first global, the second global and the local crops of an image, ``count`` of each."""
    collator = CropCollator(config)
    found = [collator.decode(raw(pixels), seeded(number)) for number in range(count)]
    return [
        [example.global_crops[0] for example in found],
        [example.global_crops[1] for example in found],
        [crop for example in found for crop in example.local_crops],
    ]


def shares(pixels: np.ndarray, seen) -> list[float]:
    return [
        float(np.mean([seen(crop) for crop in kind])) for kind in examples(pixels, WHOLE, DRAWS)
    ]


def near(*expected: float) -> object:
    """Four standard errors of a share of 600 draws are 0.08 at most."""
    return pytest.approx(list(expected), abs=0.08)


@contextmanager
def without_changes() -> Iterator[None]:
    """Crops and flips alone: what is drawn for colours and blur never happens."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JITTER", "GREY", "LOCAL_BLUR"):
            patch.setattr(multi_crop, name, 0.0)
        for name in ("BLUR", "SOLARISE"):
            patch.setattr(multi_crop, name, (0.0, 0.0))
        multi_crop._transforms.cache_clear()
        yield
    multi_crop._transforms.cache_clear()


@pytest.fixture
def plain() -> Iterator[None]:
    with without_changes():
        yield


def test_a_fifth_of_the_second_global_crops_is_solarised_and_no_other():
    """White: of all changes this one alone makes it darker than 0.6."""
    assert shares(flat(255, 255, 255), lambda crop: crop.mean() < 128) == near(0.0, 0.2, 0.0)
    firsts, _, locals_ = examples(flat(255, 255, 255), WHOLE, 200)
    assert min(crop.min() for crop in (*firsts, *locals_)) >= 0.6 * 255 - 1


def test_a_fifth_of_all_crops_is_grey():
    def is_grey(crop: np.ndarray) -> bool:
        return len({*crop[0, 0].tolist()}) == 1

    assert shares(flat(200, 90, 40), is_grey) == near(0.2, 0.2, 0.2)


def test_colours_change_in_four_fifths():
    """Of a single colour that is not grey: by jitter, else by grey in a fifth, or solarised."""
    colour = flat(120, 90, 40)  # too dark to be solarised

    def has_changed(crop: np.ndarray) -> bool:
        return crop[0, 0].tolist() != colour[0, 0].tolist()

    expected = 0.8 + 0.2 * 0.2
    assert shares(colour, has_changed) == near(expected, expected, expected)


def edge() -> np.ndarray:
    """Black to the left of a third, white to its right."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[:, SIZE // 3 :] = 255
    return pixels


def test_blur_is_certain_seldom_and_even():
    """More than two values are seen where an edge is blurred; some radii are too small for it."""
    found = shares(edge(), lambda crop: len(np.unique(crop[0, :, 0])) > 2)
    assert found == near(1.0, 0.1, 0.5)


@pytest.mark.usefixtures("plain")
def test_half_of_the_crops_are_mirrored():
    found = shares(edge(), lambda crop: crop[0, 0, 0] > crop[0, -1, 0])
    assert found == near(0.5, 0.5, 0.5)


@pytest.mark.usefixtures("plain")
def test_crops_cover_the_share_of_the_area_that_is_asked_for():
    """Red is the column, green the row: their ranges tell the box that was cut out."""
    ramp = np.linspace(0, 255, 96)
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = ramp[None, :], ramp[:, None]
    config = CropConfig(global_size=96, local_size=48, local_crops=2)
    kinds = examples(pixels, config, 150)
    for kind, (low, high) in zip(kinds, [(0.4, 1.0), (0.4, 1.0), (0.05, 0.4)], strict=True):
        areas = [np.prod([np.ptp(crop[..., c]) / 255.0 for c in (0, 1)]) for crop in kind]
        # A box of n pixels shows n - 1 steps; the bicubic overshoots at no ramp.
        assert min(areas) > low - 0.03
        assert max(areas) < high + 0.01
        assert np.percentile(areas, 90) - np.percentile(areas, 10) > 0.5 * (high - low)


# Mistakes


def test_every_mistake_is_listed(data):
    wrong = CropConfig(
        global_size=0,
        local_size=-1,
        local_crops=-2,
        global_scale=(0.5, 0.4),
        local_scale=(0.0, 2.0),
    )
    with pytest.raises(ValueError, match="the data cannot be loaded") as error:
        Loader(replace(data, crops=wrong), seed=0)
    assert str(error.value).splitlines()[1:] == [
        "- crops.global_size is 0: it should be greater than 0",
        "- crops.local_size is -1: it should be greater than 0",
        "- crops.local_crops is -2: it should be greater than or equal to 0",
        "- crops.global_scale is (0.5, 0.4): use 0 < low <= high <= 1",
        "- crops.local_scale is (0.0, 2.0): use 0 < low <= high <= 1",
    ]


def test_torchvision_is_imported_by_nothing_that_makes_no_crops():
    code = "import sys, flava, flava.recipes.start; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
