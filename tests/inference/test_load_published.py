"""Published folders with their processors' files, loaded whole; and what is written for others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    FlavaForPreTraining,
    FlavaImageProcessorPil,
)

from flava.data.tokenizers import ClipTokenizer
from flava.inference.load import load
from flava.inference.pretrained import Pretrained
from tests.data.shard_files import picture
from tests.golden.twins import twins
from tests.inference.models import save_flava, vocabulary

IMAGES = [picture(n, 20 + 9 * n, 40 - 5 * n) for n in range(4)]
TEXTS = ["a b c", "d", "é f", "g h i j"]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder as transformers writes it, with an image processor that is not the default one."""
    pair = twins("three-image-blocks")
    pair.published.save_pretrained(tmp_path / "hf")
    processor: Any = {"size": 40, "crop_size": 40, "image_std": [0.3, 0.4, 0.5]}
    codes = {"height": 40, "width": 40}
    FlavaImageProcessorPil(
        **processor, codebook_size=codes, codebook_crop_size=codes
    ).save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "vocab.txt").write_text("\n".join(vocabulary(57)) + "\n")
    return tmp_path / "hf"


@torch.no_grad()
def test_a_folder_of_transformers_is_loaded_with_its_processor(published: Path) -> None:
    pretrained = load(str(published), device="cpu")
    flava: Any = twins("three-image-blocks").published.flava.eval()
    images = FlavaImageProcessorPil.from_pretrained(published)(IMAGES, return_tensors="pt")
    theirs = flava.get_image_features(images["pixel_values"]).pooler_output[:, 0]
    expected = functional.normalize(theirs, dim=1)
    assert (pretrained.encode_image(IMAGES) - expected).abs().max() < 1e-5
    assert pretrained.processor.input_ids(["a z"]) == [[2, 5, 30, 4]]
    assert pretrained.match(IMAGES, TEXTS).probability is not None


def test_what_a_published_folder_does_not_hold_is_refused_by_name(published: Path) -> None:
    pretrained = load(published)
    with pytest.raises(ValueError, match=r"no weights for codebook.decoder.*`flava train`"):
        pretrained.reconstruct(IMAGES)


def test_the_identity_is_the_same_in_every_format(published: Path, tmp_path: Path) -> None:
    """Also from one load to the next, though a decoder that is not there has random weights."""
    pretrained = load(published)
    assert load(published).identity == pretrained.identity
    # The image processor and the vocabulary go along.
    again = load(pretrained.save_pretrained(tmp_path / "again"))
    assert again.identity == pretrained.identity
    assert again.processor.input_ids(["a z"]) == [[2, 5, 30, 4]]


def test_what_is_saved_is_read_by_transformers_and_by_us(tmp_path: Path) -> None:
    pair = twins("odd-everything")
    ours = Pretrained(pair.ours, load(save_flava(tmp_path / "m", pair.ours)).processor)
    folder = load(tmp_path / "m").save_pretrained(tmp_path / "out")
    read: Any = FlavaForPreTraining.from_pretrained(folder, output_loading_info=True)
    model, report = read
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    images: Any = FlavaImageProcessorPil.from_pretrained(folder)
    assert images.size.height == images.size.width == 21
    with torch.no_grad():
        pixels = images(IMAGES, return_tensors="pt")["pixel_values"]
        theirs = model.flava.eval().get_image_features(pixels).pooler_output[:, 0]
    assert (ours.encode_image(IMAGES) - functional.normalize(theirs, dim=1)).abs().max() < 1e-5
    again = load(folder)
    assert torch.equal(again.encode_text(TEXTS), ours.encode_text(TEXTS))
    assert again.identity == ours.identity


def test_a_folder_that_is_in_use_is_not_written_to(tmp_path: Path) -> None:
    pretrained = load(save_flava(tmp_path / "m"))
    with pytest.raises(OSError, match=str(tmp_path)):
        pretrained.save_pretrained(tmp_path / "m")


@torch.no_grad()
def test_clip_is_loaded_with_its_tokeniser_and_its_view(tmp_path: Path) -> None:
    sides: Any = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2}
    config = CLIPConfig(
        text_config={**sides, "intermediate_size": 48, "eos_token_id": 49407},
        vision_config={**sides, "intermediate_size": 40, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    theirs: Any = CLIPModel(config).eval()
    for parameter in theirs.parameters():
        parameter.normal_(std=0.1)
    theirs.save_pretrained(tmp_path / "clip")
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    images.save_pretrained(tmp_path / "clip")
    ours = load(tmp_path / "clip", device="cpu")
    pictures = [picture(n, 50 + 9 * n, 70 - 5 * n) for n in range(4)]
    pixels = images(pictures, return_tensors="pt")["pixel_values"]
    # By the parts, since what `get_image_features` returns differs between versions.
    seen = theirs.visual_projection(theirs.vision_model(pixels).pooler_output)
    expected = functional.normalize(seen, dim=1)
    assert (ours.encode_image(pictures) - expected).abs().max() < 1e-5
    texts = ["A photo of a cat", "two   dogs &amp; a bird!", "car"]
    input_ids, attention_mask = ClipTokenizer().batch(texts, 77)
    read = theirs.text_model(input_ids, attention_mask=attention_mask.long()).pooler_output
    expected = functional.normalize(theirs.text_projection(read), dim=1)
    assert (ours.encode_text(texts) - expected).abs().max() < 1e-5
