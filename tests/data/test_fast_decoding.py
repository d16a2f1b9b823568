"""Levels beside PIL's pixels: bit for bit, for whole, odd, damaged and other files."""

import io
import subprocess
import sys
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from flava.core.constraints import config_errors
from flava.data import fast_decoding as reader
from flava.data.collate import CodedImageCollator, ImageCollator
from flava.data.decoding import ORIENTATION, decode_image
from flava.data.errors import SampleError
from flava.data.fast_decoding import _torchvision_jpeg_decoder, decode_uint8
from flava.data.shards import RawSample
from flava.data.transforms import ImageTransformConfig, _random_crop, _shortest_side
from tests.data.shard_files import picture

SIZES = [(1, 1), (7, 5), (33, 47), (100, 61)]


def grainy(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(width)
    levels = np.asarray(picture(3, width, height)) + rng.normal(scale=12, size=(height, width, 3))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert(mode)


def file_of(image: Image.Image, file_format: str = "JPEG", **how: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **how)
    return stream.getvalue()


def pils(data: bytes) -> np.ndarray | str:
    """What PIL makes of a file, or says of it."""
    try:
        return np.asarray(decode_image(data))
    except SampleError as error:
        return str(error)


def same_as_pils(data: bytes) -> bool:
    expected = pils(data)
    try:
        return np.array_equal(decode_uint8(data), expected)
    except SampleError as error:
        return str(error) == expected


@pytest.fixture
def by_torchvision(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each file that it was asked for whether torchvision decoded it."""
    found, decode = [], reader._decode_jpeg

    def watched(data: bytes) -> Any:
        levels = decode(data)
        found.append(levels is not None)
        return levels

    monkeypatch.setattr(reader, "_decode_jpeg", watched)
    return found


def test_jpegs_are_decoded_bit_for_bit_as_by_pil(by_torchvision):
    samplings, qualities = ["4:4:4", "4:2:2", "4:2:0", "4:1:1"], [10, 75, 95]
    for size, sampling, progressive, quality in product(SIZES, samplings, [False, True], qualities):
        for restart in (0, 3):
            how = {"subsampling": sampling, "restart_marker_blocks": restart, "quality": quality}
            data = file_of(grainy(*size), progressive=progressive, **how)
            assert same_as_pils(data), (size, sampling, progressive, quality, restart)
    assert by_torchvision == [True] * len(SIZES) * 4 * 2 * 3 * 2


@pytest.mark.parametrize("how", [{"keep_rgb": True}, {"comment": b"words"}, {"dpi": (300, 300)}])
def test_of_other_headers_as_well(how, by_torchvision):
    assert same_as_pils(file_of(grainy(50, 31), **how))
    assert by_torchvision == [True]


def test_grey_jpegs_too(by_torchvision):
    for size, quality in product(SIZES, (10, 50, 100)):
        assert same_as_pils(file_of(grainy(*size, "L"), quality=quality))
    assert all(by_torchvision)


@pytest.mark.parametrize("value", range(10))
def test_images_are_upright_whatever_exif_says(value, by_torchvision):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    assert same_as_pils(file_of(grainy(40, 20), exif=exif))
    assert by_torchvision == ([] if 2 <= value <= 8 else [True])


def other_files() -> list[bytes]:
    sixteen = Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(40, 50) * 30)
    more = [grainy(30, 20), grainy(30, 20).rotate(90)]
    pictures = [grainy(30, 20, mode) for mode in ("P", "RGBA", "LA", "1")]
    return [
        file_of(grainy(30, 20, "CMYK")),
        file_of(more[0], "MPO", save_all=True, append_images=more[1:]),
        file_of(more[0], "GIF", save_all=True, append_images=more[1:]),
        file_of(more[0], "WEBP"),
        file_of(sixteen, "PNG"),
        *(file_of(each, "PNG") for each in pictures),
        b"",
        b"not an image",
    ]


def test_other_files_are_left_to_pil(by_torchvision):
    assert all(same_as_pils(data) for data in other_files())
    assert by_torchvision == []


def test_damaged_jpegs_are_read_or_refused_as_by_pil():
    """Cut off, bytes exchanged or missing, an end that is missing: 1,200 files."""
    rng = np.random.default_rng(0)
    files = [file_of(grainy(60, 45), progressive=each, quality=80) for each in (False, True)]
    kept = 0
    for number in range(1200):
        data = bytearray(files[number % 2])
        place = int(rng.integers(2, len(data)))
        match number % 4:
            case 0:
                del data[place:]
            case 1:
                data[place] = int(rng.integers(256))
            case 2:
                del data[place : place + 9]
            case _:
                data[-2:] = rng.bytes(int(rng.integers(30)))
        assert same_as_pils(bytes(data)), bytes(data).hex()
        kept += not isinstance(pils(bytes(data)), str)
    assert 100 < kept < 1100  # both kinds are among them


def test_pil_reads_jpegs_where_torchvision_no_longer_does(monkeypatch):
    monkeypatch.setattr(reader, "_torchvision_jpeg_decoder", lambda: None)
    assert same_as_pils(file_of(grainy(60, 45)))
    monkeypatch.delattr("torchvision.io.decode_jpeg")
    assert _torchvision_jpeg_decoder.__wrapped__() is None


def test_what_is_cut_off_is_read_where_pil_was_told_to(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = file_of(grainy(60, 45))
    assert not isinstance(pils(data[:-200]), str)
    assert same_as_pils(data[:-200])


BIG = ImageTransformConfig(reduced_decoding=True)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_though_fewer_would_be_decoded(monkeypatch):
    data = file_of(picture(1, 2000, 1500))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)
    with pytest.raises(SampleError, match="image is too large: 2000x1500 pixels"):
        decode_uint8(data, BIG.reduction)


@pytest.mark.parametrize("scale", [(0.9, 1.0), (0.08, 1.0), (1.0, 1.0)])
def test_no_crop_is_smaller_than_was_reckoned_with(scale):
    for size in ((300, 300), (640, 480), (90, 700)):
        shortest = _shortest_side(size[0], size[1], scale)
        rng = np.random.default_rng(0)
        boxes = (_random_crop(rng, size, scale) for _ in range(500))
        sides = [min(right - left, bottom - top) for left, top, right, bottom in boxes]
        assert shortest - 1 < min(sides) < 1.3 * shortest + 1


@pytest.mark.parametrize(
    ("size", "factor"),
    [((500, 375), 1), ((1024, 768), 1), ((1200, 900), 1), ((1400, 1050), 2), ((2000, 1500), 2),
     ((3000, 2400), 4), ((6000, 4800), 8), ((6000, 900), 2), ((6000, 400), 1)],
)  # fmt: skip
def test_twice_the_pixels_that_the_views_have_are_left(size, factor):
    width, height = size
    assert BIG.reduction(width, height) == factor
    left = _shortest_side(width, height, BIG.crop_scale) / factor
    assert factor == 1 or left >= 2 * BIG.image_size
    assert factor == 8 or left < 4 * BIG.image_size
    assert ImageTransformConfig().reduction(width, height) == 1


@pytest.mark.parametrize("exif_orientation", [1, 6])
def test_reduced_images_have_half_the_sides_and_show_the_same(exif_orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = exif_orientation
    data = file_of(picture(4, 401, 299), exif=exif, quality=95)
    reduced = decode_uint8(data, lambda *_: 2)
    whole = decode_image(data)
    assert reduced.shape[:2] == tuple((side + 1) // 2 for side in (whole.height, whole.width))
    halved = whole.resize(reduced.shape[1::-1], Image.Resampling.BOX)
    assert abs(reduced.astype(int) - np.asarray(halved)).max() <= 10


def views(config: ImageTransformConfig, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    raw = RawSample(shard="s", key="k", files={"jpg": data})
    example = ImageCollator(config, 0.4).decode(raw, np.random.default_rng(1))
    return example.pixels.astype(int), example.codebook_pixels.astype(int)


SMALL = ImageTransformConfig(image_size=32, codebook_size=32)


def test_views_of_reduced_images_are_those_of_whole_ones_within_a_few_levels():
    data = file_of(picture(6, 400, 300), quality=90)
    config = replace(SMALL, reduced_decoding=True)
    assert config.reduction(400, 300) == 4
    pairs = zip(views(config, data), views(SMALL, data), strict=True)
    for reduced, whole in pairs:
        assert not np.array_equal(reduced, whole)
        # Measured on ten such pictures: 13 and 2.8 at most. The crop's edges move by up to half a
        # pixel of the reduced image, which has but 75 of them.
        assert abs(reduced - whole).max() <= 20
        assert abs(reduced - whole).mean() < 4


def test_images_with_stored_codes_are_reduced_and_keep_their_codes():
    stored = np.arange(16, dtype=np.uint16).reshape(4, 4)
    stream = io.BytesIO()
    np.save(stream, stored)
    files = {"jpg": file_of(picture(6, 400, 300)), "codes-x.npy": stream.getvalue()}
    raw, examples = RawSample(shard="s", key="k", files=files), []
    for reduced in (False, True):
        config = replace(SMALL, stored_codes="x", crop_scale=(1.0, 1.0), reduced_decoding=reduced)
        assert config_errors(config) == []
        collator = CodedImageCollator(config, 0.4)
        examples.append(collator.decode(raw, np.random.default_rng(0)))
        assert np.array_equal(examples[-1].codes, stored)
    difference = abs(examples[0].pixels.astype(int) - examples[1].pixels)
    assert 1 <= difference.max() <= 6  # of whole images no crop is rounded


def test_images_that_are_too_small_to_be_reduced_are_the_same():
    for data in (file_of(grainy(140, 100)), file_of(grainy(400, 300), "PNG")):
        config = replace(SMALL, reduced_decoding=True)
        for reduced, whole in zip(views(config, data), views(SMALL, data), strict=True):
            assert np.array_equal(reduced, whole)


def test_building_data_needs_no_pytorch():
    modules = "flava.data.samples, flava.prepare.build, flava.prepare.inspection, flava.cli.data"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
