"""What we write, read by transformers; and what the hub is sent, with its client replaced."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoTokenizer, FlavaForPreTraining, FlavaModel, FlavaProcessor
from transformers.models.flava.image_processing_pil_flava import FlavaImageProcessorPil

from flava.checkpoints.reading import find_checkpoint
from flava.checkpoints.recognise import load_pretrained
from flava.core.batch import PairBatch
from flava.data.tokenizers import Tokenizer
from flava.data.transforms import ImageTransformConfig, evaluation_pixels
from flava.inference.export import export, push_to_hub, save_pretrained
from flava.models import Codebook, Flava, FlavaConfig
from flava.objectives import FlavaObjective, FlavaObjectiveConfig
from tests.golden.twins import GEOMETRIES, Twins, run_published, twins
from tests.support import randomise, same_but_for_rounding, tiny_model
from tests.tiny_runs import CODEBOOK

SENTENCES = ["a red apple", "Ünïcode: 漢字, naïve-café!", "unaffable [MASK] \t\x00x", ""]


def worded() -> Flava:
    """A model with the whole vocabulary, so that the tokeniser fits, and 40 pixels a side."""
    config = GEOMETRIES["three-image-blocks"]
    model = Flava(replace(config, text=replace(config.text, vocabulary_size=30_522)))
    randomise(model, std=0.1)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pretrained(worded(), tmp_path_factory.mktemp("saved") / "model")


# What transformers makes of it


def published_from(kind: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """A model of transformers', and what it missed or did not expect in the files."""
    return kind.from_pretrained(folder, output_loading_info=True)


@pytest.mark.parametrize("name", GEOMETRIES)
@torch.no_grad()
def test_transformers_reads_every_tensor_and_computes_the_same(name, tmp_path) -> None:
    pair = twins(name)
    save_pretrained(pair.ours, tmp_path / "x")
    published, info = published_from(FlavaForPreTraining, tmp_path / "x")
    assert not any(info.values()), info
    batch = pair.pairs((0,))
    again = Twins(name, pair.ours, published.train())
    terms = FlavaObjective(FlavaObjectiveConfig(), pair.ours)(batch)
    theirs = run_published(again.published, batch)
    names = {"gc": "global_contrastive"}
    for term, value in terms.items():
        expected = theirs.loss_info[names.get(term, term)]
        torch.testing.assert_close(value.loss, expected, rtol=1e-5, atol=0)
    image = pair.ours.image_encoder(batch.image.pixels)
    text = pair.ours.text_encoder(batch.text.input_ids, batch.text.attention_mask)
    error = pair.ours.image_encoder.norm(image) - theirs.image_embeddings
    assert error.abs().max() < 1e-5
    error = (pair.ours.text_encoder.norm(text) - theirs.text_embeddings)[batch.text.attention_mask]
    assert error.abs().max() < 1e-5


def test_a_base_model_for_transformers(tmp_path) -> None:
    twins("odd-everything").published.flava.save_pretrained(tmp_path / "theirs")
    save_pretrained(load_pretrained(tmp_path / "theirs"), tmp_path / "ours")
    model, info = published_from(FlavaModel, tmp_path / "ours")
    assert not any(info.values()), info
    expected = twins("odd-everything").published.flava.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_the_processor_gives_our_ids(folder) -> None:
    processor: Any = FlavaProcessor.from_pretrained(folder)
    input_ids, attention_mask = Tokenizer().batch(SENTENCES, 16)
    found = processor(text=SENTENCES, padding=True, truncation=True, return_tensors="pt")
    assert torch.equal(found["input_ids"], input_ids)
    assert torch.equal(found["attention_mask"].bool(), attention_mask)
    automatic = AutoTokenizer.from_pretrained(folder)
    assert automatic(SENTENCES, padding=True, truncation=True)["input_ids"] == input_ids.tolist()
    assert automatic.model_max_length == 20


@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_image_processor_gives_our_pixels(name, tmp_path) -> None:
    """By its PIL backend, at image sizes other than 224."""
    config = GEOMETRIES[name].image
    save_pretrained(twins(name).ours, tmp_path / "x")
    processor: Any = FlavaImageProcessorPil.from_pretrained(tmp_path / "x")
    drawn = np.random.default_rng(0).integers(0, 256, (2, 61, 83, 3), np.uint8)
    images = [Image.fromarray(pixels) for pixels in drawn]
    found = processor(
        images, return_codebook_pixels=True, return_image_mask=True, return_tensors="pt"
    )
    sizes = ImageTransformConfig(image_size=config.image_size, codebook_size=8 * config.grid)
    pixels, codebook_pixels = evaluation_pixels(images, sizes)
    same_but_for_rounding(pixels, codebook_pixels, found)
    mask = found["bool_masked_pos"]
    assert mask.shape == (2, config.grid, config.grid)
    assert int(mask.sum(dim=(1, 2)).max()) <= 75 * config.grid**2 // 196


@torch.no_grad()
def test_another_image_size_in_the_whole_model() -> None:
    """Transformers can do this in the image model alone: its states are put into the joint one."""
    pair = twins("three-image-blocks")
    batch = pair.pairs()
    assert isinstance(batch, PairBatch)
    pixels = torch.randn(len(batch.text.input_ids), 3, 56, 24)
    hidden = pair.ours.image_encoder(pixels)
    words = pair.ours.text_encoder(batch.text.input_ids, batch.text.attention_mask)
    joint = pair.ours.multimodal(hidden, words, batch.text.attention_mask)
    flava = pair.published.flava
    image = flava.image_model(pixels, interpolate_pos_encoding=True, output_hidden_states=True)
    text = flava.text_model(
        batch.text.input_ids,
        attention_mask=batch.text.attention_mask.long(),
        output_hidden_states=True,
    )
    states = [
        flava.image_to_mm_projection(image.hidden_states[-1]),
        flava.text_to_mm_projection(text.hidden_states[-1]),
    ]
    attention_mask = torch.cat(
        [torch.ones(len(pixels), 1 + 22), batch.text.attention_mask.float()], dim=1
    )
    theirs = flava.multimodal_model(torch.cat(states, dim=1), attention_mask=attention_mask)
    assert joint.shape == theirs.last_hidden_state.shape == (6, 1 + 22 + 11, 48)
    assert (joint - theirs.last_hidden_state)[attention_mask.bool()].abs().max() < 1e-5
    embedded = nn.functional.normalize(flava.image_projection(image[0][:, 0]), dim=-1)
    assert (pair.ours.encode_image(pixels) - embedded).abs().max() < 1e-5


# Files


def test_it_comes_back_whole(folder) -> None:
    model = load_pretrained(folder)
    assert isinstance(model, Flava)
    assert not model.missing_parts
    assert model.config == worded().config


def test_the_sources_own_tokeniser_goes_along(folder, tmp_path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\n")
    for layout in ("hf", "flava", "torchmultimodal"):
        written = export(load_pretrained(folder), tmp_path / layout, layout, source=source)
        assert (written / "vocab.txt").read_bytes() == (source / "vocab.txt").read_bytes()


def test_a_tokeniser_that_does_not_fit_is_left_out_with_a_warning(tmp_path, caplog) -> None:
    save_pretrained(twins("odd-everything").ours, tmp_path / "x")
    assert "57 token ids, fewer than the tokeniser's 30522" in caplog.text
    assert not (tmp_path / "x" / "vocab.txt").exists()


@pytest.mark.parametrize("layout", ["hf", "torchmultimodal", "flava", "onnx"])
def test_nothing_that_is_there_is_written_over(layout, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not empty: name a new folder"):
        export(twins("odd-everything").ours, tmp_path, layout)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="cannot be written for transformers"):
        save_pretrained(tiny_model(), tmp_path / "x")

    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flava.checkpoints.flava_huggingface.save_file", full)
    with pytest.raises(OSError, match=r"x could not be written.*No space left"):
        save_pretrained(twins("odd-everything").ours, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_codebook_alone_has_our_layout_only(tmp_path) -> None:
    codebook = Codebook(CODEBOOK)
    with pytest.raises(ValueError, match="a Codebook cannot be written in the layout hf"):
        export(codebook, tmp_path / "x", "hf")
    found = load_pretrained(export(codebook, tmp_path / "x", "flava"))
    assert isinstance(found, Codebook)
    with pytest.raises(ValueError, match="a Linear cannot be written in the layout flava"):
        export(nn.Linear(1, 1), tmp_path / "y", "flava")


# The hub


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Callable[[], tuple[list[Any], Path]]:
    """What the hub's client is asked, and the folder as it was uploaded."""
    asked: list[Any] = []

    class Api:
        def __init__(self, token: str | None) -> None:
            asked.append(("token", token))

        def create_repo(self, repo_id: str, **options: Any) -> str:
            asked.append(("create", repo_id, options))
            return f"https://huggingface.co/{repo_id}"

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
            asked.append(("upload", repo_id, commit_message))
            folder_path.rename(tmp_path / "uploaded")

    monkeypatch.setattr("flava.inference.export.HfApi", Api)
    return lambda: (asked, tmp_path / "uploaded")


def test_upload(hub, tmp_path) -> None:
    source = tmp_path / "run" / "checkpoints" / "best"
    source.mkdir(parents=True)
    run = {"recipe": "flava-tiny", "max_steps": 7, "optimizer": {"lr": 0.25}, "seed": 3}
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    model = twins("three-image-blocks").ours
    address = push_to_hub(
        model, "me/mine", licence="cc-by-4.0", private=True, token="secret", source=source
    )
    asked, uploaded = hub()
    assert address == "https://huggingface.co/me/mine"
    assert asked == [
        ("token", "secret"),
        ("create", "me/mine", {"private": True, "exist_ok": True}),
        ("upload", "me/mine", "Upload weights"),
    ]
    assert isinstance(load_pretrained(find_checkpoint(uploaded)), Flava)
    card = (uploaded / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\nlibrary_name: transformers\n")
    for line in (
        "# mine",
        "| image | 48 | 3 | 3 | 100 |",
        "| multimodal | 48 | 2 | 2 | 60 |",
        "- recipe: flava-tiny",
        "- updates: 7",
        "- learning rate: 0.25",
        'model = flava.load("me/mine")',
        'model = FlavaForPreTraining.from_pretrained("me/mine")',
    ):
        assert line in card.splitlines()
    assert "secret" not in card


def test_a_card_of_a_base_model_without_a_run(hub) -> None:
    config = FlavaConfig(**vars(GEOMETRIES["odd-everything"]))
    model = Flava(config)
    parts = ("mim_head", "mlm_head", "mmm_image_head", "mmm_text_head", "itm_head")
    model.missing_parts = frozenset({*parts, "codebook.encoder", "codebook.decoder"})
    push_to_hub(model, "me/mine", licence="mit")
    card = (hub()[1] / "README.md").read_text()
    assert "Not recorded with the weights." in card
    assert 'model = FlavaModel.from_pretrained("me/mine")' in card


def test_a_model_that_transformers_cannot_hold_reaches_no_hub(hub) -> None:
    with pytest.raises(ValueError, match="cannot be written for transformers"):
        push_to_hub(tiny_model(), "me/mine", licence="mit")
    assert [request[0] for request in hub()[0]] == ["token"]
