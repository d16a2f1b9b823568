"""The five objectives on a tiny model: what they read, their edges, and that they can be learnt."""

from dataclasses import fields, replace
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from flava.core.batch import (
    Batch,
    CropBatch,
    ImageBatch,
    ImageInputs,
    PairBatch,
    PairInputs,
    TargetBatch,
    TextBatch,
    TextInputs,
    WholePairBatch,
)
from flava.models import MAX_LOGIT_SCALE, Flava
from flava.objectives import FlavaObjective, FlavaObjectiveConfig, LossOutput
from tests.support import random_images, random_pairs, random_texts, tiny_config, tiny_model

PAIR_LOSSES = {"gc", "mmm_image", "mmm_text", "itm"}


@pytest.fixture
def model() -> Flava:
    return tiny_model()


@pytest.fixture
def objective(model: Flava) -> FlavaObjective:
    return FlavaObjective(FlavaObjectiveConfig(), model)


def four_pairs(matched: list[bool]) -> PairBatch:
    return random_pairs(tiny_config(), [5, 9, 3, 7], torch.tensor(matched))


def whole(batch: PairBatch) -> WholePairBatch:
    """The same images and texts, with nothing hidden."""
    image = ImageInputs(pixels=batch.image.pixels)
    text = TextInputs(input_ids=batch.text.input_ids, attention_mask=batch.text.attention_mask)
    return WholePairBatch(keys=batch.keys, inputs=PairInputs(image=image, text=text))


def total(terms: dict[str, LossOutput]) -> Tensor:
    return torch.stack([term.loss for term in terms.values()]).sum()


def unmasked(batch: Batch) -> Batch:
    if isinstance(batch, PairBatch):
        return replace(
            batch,
            image=replace(batch.image, patch_mask=torch.zeros_like(batch.image.patch_mask)),
            text=replace(batch.text, token_mask=torch.zeros_like(batch.text.token_mask)),
        )
    if isinstance(batch, TextBatch):
        return replace(batch, token_mask=torch.zeros_like(batch.token_mask))
    assert not isinstance(batch, TargetBatch | WholePairBatch | CropBatch)
    return replace(batch, patch_mask=torch.zeros_like(batch.patch_mask))


def trained(model: Flava) -> set[str]:
    """Names of the parameters that have a gradient, be it zero."""
    return {name for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("batch", "names"),
    [
        (random_images(tiny_config(), 3), {"mim"}),
        (random_texts(tiny_config(), [5, 3]), {"mlm"}),
        (four_pairs([True, False, True, True]), PAIR_LOSSES),
    ],
    ids=["images", "texts", "pairs"],
)
def test_nothing_masked(
    objective: FlavaObjective, model: Flava, batch: Batch, names: set[str]
) -> None:
    """Zero, without an accuracy, with gradients for the same parameters, all of them zero."""
    total(objective(batch)).backward()
    usual = trained(model)
    model.zero_grad()
    terms = objective(unmasked(batch))
    assert terms.keys() == names
    total(terms).backward()
    assert trained(model) == usual
    for name in names - {"gc", "itm"}:
        assert (terms[name].loss.item(), terms[name].accuracy) == (0, None)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name
            if names != PAIR_LOSSES or name.startswith("mmm_"):
                assert not parameter.grad.any(), name


@pytest.mark.parametrize("matched", [True, False])
def test_a_batch_of_one_pair(objective: FlavaObjective, model: Flava, matched: bool) -> None:
    pairs = random_pairs(tiny_config(), [6], torch.tensor([matched]))
    terms = objective(pairs)
    assert terms.keys() == PAIR_LOSSES
    assert terms["gc"].loss.item() == 0
    total(terms).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_a_batch_of_one_image_and_of_one_text(objective: FlavaObjective) -> None:
    image, text = random_images(tiny_config(), 1), random_texts(tiny_config(), [6], share=0.9)
    assert objective(image)["mim"].loss.isfinite()
    assert objective(text)["mlm"].loss.isfinite()


def test_with_no_matched_pair_all_count_as_matched(objective: FlavaObjective) -> None:
    nobody = four_pairs([False] * 4)
    everybody = replace(nobody, matched=torch.ones(4, dtype=torch.bool))
    ours, theirs = objective(nobody), objective(everybody)
    for name in PAIR_LOSSES - {"itm"}:
        torch.testing.assert_close(ours[name].loss, theirs[name].loss, rtol=0, atol=0)
    assert ours["itm"].loss != theirs["itm"].loss


def test_mismatched_pairs_are_left_out_of_masked_modelling(objective: FlavaObjective) -> None:
    """Losses of pairs 0 and 2 alone equal those of a batch in which 1 and 3 are mismatched."""
    batch = four_pairs([True, False, True, False])
    assert isinstance(batch.image, ImageBatch)
    kept = [0, 2]
    alone = PairBatch(
        image=rows(batch.image, kept), text=rows(batch.text, kept), matched=batch.matched[kept]
    )
    terms, expected = objective(batch), objective(alone)
    for name in ("mmm_image", "mmm_text"):
        torch.testing.assert_close(terms[name].loss, expected[name].loss)
        assert terms[name].accuracy == pytest.approx(expected[name].accuracy)
    # As columns they make the contrast harder.
    assert terms["gc"].loss > expected["gc"].loss


OneSide = TypeVar("OneSide", ImageBatch, TextBatch)


def rows(batch: OneSide, kept: list[int]) -> OneSide:
    """The batch of these samples alone."""
    tensors = {
        field.name: getattr(batch, field.name)[kept]
        for field in fields(batch)
        if field.name != "keys"
    }
    return replace(batch, keys=tuple(batch.keys[i] for i in kept), **tensors)


def test_whole_pairs_have_the_contrastive_loss_alone(
    objective: FlavaObjective, model: Flava
) -> None:
    """The same one as beside the masked losses; no other part of the model is run."""
    batch, run = four_pairs([True] * 4), set()
    for name, module in model.named_children():
        module.register_forward_hook(lambda *_, name=name: run.add(name))
    expected = objective(batch)["gc"]
    assert "multimodal_encoder" in run
    run.clear()
    terms = objective(whole(batch))
    assert list(terms) == ["gc"]
    torch.testing.assert_close(terms["gc"].loss, expected.loss)
    assert terms["gc"].accuracy == expected.accuracy
    used = {"image_encoder", "text_encoder", "image_projection", "text_projection"}
    assert run == used
    terms["gc"].loss.backward()
    assert {name.split(".")[0] for name in trained(model)} == {*used, "logit_scale"}


@torch.no_grad()
def test_each_accuracy_is_that_of_the_predictions(objective: FlavaObjective, model: Flava) -> None:
    batch = random_images(tiny_config(), 6, share=0.9)
    predictions = model.mim_head(
        model.image_encoder.norm(
            model.image_encoder(batch.pixels, batch.patch_mask)[:, 1:]
        ).flatten(0, 1)
    ).argmax(dim=1)
    right = predictions.view(6, 4, 4) == model.codebook.codes(batch.codebook_pixels)
    assert objective(batch)["mim"].accuracy == pytest.approx(
        right[batch.patch_mask].float().mean().item()
    )


def test_only_what_a_loss_reads_has_a_gradient(objective: FlavaObjective, model: Flava) -> None:
    total(objective(random_texts(tiny_config(), [5, 3]))).backward()
    modules = {name.split(".")[0] for name in trained(model)}
    assert modules == {"text_encoder", "mlm_head"}
    model.zero_grad()
    total(objective(random_images(tiny_config(), 2))).backward()
    modules = {name.split(".")[0] for name in trained(model)}
    assert modules == {"image_encoder", "mim_head"}


def test_the_scale_stays_within_the_published_bounds(
    objective: FlavaObjective, model: Flava
) -> None:
    for value, kept in ((-1.0, 0.0), (2.0, 2.0), (9.0, MAX_LOGIT_SCALE)):
        torch.nn.init.constant_(model.logit_scale, value)
        objective.after_step(1)
        assert model.logit_scale.item() == pytest.approx(kept)
    assert model.logit_scale.requires_grad


@pytest.mark.parametrize("kind", ["images", "texts", "pairs", "whole pairs"])
def test_one_small_batch_can_be_learnt(kind: str) -> None:
    """Each loss falls below a fifth of where it started."""
    config = tiny_config()
    model = Flava(config)
    batches: dict[str, Batch] = {
        "images": random_images(config, 4),
        "texts": random_texts(config, [5, 9, 3, 7]),
        "pairs": random_pairs(config, [5, 9, 3, 7], torch.tensor([True, False, True, True])),
        "whole pairs": whole(four_pairs([True] * 4)),
    }
    objective = FlavaObjective(FlavaObjectiveConfig(), model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    first = {name: term.loss.item() for name, term in objective(batches[kind]).items()}
    for step in range(100):
        optimizer.zero_grad()
        total(objective(batches[kind])).backward()
        optimizer.step()
        objective.after_step(step + 1)
    last = objective(batches[kind])
    for name, loss in first.items():
        assert last[name].loss.item() < loss / 5, name
        assert last[name].accuracy == 1, name
