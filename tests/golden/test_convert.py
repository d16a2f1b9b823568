"""Names and layouts to and from the published checkpoints."""

import pytest
import torch

from flava.model import Flava
from flava.model.convert import from_published, to_published
from tests.golden.twins import GEOMETRIES, Twins, twins


@pytest.fixture(params=GEOMETRIES)
def pair(request: pytest.FixtureRequest) -> Twins:
    return twins(request.param)


def test_there_and_back_is_the_same_bits(pair: Twins) -> None:
    state = pair.ours.state_dict()
    back = from_published(to_published(state), state)
    assert state.keys() - back.keys() == {n for n in state if n.startswith("codebook.decoder.")}
    assert all(torch.equal(back[name], state[name]) for name in back)


def test_published_models_load_ours_strictly(pair: Twins) -> None:
    before = {name: tensor.clone() for name, tensor in pair.published.state_dict().items()}
    changed = {name: tensor + 1 for name, tensor in to_published(pair.ours.state_dict()).items()}
    try:
        pair.published.load_state_dict(changed, strict=True)
        after = pair.published.state_dict()
        assert all(torch.equal(after[name], before[name] + 1) for name in before)
    finally:
        pair.published.load_state_dict(before)


def test_a_checkpoint_without_the_biases_second_names_is_taken(pair: Twins) -> None:
    """safetensors files hold a shared tensor once."""
    state = to_published(pair.ours.state_dict())
    once = {name: t for name, t in state.items() if name.count(".") > 1 or "_head.bias" not in name}
    assert len(once) == len(state) - 4
    assert from_published(once, pair.ours.state_dict()).keys()


def test_all_that_does_not_fit_stands_in_one_error(pair: Twins) -> None:
    state = to_published(pair.ours.state_dict())
    del state["flava.image_model.encoder.layer.0.attention.attention.key.weight"]
    del state["itm_head.pooler.dense.bias"]
    state["flava.image_model.encoder.layer.9.output.dense.bias"] = torch.zeros(1)
    state["mystery"] = torch.zeros(1)
    with pytest.raises(ValueError, match="does not fit") as error:
        from_published(state, pair.ours.state_dict())
    assert str(error.value).splitlines()[1:] == [
        "  missing: flava.image_model.encoder.layer.0.attention.attention.key.weight",
        "  missing: itm_head.pooler.dense.bias",
        "  unexpected: flava.image_model.encoder.layer.9.output.dense.bias",
        "  unexpected: mystery",
    ]


def test_ours_load_the_published_state_as_it_is(pair: Twins) -> None:
    """A model built afresh and loaded has the same weights as the twin, by value not by name."""
    fresh = Flava(pair.ours.config)
    state = from_published(pair.published.state_dict(), fresh.state_dict())
    fresh.load_state_dict(state, strict=False)
    pixels = pair.images().pixels
    torch.testing.assert_close(
        fresh.encode_image(pixels), pair.ours.encode_image(pixels), rtol=0, atol=0
    )
