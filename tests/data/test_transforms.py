from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from transformers import FlavaImageProcessorPil

from flava.core.batch import unmap_pixels
from flava.core.constraints import config_errors
from flava.data.decoding import decode_image, to_rgb
from flava.data.errors import SampleError
from flava.data.transforms import ImageTransformConfig, _random_crop, evaluation_pixels, resize
from tests.data.shard_files import encoded, picture
from tests.support import denormalise, same_but_for_rounding

SMALL = ImageTransformConfig(image_size=12, codebook_size=16)


@pytest.mark.parametrize("size", [(64, 64), (100, 50), (30, 90), (640, 9)])
def test_crops_are_distributed_as_torchvisions(size):
    image = Image.new("RGB", size)
    rng = np.random.default_rng(0)
    ours = np.array([_random_crop(rng, size, (0.5, 1.0)) for _ in range(2000)])
    torch.manual_seed(0)
    reference = v2.RandomResizedCrop(8, scale=(0.5, 1.0))
    drawn = [reference.make_params([v2.functional.pil_to_tensor(image)]) for _ in range(2000)]
    theirs = np.array(
        [(d["left"], d["top"], d["left"] + d["width"], d["top"] + d["height"]) for d in drawn]
    )
    for edge in range(4):
        compared: Any = ks_2samp(ours[:, edge], theirs[:, edge])
        assert compared.pvalue > 1e-3


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 99))
def test_crops_lie_within_the_image(width, height, seed):
    rng = np.random.default_rng(seed)
    left, top, right, bottom = _random_crop(rng, (width, height), (0.9, 1.0))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_crops_cover_the_range_of_areas():
    boxes = [_random_crop(np.random.default_rng(i), (500, 500), (0.9, 1.0)) for i in range(300)]
    areas = [(right - left) * (bottom - top) / 250_000 for left, top, right, bottom in boxes]
    assert 0.895 < min(areas) < 0.905
    assert 0.99 < max(areas) <= 1


def test_both_views_show_the_same_crop_resized_as_by_torchvision():
    image = picture(3, 60, 40)
    pixels, codebook_pixels = resize(np.array(image.crop((5, 7, 50, 36))), SMALL)
    for ours, size, mode in (
        (pixels, 12, v2.InterpolationMode.BICUBIC),
        (codebook_pixels, 16, v2.InterpolationMode.LANCZOS),
    ):
        cropped = v2.functional.crop(image, 7, 5, 29, 45)  # pyright: ignore[reportArgumentType]
        theirs = v2.functional.resize(cropped, [size, size], mode)
        assert abs(ours.astype(int) - np.asarray(theirs)).max() <= 1


def test_evaluation_pixels_equal_those_of_the_published_processor():
    images = [picture(1, 300, 200), picture(2, 90, 400), picture(3, 224, 224).convert("L")]
    pixels, codebook_pixels = evaluation_pixels(images, ImageTransformConfig())
    processor = FlavaImageProcessorPil(return_codebook_pixels=True)
    published = processor([image.convert("RGB") for image in images], return_tensors="pt")
    assert pixels.shape == (3, 3, 224, 224)
    assert codebook_pixels.shape == (3, 3, 112, 112)
    same_but_for_rounding(pixels, codebook_pixels, published)


def test_pixels_can_be_turned_back_into_pictures():
    image = picture(5, 12, 12)
    config = ImageTransformConfig(image_size=12, codebook_size=8)
    pixels, codebook_pixels = evaluation_pixels([image], config)
    expected = v2.functional.to_dtype(v2.functional.pil_to_tensor(image), scale=True)
    assert torch.allclose(denormalise(pixels)[0], expected, atol=1e-6)
    assert 0 <= unmap_pixels(codebook_pixels).min() <= unmap_pixels(codebook_pixels).max() <= 1
    assert codebook_pixels.min() >= 0.1 - 1e-6
    assert codebook_pixels.max() <= 0.9 + 1e-6


def test_no_images_make_an_empty_batch():
    pixels, codebook_pixels = evaluation_pixels([], SMALL)
    assert pixels.shape == (0, 3, 12, 12)
    assert codebook_pixels.shape == (0, 3, 16, 16)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb_as_pil_converts_it(mode):
    image = picture(7).convert(mode)
    assert to_rgb(image).mode == "RGB"
    assert to_rgb(image).tobytes() == image.convert("RGB").tobytes()


def test_sixteen_bits_are_scaled_not_clipped():
    grey = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    assert sixteen.mode.startswith("I")
    decoded = np.asarray(decode_image(encoded(sixteen)))
    assert (decoded == grey[..., None]).all()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_file_is_an_error_of_its_sample(file_format):
    data = encoded(picture(1, 200, 200), file_format)
    assert decode_image(data).size == (200, 200)
    for length in (0, 10, len(data) // 2):
        with pytest.raises(SampleError, match="image cannot be decoded"):
            decode_image(data[:length])


@pytest.mark.parametrize("data", [b"not an image", b"\x89PNG\r\n\x1a\n" + b"\xff" * 50, b"GIF89a"])
def test_what_is_no_image_is_an_error_of_its_sample(data):
    with pytest.raises(SampleError, match="image cannot be decoded"):
        decode_image(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [150, 300])  # PIL itself warns at once its limit, raises at twice
def test_a_decompression_bomb_is_an_error_of_its_sample(monkeypatch, limit):
    data = encoded(picture(1, 20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(SampleError, match=r"image is too large.*(400 pixels|20x20)"):
        decode_image(data)


def test_mistakes_in_the_config_are_all_named():
    assert config_errors(ImageTransformConfig()) == []
    assert config_errors(ImageTransformConfig(image_size=48, codebook_size=48)) == []
    wrong = ImageTransformConfig(image_size=50, codebook_size=48, crop_scale=(1.0, 0.9))
    odd = config_errors(wrong)
    assert len(odd) == 2
    assert odd[0].startswith("image_size is 50: use a multiple of the 6 patches")
    assert odd[1].startswith("crop_scale is (1.0, 0.9)")
    (found,) = config_errors(ImageTransformConfig(codebook_size=20, image_size=224))[:1]
    assert found == "codebook_size is 20: it should be a multiple of 8"
