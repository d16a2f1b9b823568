import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flava.data.transforms import _bicubic, _lanczos, _lanczos_matrix
from tests.data.shard_files import picture

FILTERS = [(_bicubic, Image.Resampling.BICUBIC), (_lanczos, Image.Resampling.LANCZOS)]


@pytest.mark.parametrize(("ours", "pils"), FILTERS)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 60), st.integers(0, 99))
def test_images_are_pils_but_for_rounding(ours, pils, width, height, size, seed):
    """Also much larger ones, much smaller ones, and of a single pixel: two roundings at most.

    Of levels that no filter leaves the 256 with: what is cut off depends on which axis comes
    first, which PIL chooses by the image's shape since its version 13.
    """
    image = noise(height, width, 80, 176, seed)
    found = ours(np.array(image), size)
    assert found.shape == (size, size, 3)
    assert abs(found.astype(int) - np.asarray(image.resize((size, size), pils))).max() <= 2


@pytest.mark.parametrize(("ours", "pils"), FILTERS)
def test_what_leaves_the_levels_is_cut_off_after_each_axis(ours, pils):
    image = noise(30, 40, 0, 2, 0).point(lambda level: 255 * level)
    expected = np.asarray(image.resize((90, 90), pils))
    assert (expected == 255).mean() > 0.1
    assert abs(ours(np.array(image), 90).astype(int) - expected).max() <= 2


@pytest.mark.parametrize(("ours", "pils"), FILTERS)
def test_of_a_photo_hardly_a_level_is_rounded_otherwise(ours, pils):
    image = picture(5, 500, 375)
    expected = np.asarray(image.resize((112, 112), pils)).astype(int)
    difference = abs(ours(np.array(image), 112) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.05


def noise(height: int, width: int, low: int, high: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(low, high, (height, width, 3), dtype=np.uint8))


@given(st.integers(1, 700), st.integers(1, 300))
def test_the_weights_of_a_new_pixel_add_up_to_one(old, new):
    matrix = _lanczos_matrix(old, new)
    assert matrix.shape == (new, old)
    assert np.allclose(matrix.sum(axis=1), 1, atol=1e-6)
