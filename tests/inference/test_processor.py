import random
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer, CLIPImageProcessorPil, FlavaImageProcessorPil
from transformers.image_utils import load_image

from flava.data.errors import SampleError
from flava.data.paths import resolve
from flava.data.shards import RawSample, read_shard
from flava.data.tokenizers import VOCABULARY, Tokenizer
from flava.data.views import View, clip_view, codebook_view, encoder_view
from flava.inference.processor import Processor
from tests.data.shard_files import picture

SIZES = [(1, 1), (3, 500), (500, 3), (224, 224), (225, 223), (640, 480), (97, 211), (50, 50)]
"""Width and height."""


def noise(width: int, height: int) -> Image.Image:
    draw = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))


def processor(image: View, codebook: View | None = None) -> Processor:
    return Processor(image=image, codebook=codebook, tokenizer=Tokenizer(), max_length=512)


FLAVA = processor(encoder_view(224), codebook_view((112, 112)))


def test_pixels_equal_those_of_the_published_processor():
    images = [noise(*size) for size in SIZES]
    theirs = FlavaImageProcessorPil(return_codebook_pixels=True)(images, return_tensors="pt")
    assert (FLAVA.images(images) - theirs["pixel_values"]).abs().max() < 1e-5
    difference = FLAVA.codebook_images(images) - theirs["codebook_pixel_values"]
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_pixels_of_files_of_every_mode_equal_the_published_ones(tmp_path, mode):
    paths = []
    for width, height in SIZES[1:]:
        paths.append(str(tmp_path / f"{width}.tiff"))
        noise(width, height).convert(mode).save(paths[-1])
    theirs = FlavaImageProcessorPil()([load_image(path) for path in paths], return_tensors="pt")
    assert (FLAVA.images(paths) - theirs["pixel_values"]).abs().max() < 1e-5


def test_arrays_that_the_published_processor_takes_give_the_same_pixels():
    levels = np.asarray(noise(60, 40))
    first = np.ascontiguousarray(levels.transpose(2, 0, 1))
    images = [levels, first, torch.from_numpy(first.copy())]
    theirs = FlavaImageProcessorPil()(images, return_tensors="pt")["pixel_values"]
    assert (FLAVA.images(images) - theirs).abs().max() < 1e-5
    floats = levels.astype(np.float32) / 255
    theirs = FlavaImageProcessorPil(do_rescale=False)([floats], return_tensors="pt")["pixel_values"]
    # They cut floats down to levels, which takes one off where 255 x falls short of it.
    assert (FLAVA.images([floats]) - theirs).abs().max() < 1.01 / 255 / 0.26


@pytest.mark.parametrize(
    ("size", "crop"), [((20, 30), (20, 30)), ((33, 41), (24, 25)), ((16, 17), (23, 30))]
)
def test_other_sizes_and_crops_equal_the_published_ones(size, crop):
    def rectangle(side: tuple[int, int]) -> dict[str, int]:
        return {"height": side[0], "width": side[1]}

    images = [noise(*size) for size in SIZES]
    theirs = FlavaImageProcessorPil(
        size=rectangle(size),
        crop_size=rectangle(crop),
        resample=2,
        image_mean=[0.1, 0.2, 0.3],
        image_std=[0.5, 0.6, 0.7],
        rescale_factor=1 / 128,
        return_codebook_pixels=True,
        codebook_size=rectangle(crop),
        codebook_crop_size=rectangle(size),
        codebook_resample=0,
        codebook_image_mean=[0.3, 0.2, 0.1],
        codebook_image_std=[0.9, 0.8, 0.7],
    )(images, return_tensors="pt")
    image = View(
        size=size,
        crop=crop,
        resample=Image.Resampling.BILINEAR,
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 0.6, 0.7),
        scale=1 / 128,
    )
    codebook = View(
        size=crop,
        crop=size,
        resample=Image.Resampling.NEAREST,
        mean=(0.3, 0.2, 0.1),
        std=(0.9, 0.8, 0.7),
        mapped=True,
    )
    ours = processor(image, codebook)
    assert (ours.images(images) - theirs["pixel_values"]).abs().max() < 1e-5
    difference = ours.codebook_images(images) - theirs["codebook_pixel_values"]
    assert difference.abs().max() < 1e-5


def test_clips_view_equals_the_published_processors():
    images = [noise(*size) for size in SIZES if size != (3, 500)]
    theirs = CLIPImageProcessorPil()(images, return_tensors="pt")["pixel_values"]
    ours = processor(clip_view(224)).images(images)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-5


def test_a_view_at_another_size_is_the_published_one_of_that_size():
    image = [noise(300, 200)]
    theirs = FlavaImageProcessorPil(
        size=480,
        crop_size=480,
        codebook_size={"height": 240, "width": 240},
        codebook_crop_size={"height": 240, "width": 240},
        return_codebook_pixels=True,
    )(image, return_tensors="pt")
    ours = FLAVA.of_size((480, 480), 16)
    assert (ours.images(image) - theirs["pixel_values"]).abs().max() < 1e-5
    assert (ours.codebook_images(image) - theirs["codebook_pixel_values"]).abs().max() < 1e-5
    clip = processor(clip_view(224)).of_size((96, 96), 16)
    theirs = CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size=96)
    expected = theirs(image, return_tensors="pt")["pixel_values"]
    assert (clip.images(image) - expected).abs().max() < 1e-5


def test_an_image_that_would_fill_the_memory_when_resized_is_refused():
    narrow = Image.new("RGB", (1, 60_000))
    with pytest.raises(
        ValueError, match=r"images\[0\]: image is too narrow: 1x60000 .* 224x13440000"
    ):
        processor(clip_view(224)).images([narrow])
    assert FLAVA.images([narrow]).shape == (1, 3, 224, 224)


def test_no_images_are_an_empty_batch():
    assert FLAVA.images([]).shape == (0, 3, 224, 224)
    assert FLAVA.codebook_images([]).shape == (0, 3, 112, 112)


def test_all_bad_images_are_named_in_one_error():
    images = [picture(1), b"", "nowhere.png", picture(2)]
    with pytest.raises(ValueError, match="some images cannot be used") as caught:
        FLAVA.images(images)
    said = str(caught.value)
    assert "images[1]: image cannot be decoded: it is empty" in said
    assert "images[2]: image cannot be read: 'nowhere.png'" in said
    assert "images[0]" not in said
    assert "images[3]" not in said


def test_a_model_without_a_codebook_has_no_codebook_pixels():
    with pytest.raises(ValueError, match="no codebook"):
        processor(clip_view(224)).codebook_images([picture(1)])


# Texts


@pytest.fixture(scope="module")
def published() -> BertTokenizer:
    words = VOCABULARY.read_text(encoding="utf-8").splitlines()
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)})


RANGES = {
    "control": (0x00, 0x20), "ascii": (0x20, 0x7F), "latin": (0x80, 0x250),
    "combining": (0x300, 0x370), "greek and cyrillic": (0x370, 0x530), "hebrew": (0x590, 0x600),
    "arabic": (0x600, 0x700), "indic": (0x900, 0xD80), "thai": (0xE00, 0xE80),
    "hangul": (0xAC00, 0xD7A4), "general": (0x2000, 0x2070), "kana": (0x3040, 0x3100),
    "cjk": (0x4E00, 0xA000), "private": (0xE000, 0xF900), "compatible": (0xF900, 0x10000),
    "plane 1": (0x10000, 0x20000), "emoji": (0x1F300, 0x1FB00), "plane 2": (0x20000, 0x2FA20),
    "tags": (0xE0000, 0xE01F0), "any": (0, 0x110000),
}  # fmt: skip


def dirty_texts() -> list[str]:
    """Thousands of texts: runs of every part of Unicode, glued, spaced, mixed with English."""
    rng = random.Random(0)
    english = ["a", "dog", "[MASK]", "unaffable", "Don't", "", "E-MAIL", "$5.99\tend"]

    def run(bounds: tuple[int, int]) -> str:
        codes = (rng.randrange(*bounds) for _ in range(rng.randrange(1, 9)))
        return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)

    texts = []
    for _ in range(150):
        texts += [" ".join(run(bounds) for _ in range(4)) for bounds in RANGES.values()]
        mixed = [run(rng.choice(list(RANGES.values()))) for _ in range(8)] + english
        rng.shuffle(mixed)
        texts += [" ".join(mixed), "".join(mixed), run(RANGES["ascii"]) * rng.randrange(1, 60)]
    return texts


def test_ids_of_thousands_of_dirty_texts_equal_the_published_ones(published):
    texts = dirty_texts()
    assert len(texts) == 3450
    expected = published(texts, max_length=512, truncation=True)["input_ids"]
    assert FLAVA.input_ids(texts) == expected
    # They are dirty, and yet not all unknown.
    flat = [i for input_ids in expected for i in input_ids[1:-1]]
    assert 0.05 < flat.count(100) / len(flat) < 0.9


def test_ids_of_the_embedded_texts_equal_the_published_ones(published):
    texts = []
    for name in ("embedded:text/wordnet-test.jsonl.gz", "embedded:text/wordnet-val.jsonl.gz"):
        for shard in resolve(name):
            lines = [raw for raw in read_shard(shard) if isinstance(raw, RawSample)]
            texts += [next(iter(raw.files.values())).decode() for raw in lines]
    assert len(texts) > 5000
    assert FLAVA.input_ids(texts) == published(texts, max_length=512, truncation=True)["input_ids"]


def test_ids_are_cut_to_the_longest_text_the_model_reads(published):
    short = Processor(image=encoder_view(8), codebook=None, tokenizer=Tokenizer(), max_length=7)
    texts = ["one two three four five six seven eight", "a"]
    expected = published(texts, max_length=7, truncation=True)["input_ids"]
    assert short.input_ids(texts) == expected
    input_ids, attention_mask = short.texts(texts)
    theirs = published(texts, max_length=7, truncation=True, padding=True, return_tensors="pt")
    assert torch.equal(input_ids, theirs["input_ids"])
    assert torch.equal(attention_mask, theirs["attention_mask"].bool())


def test_all_texts_with_lone_surrogates_are_named():
    with pytest.raises(ValueError, match="some texts cannot be used") as caught:
        FLAVA.input_ids(["fine", "half \ud83e of", "\U0001f9a8", "\udc80"])
    said = str(caught.value)
    assert "texts[1]: text is not Unicode: a lone surrogate at character 5" in said
    assert "texts[3]" in said
    assert "texts[2]" not in said
    said.encode()  # it can be printed
    with pytest.raises(SampleError):
        Tokenizer().encode("\ud800", sys.maxsize)


def test_a_single_text_is_not_taken_for_a_list():
    with pytest.raises(ValueError, match=r"texts is a single text: give a list"):
        FLAVA.texts("a skunk")
