"""Our model beside TorchMultimodal's on the same random weights, written by us and read by it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flava.checkpoints import flava_torchmultimodal as torchmultimodal
from flava.checkpoints.recognise import load_pretrained
from flava.core.batch import PairBatch, TextBatch
from flava.models import Flava
from flava.objectives import FlavaObjective, FlavaObjectiveConfig
from tests.golden.twins import GEOMETRIES, Twins, twins
from tests.support import random_images, random_texts, tiny_model

flava_models = pytest.importorskip(
    "torchmultimodal.models.flava.model", reason="TorchMultimodal is not installed"
)
losses_module = pytest.importorskip("torchmultimodal.modules.losses.flava")

LOSSES = {
    "mmm_text": "mmm_text_loss",
    "mmm_image": "mmm_image_loss",
    "itm": "itm_loss",
    "gc": "global_contrastive_loss",
    "mim": "mim_loss",
    "mlm": "mlm_loss",
}
IGNORED = -1
"""TorchMultimodal's label of what is not to be predicted."""


@pytest.fixture(params=GEOMETRIES)
def pair(request: pytest.FixtureRequest) -> Twins:
    return twins(request.param)


def for_pretraining(ours: Flava, arguments: dict[str, Any]) -> Any:
    """`flava_model_for_pretraining`, which always downloads a codebook of the base size."""
    config, codebook = ours.config, ours.config.codebook
    vae = flava_models.DalleVAEEncoder(pretrained=False)
    vae.encoder = flava_models.DalleEncoder(
        n_hid=codebook.width, n_blk_per_group=codebook.blocks, vocab_size=codebook.codes
    )
    loss = losses_module.FLAVAPretrainingLoss(
        hidden_size=config.multimodal.width,
        text_vocab_size=config.text.vocabulary_size,
        image_vocab_size=codebook.codes,
    )
    model = flava_models.flava_model(**arguments)
    return flava_models.FLAVAForPreTraining(model=model, image_codebook=vae, loss=loss)


@pytest.fixture
def theirs(pair: Twins, tmp_path: Path) -> Any:
    """What TorchMultimodal makes of the files that we write, loaded strictly."""
    torchmultimodal.write(pair.ours, tmp_path)
    model = for_pretraining(pair.ours, json.loads((tmp_path / "config.json").read_text()))
    state = torch.load(tmp_path / "flava_for_pretraining.pt", weights_only=True)
    model.load_state_dict(state, strict=True)
    return model


def whole_texts(pair: Twins) -> TextBatch:
    """Without padding, which TorchMultimodal does not mask in the multimodal encoder."""
    longest = pair.ours.config.text.max_length
    return random_texts(pair.ours.config, [min(longest, 9)] * 6)


@torch.no_grad()
def test_states(pair: Twins, theirs: Any) -> None:
    images, texts = random_images(pair.ours.config, 6), whole_texts(pair)
    found = theirs.model(
        images.pixels,
        texts.input_ids,
        images.patch_mask.flatten(1),
        texts.input_ids_masked,
        skip_unmasked_mm_encoder=False,
    )
    ours = pair.ours
    masked = ("_masked", images.patch_mask, texts.input_ids_masked)
    for infix, patch_mask, input_ids in (("", None, texts.input_ids), masked):
        hidden = ours.image_encoder(images.pixels, patch_mask)
        words = ours.text_encoder(input_ids, texts.attention_mask)
        close(ours.image_encoder.norm(hidden), getattr(found, f"image{infix}").last_hidden_state)
        close(ours.text_encoder.norm(words), getattr(found, f"text{infix}").last_hidden_state)
        joint = ours.multimodal(hidden, words, texts.attention_mask)
        close(joint, getattr(found, f"multimodal{infix}").last_hidden_state)
    images_found, texts_found = (
        nn.functional.normalize(projected, dim=-1)
        for projected in (found.projected_image_embeddings, found.projected_text_embeddings)
    )
    close(ours.encode_image(images.pixels), images_found)
    close(ours.encode_text(texts.input_ids, texts.attention_mask), texts_found)


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.05, "too flat to compare"
    assert (ours - theirs).abs().max() < 1e-5


@torch.no_grad()
def test_codes(pair: Twins, theirs: Any) -> None:
    pixels = random_images(pair.ours.config, 6).codebook_pixels
    codes = pair.ours.codebook.codes(pixels)
    assert len(codes.unique()) > 2
    assert torch.equal(codes, theirs.image_codebook(pixels))


@pytest.mark.parametrize("kind", ["pairs", "images", "texts"])
@torch.no_grad()
def test_losses(pair: Twins, theirs: Any, kind: str) -> None:
    """Within 1e-4: TorchMultimodal's heads normalise with an epsilon of 1e-5, ours of 1e-12."""
    images, texts = random_images(pair.ours.config, 6), whole_texts(pair)
    matched = torch.tensor([True, True, False, True, False, True])
    batch = {
        "pairs": PairBatch(image=images, text=texts, matched=matched),
        "images": images,
        "texts": texts,
    }[kind]
    arguments: dict[str, Any] = {}
    if kind != "texts":
        arguments |= {
            "image": images.pixels,
            "image_for_codebook": images.codebook_pixels,
            "image_patches_mask": images.patch_mask,
        }
    if kind != "images":
        arguments |= {
            "text": texts.input_ids,
            "text_masked": texts.input_ids_masked,
            "mlm_labels": texts.input_ids.where(texts.token_mask, IGNORED),
        }
    if kind == "pairs":
        arguments["itm_labels"] = matched.long()
    found = theirs(**arguments).losses
    terms = FlavaObjective(FlavaObjectiveConfig(), pair.ours)(batch)
    assert {LOSSES[name] for name in terms} == {n for n, loss in found.items() if loss is not None}
    for name, term in terms.items():
        torch.testing.assert_close(term.loss, found[LOSSES[name]], rtol=1e-4, atol=0)


# There and back


def differing(model: nn.Module, other: nn.Module) -> set[str]:
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    return {name for name in ours if not torch.equal(ours[name], theirs[name])}


def test_ours_there_and_back_is_the_same_bits(pair: Twins, tmp_path) -> None:
    torchmultimodal.write(pair.ours, tmp_path)
    for source in (tmp_path, tmp_path / "flava_for_pretraining.pt"):
        model = load_pretrained(source)
        assert isinstance(model, Flava)
        assert model.config == pair.ours.config
        assert not model.missing_parts
        assert not differing(model, pair.ours)


def test_theirs_there_and_back_is_the_same_state(pair: Twins, theirs: Any, tmp_path) -> None:
    """By a file of theirs alone, of which the heads' widths must be the published 64."""
    for beside in ("config.json", "codebook_decoder.safetensors"):
        (tmp_path / beside).unlink()
    before = theirs.state_dict()
    torch.save(before, tmp_path / "alone.pt")
    if pair.ours.config.image.width % 64:
        with pytest.raises(ValueError, match=r"is no multiple of 64.*put the config\.json"):
            load_pretrained(tmp_path / "alone.pt")
        return
    model = load_pretrained(tmp_path / "alone.pt")
    assert isinstance(model, Flava)
    assert model.missing_parts == {"codebook.decoder"}
    assert model.config.image.heads == pair.ours.config.image.width // 64
    (tmp_path / "again").mkdir()
    torchmultimodal.write(model, tmp_path / "again")
    after = torch.load(tmp_path / "again" / "flava_for_pretraining.pt", weights_only=True)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("pair", ["three-image-blocks"], indirect=True)
def test_the_encoders_alone(theirs: Any, tmp_path) -> None:
    """`flava_model` has neither heads, codebook nor logit scale, and its names no prefix."""
    source, again = tmp_path / "encoders", tmp_path / "again"
    source.mkdir()
    again.mkdir()
    before = theirs.model.state_dict()
    torch.save(before, source / "flava_model.pt")
    (source / "config.json").write_bytes((tmp_path / "config.json").read_bytes())
    model = load_pretrained(source)
    assert isinstance(model, Flava)
    assert model.missing_parts == {*torchmultimodal.WITHOUT_LOSS, "codebook.decoder"}
    with pytest.raises(ValueError, match="no weights for logit_scale"):
        model.require("logit_scale")
    torchmultimodal.write(model, again)
    after = torch.load(again / "flava_model.pt", weights_only=True)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not list(again.glob("*.safetensors"))


# What does not fit


def test_all_that_does_not_fit_stands_in_one_error(tmp_path) -> None:
    torchmultimodal.write(twins("odd-everything").ours, tmp_path)
    path = tmp_path / "flava_for_pretraining.pt"
    state = torch.load(path, weights_only=True)
    del state["loss.itm_loss.pooler.dense.bias"]
    del state["model.mm_encoder.cls_token"]
    state["model.classifier.weight"] = torch.zeros(2)
    state["model.text_projection.bias"] = torch.zeros(9)
    torch.save(state, path)
    with pytest.raises(ValueError, match="do not fit") as error:
        load_pretrained(tmp_path)
    assert str(error.value).splitlines()[1:] == [
        "  missing: loss.itm_loss.pooler.dense.bias",
        "  missing: model.mm_encoder.cls_token",
        "  unexpected: model.classifier.weight",
        "  model.text_projection.bias is [9] in the file, [61] in the model",
    ]


def test_a_config_that_disagrees_with_its_tensors(tmp_path) -> None:
    torchmultimodal.write(twins("odd-everything").ours, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"image_size": 28, "text_num_hidden_layers": 2, "text_num_attention_heads": 15}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json of .* does not fit") as error:
        load_pretrained(tmp_path)
    assert set(str(error.value).splitlines()[1:]) == {
        "  text_num_hidden_layers is 2 in config.json, 3 in the tensors",
        "  image_size is 28 in config.json, 21 in the tensors",
    }


def test_what_torchmultimodal_cannot_hold(tmp_path) -> None:
    model = tiny_model()
    model.missing_parts = frozenset({"itm_head"})
    with pytest.raises(ValueError, match="cannot be written for TorchMultimodal") as error:
        torchmultimodal.write(model, tmp_path)
    for reason in ("it lacks itm_head", "image.width is 32", "text.width is 24"):
        assert reason in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_decoder_goes_along(tmp_path) -> None:
    ours = twins("odd-everything").ours
    torchmultimodal.write(ours, tmp_path)
    decoder = load_file(tmp_path / "codebook_decoder.safetensors")
    assert decoder.keys() == ours.codebook.decoder.state_dict().keys()
