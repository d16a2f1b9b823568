"""The models of one modality are parts of FLAVA: by name, at the start, and in a file."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from flava.checkpoints.recognise import load_pretrained
from flava.core.batch import ImageInputs, Inputs, Kind, TextInputs
from flava.models import (
    Flava,
    MaskedImageConfig,
    MaskedImageModel,
    MaskedTextConfig,
    MaskedTextModel,
    features_of,
)
from flava.training.checkpoint import save_checkpoint
from tests.support import randomise, tiny_config, tiny_model


def models() -> list[MaskedImageModel | MaskedTextModel]:
    whole = tiny_config()
    return [
        MaskedImageModel(MaskedImageConfig(image=whole.image, codebook=whole.codebook)),
        MaskedTextModel(MaskedTextConfig(text=whole.text)),
    ]


@pytest.mark.parametrize("model", models())
def test_its_parameters_are_named_and_shaped_as_flavas(model):
    whole = tiny_model().state_dict()
    own = model.state_dict()
    assert own
    assert all(value.shape == whole[name].shape for name, value in own.items())


def test_together_they_hold_every_part_of_one_modality():
    names = {name.split(".")[0] for model in models() for name in model.state_dict()}
    assert names == {"image_encoder", "mim_head", "codebook", "text_encoder", "mlm_head"}


@pytest.mark.parametrize(("init_std", "token_init_std"), [(0.02, 0.0), (0.08, 0.5)])
def test_initial_weights_are_flavas(init_std, token_init_std):
    """The same spread, parameter by parameter; the codebook has its own."""
    whole = tiny_config()
    spread = {"init_std": init_std, "token_init_std": token_init_std}
    ours = [
        MaskedImageModel(MaskedImageConfig(image=whole.image, codebook=whole.codebook, **spread)),
        MaskedTextModel(MaskedTextConfig(text=whole.text, init_std=init_std)),
    ]
    expected = dict(Flava(replace(whole, **spread)).named_parameters())
    for model in ours:
        for name, parameter in model.named_parameters():
            theirs = expected[name]
            assert parameter.requires_grad == theirs.requires_grad, name
            if theirs.numel() < 200 or not theirs.std() > 0:
                # Too few to compare their spread, or all alike: norms, biases, tokens at zero.
                assert (parameter.std() > 0) == (theirs.std() > 0), name
            else:
                assert parameter.std().item() == pytest.approx(theirs.std().item(), rel=0.2), name


@pytest.mark.parametrize("model", models())
def test_a_checkpoint_is_read_back_as_what_it_was(tmp_path, model):
    randomise(model)
    found = load_pretrained(save_checkpoint(tmp_path, "it", model))
    assert type(found) is type(model)
    assert found.config == model.config  # pyright: ignore[reportAttributeAccessIssue]
    for name, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)


def test_features_are_those_of_the_whole_model():
    whole = tiny_model().eval()
    image, text = models()
    for model in (image, text):
        model.load_state_dict({n: whole.state_dict()[n] for n in model.state_dict()})
    pixels = ImageInputs(pixels=torch.randn(2, 3, 24, 24))
    words = TextInputs(
        input_ids=torch.randint(5, 50, (2, 7)), attention_mask=torch.ones(2, 7, dtype=torch.bool)
    )
    readings: list[tuple[nn.Module, Kind, Inputs]] = [
        (image, "images", pixels),
        (text, "text", words),
    ]
    for model, kind, inputs in readings:
        assert torch.equal(features_of(model, kind)(inputs), features_of(whole, kind)(inputs))
    unread: list[tuple[nn.Module, Kind]] = [(image, "text"), (text, "images"), (image, "pairs")]
    for model, kind in unread:
        with pytest.raises(ValueError, match=f"does not read {kind}"):
            features_of(model, kind)


def test_every_mistake_of_a_geometry_is_listed():
    whole = tiny_config()
    with pytest.raises(ValueError, match="geometry does not hold") as error:
        MaskedImageConfig(
            image=replace(whole.image, patch_size=7),
            codebook=replace(whole.codebook, codes=0),
            token_init_std=-1.0,
        )
    for line in ("image.image_size is 24", "codebook.codes is 0", "token_init_std is -1"):
        assert line in str(error.value)
    with pytest.raises(ValueError, match=r"(?s)text\.max_length is 1.*init_std is -0.5"):
        MaskedTextConfig(text=replace(whole.text, max_length=1), init_std=-0.5)
