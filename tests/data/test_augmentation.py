"""BEiT's augmentation beside torchvision's, and that both views show the same."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2

from flava.core.constraints import config_errors
from flava.data.collate import ImageCollator
from flava.data.shards import RawSample
from flava.data.transforms import ImageTransformConfig, flip_at_random, jitter_colours
from tests.data.shard_files import encoded, picture

PLAIN = ImageTransformConfig(image_size=32, codebook_size=32)
BEIT = replace(PLAIN, crop_scale=(0.08, 1.0), flip_probability=0.5, colour_jitter=0.4)


def test_jitter_is_distributed_as_torchvisions():
    image = picture(0)
    ours, theirs = [], []
    rng = np.random.default_rng(0)
    reference = v2.ColorJitter(0.4, 0.4, 0.4)
    for _ in range(600):
        for found, changed in (
            (ours, jitter_colours(rng, image, 0.4)),
            (theirs, reference(image)),
        ):
            pixels = np.asarray(changed, dtype=float)
            # Mean: brightness; spread over the image: contrast; spread over channels: saturation.
            found.append((pixels.mean(), pixels.mean(2).std(), pixels.std(2).mean()))
    for figure in range(3):
        compared: Any = ks_2samp(np.array(ours)[:, figure], np.array(theirs)[:, figure])
        assert compared.pvalue > 1e-3


@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_flips_have_their_probability(probability):
    image = picture(1)
    mirrored = np.asarray(image)[:, ::-1]
    rng = np.random.default_rng(0)
    shown = [np.asarray(flip_at_random(rng, image, probability)) for _ in range(400)]
    flips = [np.array_equal(each, mirrored) for each in shown]
    assert all(
        np.array_equal(each, mirrored if f else np.asarray(image))
        for each, f in zip(shown, flips, strict=True)
    )
    assert abs(np.mean(flips) - probability) <= 0.09  # four standard errors of 400 draws


def test_nothing_is_drawn_where_nothing_is_augmented():
    rng = np.random.default_rng(7)
    image = picture(2)
    assert jitter_colours(rng, image, 0.0) is image
    assert flip_at_random(rng, image, 0.0) is image
    assert rng.random() == np.random.default_rng(7).random()


def gradient() -> RawSample:
    """Red grows from left to right, green from top to bottom: a pixel tells where it is from."""
    y, x = np.mgrid[:96, :128]
    pixels = np.stack([x * 2, y * 2, np.full_like(x, 90)], axis=-1).astype(np.uint8)
    return RawSample(shard="s", key="k", files={"png": encoded(Image.fromarray(pixels))})


@pytest.mark.parametrize("seed", range(12))
def test_both_views_are_of_the_same_crop_flip_and_colours(seed):
    example = ImageCollator(BEIT, 75 / 196).decode(gradient(), np.random.default_rng(seed))
    ours, codes = (a.astype(float) for a in (example.pixels, example.codebook_pixels))
    # Bicubic and Lanczos differ by little where an image is smooth.
    assert np.abs(ours - codes).mean() < 1.5
    assert ours[..., 0].std() > 1  # there is something to compare


def test_views_are_flipped_jittered_and_cut():
    """Over many draws each of the three happens, and each sample has its own."""
    collator, raw = ImageCollator(BEIT, 75 / 196), gradient()
    shown = [
        collator.decode(raw, np.random.default_rng(seed)).pixels.astype(int) for seed in range(60)
    ]
    slopes = np.array([each[:, -1, 0].mean() - each[:, 0, 0].mean() for each in shown])
    assert 15 < (slopes < 0).sum() < 45
    assert len({round(abs(slope)) for slope in slopes}) > 20
    blues = np.array([each[..., 2].mean() for each in shown])
    assert blues.min() < 75
    assert blues.max() > 105


def test_the_same_draws_give_the_same_views():
    collator, raw = ImageCollator(BEIT, 75 / 196), gradient()
    first, second = (collator.decode(raw, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.codebook_pixels, second.codebook_pixels)
    assert torch.equal(*(torch.from_numpy(each.patch_mask) for each in (first, second)))


def test_beits_mask_hides_75_of_196_at_most():
    config = ImageTransformConfig()
    collator = ImageCollator(config, 75 / 196)
    hidden = [
        int(collator.decode(gradient(), np.random.default_rng(s)).patch_mask.sum())
        for s in range(20)
    ]
    assert max(hidden) == 75
    assert min(hidden) > 50


def test_settings_out_of_range_are_named():
    wrong = replace(PLAIN, flip_probability=1.5, colour_jitter=-0.1)
    assert config_errors(wrong) == [
        "flip_probability is 1.5: it should be less than or equal to 1",
        "colour_jitter is -0.1: it should be greater than or equal to 0",
    ]
