"""Parts of a model from other runs and from what others published."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from flava.checkpoints.codebooks import HUGGING_FACE_MAPPING
from flava.checkpoints.layout import rename
from flava.checkpoints.recognise import load_pretrained
from flava.models import (
    Clip,
    ClipConfig,
    ClipImageConfig,
    ClipTextConfig,
    Codebook,
    CodebookConfig,
    Flava,
    FlavaConfig,
    ImageConfig,
    ImageEncoder,
    classifier_of,
)
from flava.training.checkpoint import save_checkpoint, set_link
from flava.training.initialization import InitConfig, initialise, save_init_reports
from tests.support import randomise, tiny_config, tiny_model


def saved(model: nn.Module, folder: Path) -> Path:
    """As the best checkpoint of a run."""
    save_checkpoint(folder / "checkpoints", "step-1", model)  # pyright: ignore[reportArgumentType]
    set_link(folder / "checkpoints", "best", "step-1")
    return folder


def fresh(config: FlavaConfig | None = None) -> Flava:
    return Flava(config or tiny_config())


def equal(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("part", ["image_encoder", "text_encoder", "codebook"])
def test_a_part_comes_from_another_runs_model_and_nothing_else_does(
    tmp_path: Path, part: str
) -> None:
    source, model = tiny_model(), fresh()
    before = state(model)
    init = InitConfig(**{part.removesuffix("_encoder"): str(saved(source, tmp_path / "run"))})
    (taken,) = initialise(model, init)
    assert equal(model.get_submodule(part), source.get_submodule(part))
    for name, tensor in model.state_dict().items():
        if not name.startswith(f"{part}."):
            assert torch.equal(tensor, before[name]), name
    assert taken.tensors == len(source.get_submodule(part).state_dict())
    assert taken.part == part
    assert taken.source == f"{tmp_path}/run/checkpoints/best"
    assert sum(taken.not_taken.values()) + taken.tensors == len(source.state_dict())
    assert taken.not_taken["mim_head"] == 6
    assert not taken.not_there


def test_what_was_taken_is_said_and_saved(tmp_path: Path) -> None:
    source = tiny_model()
    taken = initialise(fresh(), InitConfig(image=str(saved(source, tmp_path / "run"))))
    assert str(taken[0]).startswith(
        f"image encoder: 33 tensors from {tmp_path}/run/checkpoints/best; not taken: logit_scale "
        "(1 tensor), text_encoder ("
    )
    assert "mim_head (6 tensors)" in str(taken[0])
    save_init_reports(taken, tmp_path)
    (written,) = json.loads((tmp_path / "init.json").read_text())
    assert written["source"] == f"{tmp_path}/run/checkpoints/best"
    assert written["not_taken"]["mim_head"] == 6


def test_an_encoder_within_another_model_is_found(tmp_path: Path) -> None:
    """Here within a classifier, under another name."""
    source = tiny_model()
    tuned = classifier_of(source, "images", ("a", "b"), hidden_width=None)
    model = fresh()
    (taken,) = initialise(model, InitConfig(image=str(saved(tuned, tmp_path / "run"))))
    assert equal(model.image_encoder, source.image_encoder)
    assert taken.not_taken == {"head": 2}


VIT = ImageConfig(image_size=32, patch_size=8, width=64, depth=2, heads=1, mlp_width=256)


def timm_vit(folder: Path) -> Path:
    theirs = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        embed_dim=64,
        depth=2,
        num_heads=1,
        num_classes=0,
    )
    randomise(theirs, 0.05)
    folder.mkdir()
    save_file(theirs.state_dict(), folder / "model.safetensors")
    return folder


def test_a_published_vit_is_an_image_encoder(tmp_path: Path) -> None:
    """It has no mask token and no pooler: those stay, and it is said; so is its other epsilon."""
    source = timm_vit(tmp_path / "vit")
    model = fresh(replace(tiny_config(), image=VIT))
    randomise(model)
    before = state(model.image_encoder)
    (taken,) = initialise(model, InitConfig(image=str(source)))
    expected = load_pretrained(source).state_dict()
    for name, tensor in model.image_encoder.state_dict().items():
        kept = name == "mask_token" or name.startswith("pooler.")
        assert torch.equal(tensor, before[name] if kept else expected[name]), name
    assert taken.not_there == {"mask_token": 1, "pooler": 2}
    assert "its norm_eps is 1e-06, 1e-12 here" in str(taken)
    assert "left at initial values: mask_token (1 tensor), pooler (2 tensors)" in str(taken)


def test_clips_encoders_go_into_clip_alone(tmp_path: Path) -> None:
    image = ClipImageConfig(image_size=12, patch_size=4, width=24, depth=1, heads=3, mlp_width=20)
    text = ClipTextConfig(vocabulary_size=31, max_length=9, width=20, depth=1, heads=5, mlp_width=8)
    source, model = (Clip(ClipConfig(image=image, text=text)) for _ in range(2))
    folder = str(saved(source, tmp_path / "clip"))
    initialise(model, InitConfig(image=folder))
    assert equal(model.image_encoder, source.image_encoder)
    assert not equal(model.text_encoder, source.text_encoder)
    with pytest.raises(ValueError, match="holds a Clip, which has no image encoder of this kind"):
        initialise(fresh(), InitConfig(image=folder))


# Codebooks


def encoder_alone(folder: Path) -> tuple[Path, Codebook]:
    """As Hugging Face's FlavaImageCodebook is stored."""
    codebook = Codebook(tiny_config().codebook)
    randomise(codebook)
    table = (*HUGGING_FACE_MAPPING, (r"^encoder\.", ""))
    weights = codebook.state_dict()
    folder.mkdir()
    save_file(
        {rename(n, table): t.contiguous() for n, t in weights.items() if n.startswith("encoder.")},
        folder / "model.safetensors",
    )
    return folder, codebook


def test_a_codebook_without_its_decoder_gives_codes_and_says_so(tmp_path: Path) -> None:
    folder, codebook = encoder_alone(tmp_path / "codebook")
    model = fresh()
    (taken,) = initialise(model, InitConfig(codebook=str(folder)))
    assert equal(model.codebook.encoder, codebook.encoder)
    assert model.missing_parts == {"codebook.decoder"}
    assert list(taken.not_there) == ["decoder"]
    # And so does the run that is trained with it, and one that takes the codebook from that.
    again = fresh()
    initialise(again, InitConfig(codebook=str(saved(model, tmp_path / "run"))))
    assert equal(again.codebook.encoder, codebook.encoder)
    assert again.missing_parts == {"codebook.decoder"}
    with pytest.raises(ValueError, match=r"no weights for codebook\.decoder"):
        again.require("codebook.decoder")


def test_without_a_decoder_its_width_may_differ(tmp_path: Path) -> None:
    folder, _ = encoder_alone(tmp_path / "codebook")
    config = tiny_config()
    wider = replace(config, codebook=replace(config.codebook, decoder_input_width=10))
    initialise(fresh(wider), InitConfig(codebook=str(folder)))


def test_a_model_whose_codebook_was_never_filled_has_none_to_give(tmp_path: Path) -> None:
    source = tiny_model()
    source.missing_parts = frozenset({"codebook.encoder", "codebook.decoder"})
    with pytest.raises(ValueError, match="holds no weights of its codebook's encoder"):
        initialise(fresh(), InitConfig(codebook=str(saved(source, tmp_path / "run"))))


def test_shipped_weights_have_a_name() -> None:
    model = Codebook(CodebookConfig(codes=512, width=32, blocks=1, decoder_input_width=64))

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.codebook = model

    before = state(model)
    (taken,) = initialise(Holder(), InitConfig(codebook="shipped:codebook-tiny"))
    assert taken.source.endswith("weights/codebook-tiny")
    assert not torch.equal(before["encoder.input.weight"], model.encoder.input.weight)


# What does not fit


def test_every_mismatch_of_every_source_is_in_one_error(tmp_path: Path) -> None:
    config = tiny_config()
    source = Flava(
        replace(
            config,
            image=replace(config.image, width=48, depth=3, heads=8, patch_size=4),
            text=replace(config.text, vocabulary_size=60, max_length=20),
            codebook=replace(config.codebook, codes=24),
        )
    )
    folder = str(saved(source, tmp_path / "other"))
    model = fresh()
    before = state(model)
    with pytest.raises(ValueError, match="the model cannot be initialised") as error:
        initialise(model, InitConfig(image=folder, text=folder, codebook=folder))
    said = str(error.value)
    for expected in (
        f"init.image: {folder}/checkpoints/best: width is 48 there, 32 in model.image",
        "depth is 3 there, 2 in model.image",
        "heads is 8 there, 4 in model.image",
        "patch_size is 4 there, 6 in model.image",
        "patches.weight is [48, 3, 4, 4] there, [32, 3, 6, 6] in the model",
        "positions is [1, 37, 48] there, [1, 17, 32] in the model",
        "blocks.*.attention.qkv.weight is [144, 48] there, [96, 32] in the model (2 times)",
        "init.text: ",
        "vocabulary_size is 60 there, 53 in model.text",
        "max_length is 20 there, 12 in model.text",
        "positions.weight is [20, 24] there, [12, 24] in the model",
        "codes is 24 there, 19 in model.codebook",
    ):
        assert expected in said
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())


def test_as_wide_with_other_heads_is_another_geometry(tmp_path: Path) -> None:
    """No shape tells: the encoder would compute another function."""
    config = tiny_config()
    source = ImageEncoder(replace(config.image, heads=2))
    other = fresh(replace(config, image=replace(config.image, heads=2)))
    other.image_encoder.load_state_dict(source.state_dict())
    with pytest.raises(ValueError, match=r"heads is 2 there, 4 in model\.image"):
        initialise(fresh(), InitConfig(image=str(saved(other, tmp_path / "run"))))


def test_a_model_without_such_a_part_is_named(tmp_path: Path) -> None:
    folder = str(saved(Codebook(tiny_config().codebook), tmp_path / "codebook"))
    with pytest.raises(ValueError, match="holds a Codebook, which has no text encoder of this"):
        initialise(fresh(), InitConfig(text=folder))


def test_a_source_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint at no/such/run"):
        initialise(fresh(), InitConfig(image="no/such/run"))
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*weights/nothing"):
        initialise(fresh(), InitConfig(codebook="shipped:nothing"))
