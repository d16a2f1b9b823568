import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import BertTokenizer, FlavaImageProcessorPil, FlavaProcessor

from flava.inference.load import load
from tests.data.shard_files import picture
from tests.inference.models import save_flava, vocabulary

SQUARE = {"size": 24, "crop_size": 24, "codebook_size": 32, "codebook_crop_size": 32}
"""What the tiny model reads."""


def published(**changes: Any) -> FlavaImageProcessorPil:
    fields: Any = {**SQUARE, "return_codebook_pixels": True, **changes}
    return FlavaImageProcessorPil(**fields)


def write(folder: Path, name: str, fields: object) -> None:
    (folder / name).write_text(json.dumps(fields))


def test_without_files_the_processor_is_what_the_model_was_made_for(tmp_path):
    processor = load(save_flava(tmp_path / "m")).processor
    image = [picture(1, 50, 40)]
    theirs = published()(image, return_tensors="pt")
    assert (processor.images(image) - theirs["pixel_values"]).abs().max() < 1e-5
    difference = processor.codebook_images(image) - theirs["codebook_pixel_values"]
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("newer", [False, True])
def test_what_transformers_saves_is_read(tmp_path, newer):
    """Of its versions before 5 the image processor's own file, since then the whole processor's."""
    changed = published(
        size={"height": 30, "width": 28},
        resample=2,
        image_mean=[0.1, 0.2, 0.3],
        codebook_resample=0,
        codebook_do_map_pixels=False,
    )
    folder = save_flava(tmp_path / "m")
    words = [*vocabulary(44), "skunk", "snake"]
    if newer:
        (folder / "vocab.txt").unlink()
        ids = {word: i for i, word in enumerate(words)}
        whole = FlavaProcessor(image_processor=changed, tokenizer=BertTokenizer(vocab=ids))
        whole.save_pretrained(folder)
        assert not (folder / "vocab.txt").exists()
        assert not (folder / "preprocessor_config.json").exists()
    else:
        changed.save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    processor = load(folder).processor
    assert processor.input_ids(["Skunk a"]) == [[2, 44, 5, 4]]
    image = [picture(1, 50, 40)]
    theirs = changed(image, return_tensors="pt")
    assert (processor.images(image) - theirs["pixel_values"]).abs().max() < 1e-5
    difference = processor.codebook_images(image) - theirs["codebook_pixel_values"]
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"do_rescale": False},
        {"do_normalize": False, "codebook_do_normalize": False},
        {"do_center_crop": False},
        {"size": {"shortest_edge": 26}},
    ],
)
def test_steps_can_be_left_out(tmp_path, changes):
    folder = save_flava(tmp_path / "m")
    published(**changes).save_pretrained(folder)
    image = [picture(1, 50, 40), picture(2, 30, 70)]
    theirs = published(**changes)(image, return_tensors="pt")["pixel_values"]
    ours = load(folder).processor.images(image)
    assert ((ours - theirs) / theirs.abs().max()).abs().max() < 1e-5


def test_case_is_kept_where_the_tokeniser_keeps_it(tmp_path):
    folder = save_flava(tmp_path / "m")
    (folder / "vocab.txt").write_text("\n".join([*vocabulary(31), "A"]))
    assert load(folder).processor.input_ids(["A"]) == [[2, 5, 4]]
    write(folder, "tokenizer_config.json", {"do_lower_case": False})
    assert load(folder).processor.input_ids(["A"]) == [[2, 31, 4]]


def test_an_image_size_is_for_encoder_and_codebook(tmp_path):
    folder = save_flava(tmp_path / "m")
    published(image_std=[0.3, 0.4, 0.5]).save_pretrained(folder)
    processor = load(folder, image_size=42).processor
    image = [picture(1, 50, 40)]
    changes = {"size": 42, "crop_size": 42, "codebook_size": 56, "codebook_crop_size": 56}
    theirs = published(image_std=[0.3, 0.4, 0.5], **changes)(image, return_tensors="pt")
    assert torch.allclose(processor.images(image), theirs["pixel_values"], atol=1e-5)
    expected = theirs["codebook_pixel_values"]
    assert torch.allclose(processor.codebook_images(image), expected, atol=1e-5)


@pytest.mark.parametrize("size", [0, -6, 25, 5])
def test_an_image_size_that_is_not_whole_patches_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match=f"image_size is {size}: use a positive multiple of 6"):
        load(save_flava(tmp_path / "m"), image_size=size)


PREPROCESSOR, TOKENIZER = "preprocessor_config.json", "tokenizer.json"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (PREPROCESSOR, "{", "is not JSON"),
        (PREPROCESSOR, "[1]", "is not a JSON object"),
        (PREPROCESSOR, '{"size": "big", "resample": 99}', "size.*resample"),
        (PREPROCESSOR, '{"size": -4}', "greater than 0"),
        (PREPROCESSOR, '{"image_mean": [1, 2]}', "image_mean"),
        (PREPROCESSOR, '{"do_resize": false}', "images would keep sizes of their own"),
        (PREPROCESSOR, '{"size": {"shortest_edge": 24}, "do_center_crop": false}', "keep sizes"),
        (PREPROCESSOR, '{"codebook_crop_size": {"height": 8}}', "codebook_.*width"),
        (PREPROCESSOR, '{"crop_size": 25}', "25x25 pixels are not whole patches of 6"),
        (PREPROCESSOR, '{"codebook_crop_size": 112}', "112x112 .* that needs 32x32"),
        (TOKENIZER, '{"model": {"type": "BPE"}}', "not hold a WordPiece tokeniser"),
        (
            TOKENIZER,
            '{"model": {"type": "WordPiece", "vocab": {"a": 0}}}',
            r"needs \[PAD\], \[UNK\]",
        ),
        ("vocab.txt", "a\nb\n", r"needs \[PAD\], \[UNK\], \[CLS\], \[SEP\], \[MASK\] too"),
        ("vocab.txt", "\n".join([*vocabulary(53), "more"]), "knows 54 words, the text encoder 53"),
    ],
)
def test_a_file_that_does_not_hold_is_named_with_the_reason(tmp_path, name, content, expected):
    folder = save_flava(tmp_path / "m")
    (folder / "vocab.txt").unlink()
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=rf"(?s){folder}.*{expected}"):
        load(folder)


def test_a_vocabulary_that_is_not_utf_8_is_named(tmp_path):
    folder = save_flava(tmp_path / "m")
    (folder / "vocab.txt").write_bytes("[PAD]\né".encode("latin-1"))
    with pytest.raises(ValueError, match=r"vocab.txt is not UTF-8"):
        load(folder)


def test_the_shipped_vocabulary_does_not_fit_a_smaller_encoder(tmp_path):
    folder = save_flava(tmp_path / "m")
    (folder / "vocab.txt").unlink()
    with pytest.raises(ValueError, match="knows 30522 words, the text encoder 53"):
        load(folder)


def test_resampling_filters_are_pils():
    assert (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS) == (3, 1)
