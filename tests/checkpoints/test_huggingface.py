"""Hugging Face's layout: checkpoints that transformers wrote, and their variants."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import FlavaConfig as PublishedConfig
from transformers import FlavaForPreTraining

from flava.checkpoints import flava_huggingface
from flava.checkpoints.flava_huggingface import _read_config, _write_config
from flava.checkpoints.recognise import load_pretrained
from flava.models import CodebookConfig, Flava, FlavaConfig
from flava.models.flava import OPTIONAL_PARTS
from tests.golden.twins import GEOMETRIES, Twins, published_config, twins
from tests.support import tiny_model

BASE = FlavaConfig(projection_width=768)
"""transformers' defaults."""

NOT_IN_A_BASE_MODEL = set(OPTIONAL_PARTS) - {"logit_scale"}


@pytest.fixture(params=GEOMETRIES)
def pair(request: pytest.FixtureRequest) -> Twins:
    return twins(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What transformers saves of one twin; tests copy what they change."""
    path = tmp_path_factory.mktemp("published") / "twin"
    twins("odd-everything").published.save_pretrained(path)
    return path


def copy(folder: Path, to: Path, tensors: dict[str, Tensor], **settings: Any) -> Path:
    """The checkpoint with these tensors, and with settings changed in its config."""
    to.mkdir()
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | settings
    (to / "config.json").write_text(json.dumps(config))
    return to


def loaded(path: Path) -> Flava:
    model = load_pretrained(path)
    assert isinstance(model, Flava)
    return model


def differing(model: Flava, other: Flava) -> set[str]:
    """Names of the tensors that are not the same bits."""
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    return {name for name in ours if not torch.equal(ours[name], theirs[name])}


def in_parts(*parts: str) -> Any:
    return lambda names: all(name.startswith(parts) for name in names)


# What transformers saves


def test_a_model_for_pretraining(pair: Twins, tmp_path) -> None:
    pair.published.save_pretrained(tmp_path)
    model = loaded(tmp_path)
    assert model.config == pair.ours.config
    assert model.missing_parts == {"codebook.decoder"}
    assert in_parts("codebook.decoder.")(differing(model, pair.ours))
    assert not model.training


def test_a_base_model_knows_what_it_lacks(pair: Twins, tmp_path) -> None:
    pair.published.flava.save_pretrained(tmp_path)
    assert not any(name.startswith("flava.") for name in load_file(tmp_path / "model.safetensors"))
    model = loaded(tmp_path)
    assert model.missing_parts == NOT_IN_A_BASE_MODEL
    assert in_parts(*NOT_IN_A_BASE_MODEL)(differing(model, pair.ours))
    with pytest.raises(ValueError, match="no weights for itm_head"):
        model.require("itm_head")


def test_what_is_absent_has_the_values_of_a_new_model(pair: Twins, tmp_path) -> None:
    """The same spread of every weight, and the same norms and biases; nothing is left unset."""
    pair.published.flava.save_pretrained(tmp_path)
    model = loaded(tmp_path)
    fresh = Flava(model.config).state_dict()
    for name, tensor in model.state_dict().items():
        if not name.startswith(tuple(NOT_IN_A_BASE_MODEL)):
            continue
        spread = fresh[name].std() if tensor.numel() > 1 else torch.tensor(0.0)
        if spread == 0:
            assert torch.equal(tensor, fresh[name]), name
        else:
            # Twice five standard errors of a normal sample's spread, 1 / sqrt(2 n) of it.
            relative = 10 * (2 * tensor.numel()) ** -0.5
            torch.testing.assert_close(tensor.std(), spread, rtol=relative, atol=0)
    assert not any(parameter.requires_grad for parameter in model.codebook.parameters())
    assert model.codebook.encoder.input.weight.is_contiguous(memory_format=torch.channels_last)


def test_shards_of_transformers_own_making(folder, tmp_path) -> None:
    pair = twins("odd-everything")
    pair.published.save_pretrained(tmp_path, max_shard_size="150KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert not differing(loaded(tmp_path), loaded(folder)) - decoder(pair.ours)


def decoder(model: Flava) -> set[str]:
    return {name for name in model.state_dict() if name.startswith("codebook.decoder.")}


def test_a_pickle_under_every_name_of_the_state_dict(tmp_path) -> None:
    """As older versions of transformers saved it, buffers among it and biases named twice."""
    pair = twins("odd-everything")
    state = dict(pair.published.state_dict())
    state["flava.text_model.embeddings.position_ids"] = torch.arange(11)[None]
    state["flava.text_model.embeddings.token_type_ids"] = torch.zeros(1, 11, dtype=torch.long)
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(pair.published.config.to_json_string())
    assert differing(loaded(tmp_path), pair.ours) <= decoder(pair.ours)


@pytest.mark.parametrize("kept", ["bias", "decoder.bias"])
def test_either_name_of_a_heads_bias(folder, tmp_path, kept) -> None:
    pair = twins("odd-everything")
    state = {n: t.clone() for n, t in pair.published.state_dict().items()}
    for head in ("mim", "mlm", "mmm_image", "mmm_text"):
        for name in {"bias", "decoder.bias"} - {kept}:
            del state[f"{head}_head.{name}"]
    assert differing(loaded(copy(folder, tmp_path / "x", state)), pair.ours) <= decoder(pair.ours)


def test_two_biases_that_should_be_one(folder, tmp_path) -> None:
    state = {n: t.clone() for n, t in twins("odd-everything").published.state_dict().items()}
    state["mlm_head.bias"] += 1
    state["mim_head.bias"] += 1
    with pytest.raises(ValueError, match="do not fit") as error:
        loaded(copy(folder, tmp_path / "x", state))
    assert str(error.value).splitlines()[1:] == [
        "  mim_head.bias differs from mim_head.decoder.bias, which is the same tensor",
        "  mlm_head.bias differs from mlm_head.decoder.bias, which is the same tensor",
    ]


def test_a_base_model_with_its_prefix(folder, tmp_path) -> None:
    tensors = load_file(folder / "model.safetensors")
    base = {name: tensor for name, tensor in tensors.items() if name.startswith("flava.")}
    model = loaded(copy(folder, tmp_path / "x", base))
    assert model.missing_parts == NOT_IN_A_BASE_MODEL


def test_a_model_made_without_a_codebook(folder, tmp_path) -> None:
    tensors = load_file(folder / "model.safetensors")
    lean = {name: t for name, t in tensors.items() if not name.startswith("image_codebook.")}
    model = loaded(copy(folder, tmp_path / "lean", lean, init_codebook=False))
    assert model.missing_parts == {"codebook.encoder", "codebook.decoder"}
    with pytest.raises(ValueError, match=r"missing: image_codebook\.blocks\.input\.bias"):
        loaded(copy(folder, tmp_path / "torn", lean))


# Strictness


def test_all_that_does_not_fit_stands_in_one_error(folder, tmp_path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["flava.image_model.encoder.layer.0.attention.attention.key.weight"]
    del tensors["itm_head.pooler.dense.bias"]
    tensors["flava.image_model.encoder.layer.9.output.dense.bias"] = torch.zeros(1)
    tensors["mystery"] = torch.zeros(1)
    tensors["flava.text_projection.weight"] = torch.zeros(3, 45)
    tensors["flava.text_model.encoder.layer.1.attention.attention.value.bias"] = torch.zeros(44)
    with pytest.raises(ValueError, match="do not fit") as error:
        loaded(copy(folder, tmp_path / "x", tensors))
    lines = str(error.value).splitlines()[1:]
    assert lines[:4] == [
        "  missing: flava.image_model.encoder.layer.0.attention.attention.key.weight",
        "  missing: itm_head.pooler.dense.bias",
        "  unexpected: flava.image_model.encoder.layer.9.output.dense.bias",
        "  unexpected: mystery",
    ]
    assert set(lines[4:]) == {
        "  flava.text_projection.weight is [3, 45] in the file, [61, 45] in the model",
        "  flava.text_model.encoder.layer.1.attention.attention.value.bias is [44] in the file, "
        "[45] in the model",
    }


def test_a_config_that_disagrees_with_its_tensors(folder, tmp_path) -> None:
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"] | {"vocab_size": 58, "num_hidden_layers": 4}
    with pytest.raises(ValueError, match="do not fit") as error:
        loaded(copy(folder, tmp_path / "x", tensors, text_config=text, projection_dim=60))
    lines = str(error.value).splitlines()[1:]
    assert sum("missing: flava.text_model.encoder.layer.3." in line for line in lines) == 16
    misshapen = [line.split()[0] for line in lines if " in the file, " in line]
    assert set(misshapen) == {
        "flava.text_model.embeddings.word_embeddings.weight",
        *(f"flava.{kind}_projection.{p}" for kind in ("image", "text") for p in ("weight", "bias")),
        *(f"{head}_head.decoder.{p}" for head in ("mlm", "mmm_text") for p in ("weight", "bias")),
    }


# The config


def test_defaults_are_transformers_own() -> None:
    assert _read_config({}, "x") == BASE
    assert _read_config(PublishedConfig().to_dict(), "x") == BASE
    assert _read_config(PublishedConfig().to_diff_dict(), "x") == BASE


def test_only_what_differs_may_be_present() -> None:
    config = GEOMETRIES["odd-everything"]
    small = published_config(config).to_diff_dict()
    found = _read_config(
        {**small, "text_config": {"hidden_size": 45, "num_attention_heads": 5}}, "x"
    )
    assert found.text.vocabulary_size == 30_522
    assert (found.text.width, found.text.heads, found.text.depth) == (45, 5, 12)
    assert _read_config(small, "x") == config


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_config_there_and_back(name) -> None:
    config = GEOMETRIES[name]
    written = _write_config(config)
    assert _read_config(written, "x") == config
    theirs = PublishedConfig(**{k: v for k, v in written.items() if k != "model_type"}).to_dict()
    expected = published_config(config).to_dict()
    assert without_dtype(theirs) == without_dtype(expected)


def without_dtype(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: without_dtype(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name != "dtype"
    }


def test_older_nested_dictionaries_go_first() -> None:
    config = {"text_config": {"vocab_size": 9}, "text_config_dict": {"vocab_size": 8}}
    assert _read_config(config, "x").text.vocabulary_size == 8
    config["text_config_dict"] = None  # type: ignore[assignment]
    assert _read_config(config, "x").text.vocabulary_size == 9


def test_a_square_image_may_be_two_numbers() -> None:
    config = {"image_config": {"image_size": [112, 112], "patch_size": [8, 8]}}
    found = _read_config(config, "x")
    assert (found.image.image_size, found.image.patch_size) == (112, 8)


UNSUPPORTED = {
    "image_config": {
        "hidden_act": "relu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": False,
        "mask_token": False,
        "num_channels": 1,
        "image_size": [224, 112],
        "num_hidden_layers": "many",
    },
    "text_config": {
        "hidden_act": "gelu_new",
        "type_vocab_size": 3,
        "position_embedding_type": "relative_key",
    },
    "multimodal_config": {"use_cls_token": False, "hidden_size": 12.5},
    "image_codebook_config": {"num_groups": 3, "input_channels": 4, "vocab_size": 99},
    "projection_dim": None,
    "initializer_range": "small",
}


def test_settings_that_ours_cannot_compute_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"the config\.json of that is refused") as error:
        _read_config(UNSUPPORTED, "that")
    for name, section in UNSUPPORTED.items():
        for setting in section if isinstance(section, dict) else ():
            assert f"{name}.{setting} is " in str(error.value) or setting == "vocab_size"
    assert "image_config.vocab_size is 8192 and image_codebook_config's 99" in str(error.value)
    assert len(str(error.value).splitlines()) == 1 + 7 + 3 + 2 + 3 + 2


@pytest.mark.parametrize("setting", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_dropout_does_not_matter(setting) -> None:
    assert _read_config({"image_config": {setting: 0.1}}, "x") == BASE


def test_a_section_that_is_no_object() -> None:
    with pytest.raises(ValueError, match="text_config is no object"):
        _read_config({"text_config": "base"}, "x")


def test_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"text\.heads is 7, which does not divide"):
        _read_config({"text_config": {"num_attention_heads": 7}}, "x")


# No config: the geometry is in the tensors


def test_geometry_from_the_tensors_alone(tmp_path) -> None:
    """Width 64 has one head of the published width, where this twin has 8, 16 and 1."""
    pair = twins("two-pixel-patches")
    torch.save(pair.published.state_dict(), tmp_path / "weights.pt")
    model = loaded(tmp_path)
    expected = _write_config(pair.ours.config)
    for name in ("image_config", "text_config", "multimodal_config"):
        expected[name]["num_attention_heads"] = 1
    assert _write_config(model.config) == expected
    assert in_parts("codebook.decoder.")(differing(model, pair.ours))


def test_heads_that_the_tensors_do_not_tell(tmp_path) -> None:
    torch.save(twins("odd-everything").published.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"width 45 is no multiple of 64.*put the config\.json"):
        loaded(tmp_path)


def test_tensors_that_do_not_tell_the_geometry(tmp_path) -> None:
    state = dict(twins("two-pixel-patches").published.state_dict())
    del state["flava.image_projection.weight"]
    state["flava.image_model.embeddings.position_embeddings"] = torch.zeros(1, 12, 64)
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="do not fit") as error:
        loaded(tmp_path)
    assert str(error.value).splitlines()[1:] == [
        "  the 11 image positions are no square",
        "  flava.image_projection.weight is missing, which should tell the geometry",
    ]


# There and back


def test_ours_there_and_back_is_the_same_bits(pair: Twins, tmp_path) -> None:
    flava_huggingface.write(pair.ours, tmp_path)
    model = loaded(tmp_path)
    assert model.config == pair.ours.config
    assert not model.missing_parts
    assert not differing(model, pair.ours)


def test_theirs_there_and_back_is_the_same_file(pair: Twins, tmp_path) -> None:
    pair.published.save_pretrained(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    flava_huggingface.write(loaded(tmp_path / "theirs"), tmp_path / "ours")
    before, after = (load_file(tmp_path / n / "model.safetensors") for n in ("theirs", "ours"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not (tmp_path / "ours" / "codebook_decoder.safetensors").exists()
    # `initializer_range` and all: the files describe equal models.
    configs = [PublishedConfig.from_pretrained(tmp_path / n).to_dict() for n in ("theirs", "ours")]
    assert configs[0] | {"_name_or_path": ""} == configs[1] | {"_name_or_path": ""}


def test_a_base_model_there_and_back(pair: Twins, tmp_path) -> None:
    pair.published.flava.save_pretrained(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    flava_huggingface.write(loaded(tmp_path / "theirs"), tmp_path / "ours")
    before, after = (load_file(tmp_path / n / "model.safetensors") for n in ("theirs", "ours"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert loaded(tmp_path / "ours").missing_parts == NOT_IN_A_BASE_MODEL


def test_the_decoders_geometry_comes_with_it(tmp_path) -> None:
    config = GEOMETRIES["two-pixel-patches"]
    codebook = CodebookConfig(codes=129, width=12, blocks=3, decoder_input_width=7)
    model = Flava(FlavaConfig(**{**vars(config), "codebook": codebook}))
    flava_huggingface.write(model, tmp_path)
    found = loaded(tmp_path)
    assert found.config.codebook == codebook
    assert not differing(found, model)


def test_a_decoder_that_does_not_fit(tmp_path) -> None:
    flava_huggingface.write(twins("odd-everything").ours, tmp_path)
    path = tmp_path / "codebook_decoder.safetensors"
    tensors = load_file(path)
    del tensors["output.bias"]
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"missing: codebook\.decoder\.output\.bias"):
        loaded(tmp_path)


# What transformers cannot hold


def test_unequal_widths_are_refused_with_the_reason(tmp_path) -> None:
    with pytest.raises(ValueError, match="cannot be written for transformers") as error:
        flava_huggingface.write(tiny_model(), tmp_path)
    assert "multimodal.width is 20 and image.width is 32" in str(error.value)
    assert "multimodal.width is 20 and text.width is 24" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_unequal_widths_without_heads_are_a_base_model(tmp_path) -> None:
    model = tiny_model()
    model.missing_parts = frozenset(NOT_IN_A_BASE_MODEL)
    flava_huggingface.write(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["FlavaModel"]
    found = loaded(tmp_path)
    assert found.missing_parts == model.missing_parts
    assert in_parts(*model.missing_parts)(differing(found, model))


def test_some_heads_of_five_are_refused(tmp_path) -> None:
    model = twins("odd-everything").ours
    try:
        model.missing_parts = frozenset({"mim_head", "itm_head"})
        with pytest.raises(ValueError, match="lacks itm_head, mim_head"):
            flava_huggingface.write(model, tmp_path)
    finally:
        model.missing_parts = frozenset()


def test_the_base_model_has_the_published_config() -> None:
    with torch.device("meta"):
        published = FlavaForPreTraining(PublishedConfig())
    assert without_dtype(_write_config(BASE)["image_config"]).items() <= (
        published.config.to_dict()["image_config"].items()
    )
