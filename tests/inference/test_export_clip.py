"""A CLIP as we write it, read by transformers: weights, image processor, tokeniser, card."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor

import flava
from flava.checkpoints.recognise import load_pretrained
from flava.inference.export import export, save_pretrained
from flava.inference.load import load
from flava.models import Activation, Clip, ClipConfig, ClipImageConfig, ClipTextConfig
from tests.inference.models import tiny_clip
from tests.support import randomise

TEXTS = ["a red apple", "Ünïcode: 漢字, naïve-café!", "it's 1998 & he'll  run", ""]
SIZES = [(61, 83), (30, 30), (90, 40)]
COLOURS = ["red", "navy", "white"]
IMAGES = [Image.new("RGB", s, c) for s, c in zip(SIZES, COLOURS, strict=True)]
for picture in IMAGES:
    picture.paste((90, 200, 30), (3, 5, 22, 19))


@pytest.fixture(scope="module")
def clip() -> Clip:
    """With CLIP's vocabulary, and another activation and epsilon in each encoder."""
    image = ClipImageConfig(image_size=24, patch_size=6, width=32, depth=2, heads=4, mlp_width=48)
    text = ClipTextConfig(width=24, depth=1, heads=3, mlp_width=40)
    image = replace(image, activation=Activation.GELU, norm_eps=1e-3)
    model = Clip(ClipConfig(image=image, text=text, projection_width=16))
    randomise(model)
    torch.nn.init.constant_(model.logit_scale, 2.0)
    return model.eval()


@pytest.fixture(scope="module")
def folder(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pretrained(clip, tmp_path_factory.mktemp("saved") / "clip")


@torch.no_grad()
def test_transformers_reads_every_tensor_and_computes_the_same(folder: Path) -> None:
    """From the images and texts themselves, by its processor and by ours."""
    published: Any = CLIPModel.from_pretrained(folder, output_loading_info=True)
    theirs, info = published
    assert not any(info.values()), info
    ours = load(folder, device="cpu")
    input_ids = CLIPProcessor.from_pretrained(folder).tokenizer(
        TEXTS, padding=True, return_tensors="pt"
    )  # pyright: ignore[reportAttributeAccessIssue]
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(IMAGES, return_tensors="pt")
    expected = theirs(**input_ids, **pixels)
    image, text = ours.encode_image(IMAGES), ours.encode_text(TEXTS)
    assert min(image.std(dim=0).mean().item(), text.std(dim=0).mean().item()) > 0.01
    torch.testing.assert_close(image, expected.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(text, expected.text_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(np.exp(ours.logit_scale) * image @ text.T, expected.logits_per_image)


@pytest.mark.parametrize("layout", ["hf", "flava"])
def test_it_comes_back_bit_for_bit(layout: str, tmp_path: Path) -> None:
    model = tiny_clip()
    again = load_pretrained(export(model, tmp_path / "x", layout))
    assert isinstance(again, Clip)
    assert again.config == model.config
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in model.state_dict().items())


def test_a_tokeniser_that_does_not_fit_is_left_out_with_a_warning(tmp_path: Path, caplog) -> None:
    save_pretrained(tiny_clip(), tmp_path / "x")
    assert "53 token ids, fewer than the tokeniser's 49408" in caplog.text
    assert not (tmp_path / "x" / "vocab.json").exists()


def test_the_sources_files_go_along(folder: Path, tmp_path: Path) -> None:
    """Those of the folder that a model was loaded from, which its user may have changed."""
    source = tmp_path / "source"
    flava.load(folder, device="cpu").save_pretrained(source)
    merges = (source / "merges.txt").read_text()
    (source / "merges.txt").write_text(merges + "\n")
    fields = (source / "preprocessor_config.json").read_text()
    (source / "preprocessor_config.json").write_text(
        fields.replace('"resample": 3', '"resample": 2')
    )
    written = flava.load(source, device="cpu").save_pretrained(tmp_path / "again")
    assert (written / "merges.txt").read_text() == merges + "\n"
    assert '"resample": 2' in (written / "preprocessor_config.json").read_text()


def test_torchmultimodal_has_no_clip_of_this_kind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a Clip cannot be written in the layout torchmultimodal"):
        export(tiny_clip(), tmp_path / "x", "torchmultimodal")
