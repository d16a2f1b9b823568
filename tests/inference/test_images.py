import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import load_image

from flava.data.errors import SampleError
from flava.inference.processor import image_list, open_image
from tests.data.shard_files import encoded, picture

ORIENTATION = 0x0112
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")
FORMATS = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": MODES,
    "PPM": ("1", "L", "RGB"),
}


def translucent(mode: str) -> Image.Image:
    """A picture with all degrees of transparency, where the mode has any."""
    image = picture(3, 40, 30)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image.convert(mode)


@pytest.mark.parametrize("file_format", FORMATS)
def test_files_of_every_mode_are_read_as_the_published_loader_reads_them(tmp_path, file_format):
    for mode in FORMATS[file_format]:
        path = tmp_path / f"{mode}.{file_format.lower()}"
        translucent(mode).save(path, file_format)
        expected = load_image(str(path))
        for given in (path, str(path), path.read_bytes(), Image.open(path)):
            opened = open_image(given)
            assert opened.mode == "RGB"
            assert opened.tobytes() == expected.tobytes(), mode


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_is_applied_to_files_and_images(tmp_path, turned, file_format):
    exif = Image.Exif()
    exif[ORIENTATION] = turned
    path = tmp_path / "turned"
    picture(2, 30, 20).save(path, file_format, exif=exif)
    expected = load_image(str(path))
    assert expected.size == ((30, 20) if turned < 5 else (20, 30))
    given = Image.open(path)
    before = given.size  # of a TIFF, PIL's own reader has turned it
    for image in (path, path.read_bytes(), given):
        assert open_image(image).tobytes() == expected.tobytes()
    assert given.size == before  # the user's own image is left as it was


@pytest.mark.parametrize(
    "broken", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 40]
)
def test_a_whole_image_with_broken_exif_is_read(broken):
    stream = io.BytesIO()
    picture(1).save(stream, "JPEG", exif=broken)
    plain = encoded(picture(1), "JPEG")
    assert open_image(stream.getvalue()).tobytes() == open_image(plain).tobytes()


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    frames = [picture(n, 12, 10).quantize(16) for n in range(3)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert Image.open(path).n_frames == 3  # pyright: ignore[reportAttributeAccessIssue]
    assert open_image(path).tobytes() == frames[0].convert("RGB").tobytes()


@pytest.mark.filterwarnings("error:Palette images with Transparency")
def test_palettes_with_transparency_keep_their_colours_without_a_warning():
    image = picture(1).quantize(8)
    expected = image.convert("RGB").tobytes()
    image.info["transparency"] = bytes(range(0, 256, 32))
    assert open_image(encoded(image)).tobytes() == expected


LEVELS = np.asarray(picture(4, 8, 6))
ARRAYS: dict[str, Any] = {
    "rows last": LEVELS,
    "channels first": LEVELS.transpose(2, 0, 1),
    "int64": LEVELS.astype(np.int64),
    "floats": LEVELS.astype(np.float32) / 255,
    "doubles": LEVELS / 255,
    "halves": (LEVELS / 255).astype(np.float16),
    "transparent": np.dstack([LEVELS, np.arange(48, dtype=np.uint8).reshape(6, 8)]),
    "16 bits": LEVELS.astype(np.uint16) * 257,
    "not contiguous": np.ascontiguousarray(LEVELS[:, ::-1])[:, ::-1],
    "tensor": torch.from_numpy(LEVELS.copy()),
    "tensor, channels first": torch.from_numpy(LEVELS.transpose(2, 0, 1).copy()),
    "tensor of floats": torch.from_numpy(LEVELS / 255),
    "tensor with gradient": torch.from_numpy(LEVELS / 255).float().requires_grad_(),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_and_tensors_are_the_same_image(name):
    assert (np.asarray(open_image(ARRAYS[name])) == LEVELS).all()


def test_bfloat16_is_read_to_its_own_precision():
    opened = np.asarray(open_image(torch.from_numpy(LEVELS / 255).bfloat16()), np.int64)
    assert abs(opened - LEVELS).max() <= 1  # eight bits of mantissa


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 1), (1, 6, 8)])
def test_grey_and_boolean_arrays(shape):
    grey = LEVELS[..., 0]
    opened = np.asarray(open_image(grey.reshape(shape)))
    assert (opened == grey[..., None]).all()
    black_or_white = np.asarray(open_image((grey > 100).reshape(shape)))
    assert (black_or_white == np.where(grey > 100, 255, 0)[..., None]).all()


def test_where_either_side_could_be_channels_the_first_is():
    square = np.arange(81, dtype=np.uint8).reshape(3, 9, 3)
    assert open_image(square).size == (3, 9)  # three channels of nine rows, as published


def test_sixteen_bit_files_are_scaled(tmp_path):
    grey = (np.arange(64, dtype=np.uint16) * 1023).reshape(8, 8)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(grey).save(tmp_path / name)
        assert (np.asarray(open_image(tmp_path / name))[..., 0] == grey >> 8).all()


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((2, 3, 8, 8)), r"its shape is \[2, 3, 8, 8\]: give one image"),
        (np.zeros((8, 8, 2)), r"its shape is \[8, 8, 2\]"),
        (np.zeros(8), r"its shape is \[8\]"),
        (np.zeros((0, 8, 3)), "0"),
        (np.full((8, 8, 3), 1.5), r"from 1.5 to 1.5: floats must be in \[0, 1\]"),
        (LEVELS.astype(np.float32), r"floats must be in \[0, 1\]"),
        (np.full((8, 8, 3), np.nan), "out of range: from nan"),
        (np.full((8, 8), -1), r"whole numbers in \[0, 255\]"),
        (np.full((8, 8), 256), r"whole numbers in \[0, 255\]"),
        (torch.randn(3, 8, 8), "normalised already"),
        (np.full((8, 8), "a"), "its type is <U1"),
    ],
)
def test_an_array_that_is_no_image_is_refused_with_the_reason(array, expected):
    with pytest.raises(SampleError, match=expected):
        open_image(array)


# Bad files


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in a few bytes."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 90_001)

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


BAD = {
    "empty.png": (b"", "image cannot be decoded", "it is empty"),
    "text.png": (b"hello", "image cannot be decoded", "none of JPEG, PNG"),
    "truncated.png": (encoded(picture(1, 200, 200))[:3000], "image cannot be decoded", "truncated"),
    "truncated.jpg": (
        encoded(picture(1, 400, 400), "JPEG")[:2000],
        "image cannot be decoded",
        "truncated",
    ),
    "bomb.png": (bomb(), "image is too large", "900000000"),
    "eps.png": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "image cannot be decoded",
        "none of JPEG",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_an_error_with_name_and_reason(tmp_path, name):
    data, reason, detail = BAD[name]
    path = tmp_path / name
    path.write_bytes(data)
    for given in (path, data):
        with pytest.raises(SampleError, match=detail) as caught:
            open_image(given)
        assert caught.value.reason == reason
        assert given is data or str(path) in str(caught.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_between_pils_warning_and_its_error_an_image_is_refused_too(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    lazy = Image.open(io.BytesIO(encoded(picture(1, 20, 20))))
    with pytest.raises(SampleError, match=r"20x20 pixels, over PIL.Image.MAX_IMAGE_PIXELS = 300"):
        open_image(lazy)
    # What is in memory already costs nothing more.
    assert open_image(picture(1, 20, 20)).size == (20, 20)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("nowhere.png", "No such file"),
        ("", "directory"),
        ("a\0b", "null"),
        ("http://x.org/a.png", "No such file"),
    ],
)
def test_a_path_that_cannot_be_read_is_named(path, expected):
    with pytest.raises(SampleError, match=f"image cannot be read: .*{expected}"):
        open_image(path)


def test_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    picture(1).save(tmp_path / "a.png")
    assert open_image("~/a.png").size == picture(1).size
    assert open_image(Path("~/a.png")).size == picture(1).size


def test_one_image_is_not_taken_for_a_list():
    for one in ("a.png", LEVELS, torch.zeros(3, 8, 8)):
        with pytest.raises(ValueError, match=r"images is a single image: give a list"):
            image_list(one)
    batch = torch.rand(4, 3, 8, 8)
    assert len(image_list(batch)) == len(image_list(batch.numpy())) == 4
