"""MIM and MLM alone: FLAVA's losses bit for bit, defined at their edges, and learnable."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from flava.core.batch import ImageBatch, TextBatch
from flava.models import (
    Flava,
    MaskedImageConfig,
    MaskedImageModel,
    MaskedTextConfig,
    MaskedTextModel,
)
from flava.objectives import FlavaObjective, FlavaObjectiveConfig, MaskedObjective
from tests.golden.twins import GEOMETRIES, run_published, twins
from tests.support import random_images, random_pairs, random_texts, tiny_config, tiny_model


def parts(whole: Flava) -> tuple[MaskedImageModel, MaskedTextModel]:
    """The same weights in the models of one modality."""
    config = whole.config
    image = MaskedImageModel(MaskedImageConfig(image=config.image, codebook=config.codebook))
    text = MaskedTextModel(MaskedTextConfig(text=config.text))
    for part in (image, text):
        part.load_state_dict({name: whole.state_dict()[name] for name in part.state_dict()})
    return image, text


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_losses_and_gradients_are_flavas_bit_for_bit():
    whole = tiny_model()
    batches = {"mim": random_images(tiny_config(), 3), "mlm": random_texts(tiny_config(), [9, 4])}
    for part, (name, batch) in zip(parts(whole), batches.items(), strict=True):
        whole.zero_grad()
        ours = MaskedObjective(part)(batch)
        theirs = FlavaObjective(FlavaObjectiveConfig(), whole)(batch)
        assert ours.keys() == theirs.keys() == {name}
        assert torch.equal(ours[name].loss, theirs[name].loss)
        assert ours[name].accuracy == theirs[name].accuracy
        ours[name].loss.backward()
        theirs[name].loss.backward()
        expected = gradients(whole)
        found = gradients(part)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[n], expected[n]) for n in found)


def test_losses_are_those_of_transformers():
    pair = twins(next(iter(GEOMETRIES)))
    for part, name, batch in zip(
        parts(pair.ours), ("mim", "mlm"), (pair.images(), pair.texts()), strict=True
    ):
        loss = MaskedObjective(part)(batch)[name].loss
        published = run_published(pair.published, batch).loss_info[name]
        torch.testing.assert_close(loss, published, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_another_kind_of_batch_is_an_error_that_says_what_to_set(kind):
    image, text = parts(tiny_model())
    model, wrong, field = (
        (image, random_texts(tiny_config(), [4]), "data.images")
        if kind == "image"
        else (text, random_images(tiny_config(), 1), "data.text")
    )
    pairs = random_pairs(tiny_config(), [4], torch.tensor([True]))
    for batch in (wrong, pairs):
        with pytest.raises(ValueError, match=f"yields a {type(batch).__name__}: set {field}"):
            MaskedObjective(model)(batch)


def test_with_nothing_hidden_the_loss_is_zero_and_its_gradients_too():
    image, text = parts(tiny_model())
    images, texts = random_images(tiny_config(), 2), random_texts(tiny_config(), [5, 3])
    batches = (
        replace(images, patch_mask=torch.zeros_like(images.patch_mask)),
        replace(texts, token_mask=torch.zeros_like(texts.token_mask)),
    )
    for part, nothing in zip((image, text), batches, strict=True):
        (term,) = MaskedObjective(part)(nothing).values()
        term.loss.backward()
        assert (term.loss.item(), term.accuracy) == (0, None)
        assert gradients(part)
        assert not any(gradient.any() for gradient in gradients(part).values())


def test_the_codebook_is_not_trained():
    image, _ = parts(tiny_model())
    MaskedObjective(image)(random_images(tiny_config(), 2))["mim"].loss.backward()
    assert all(p.grad is None for p in image.codebook.parameters())
    assert gradients(image)


@pytest.mark.parametrize("kind", ["mim", "mlm"])
def test_one_small_batch_can_be_learnt(kind):
    """To a tenth of the loss and every prediction right."""
    torch.manual_seed(1)
    image, text = parts(tiny_model())
    model = image if kind == "mim" else text
    batch: ImageBatch | TextBatch = (
        random_images(tiny_config(), 4)
        if kind == "mim"
        else random_texts(tiny_config(), [9, 7, 5, 9])
    )
    objective = MaskedObjective(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(120):
        loss = objective(batch)[kind].loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]
    assert objective(batch)[kind].accuracy == 1
