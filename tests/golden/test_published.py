"""Our model beside transformers' on the same random weights: states, codes, losses, gradients."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import FlavaConfig as PublishedConfig
from transformers import FlavaForPreTraining

from flava.core.batch import Batch, PairBatch
from flava.models import Flava, FlavaConfig
from flava.objectives import FlavaObjective, FlavaObjectiveConfig
from tests.golden.twins import (
    GEOMETRIES,
    Twins,
    published_codebook,
    run_published,
    to_published,
    twins,
)

PUBLISHED_LOSSES = {"gc": "global_contrastive"}
"""Ours by another name; the others are called the same."""

BATCHES = ("some mismatched", "none mismatched", "all mismatched", "images", "texts")


def make_batch(pair: Twins, kind: str) -> Batch:
    if kind == "images":
        return pair.images()
    if kind == "texts":
        return pair.texts()
    everyone = tuple(range(len(pair.texts().input_ids)))
    return pair.pairs({"some": (0, 3), "none": (), "all": everyone}[kind.split()[0]])


@pytest.fixture(params=GEOMETRIES)
def pair(request: pytest.FixtureRequest) -> Twins:
    return twins(request.param)


@pytest.fixture(params=GEOMETRIES)
def exact_pair(request: pytest.FixtureRequest) -> Twins:
    return twins(request.param, torch.float64)


def our_states(model: Flava, batch: PairBatch) -> Iterator[tuple[str, Tensor]]:
    """The states that the published output names, by its names."""
    image, text = batch.image, batch.text
    for infix, patch_mask, input_ids in (
        ("", None, text.input_ids),
        ("masked_", image.patch_mask, text.input_ids_masked),
    ):
        hidden = model.image_encoder(image.pixels, patch_mask)
        yield f"image_{infix}embeddings", model.image_encoder.norm(hidden)
        yield f"image_{infix}output", hidden
        words = model.text_encoder(input_ids, text.attention_mask)
        yield f"text_{infix}embeddings", model.text_encoder.norm(words)
        yield f"text_{infix}output", words
        yield f"multimodal_{infix}embeddings", model.multimodal(hidden, words, text.attention_mask)


def largest_difference(pair: Twins) -> float:
    """Over the states of everything but padding, which ours do not compute."""
    batch = pair.pairs()
    published = run_published(pair.published, batch)
    differences = []
    for name, ours in our_states(pair.ours, batch):
        theirs = published[name]
        theirs = theirs if isinstance(theirs, Tensor) else theirs.hidden_states[-1]
        assert theirs.shape == ours.shape, name
        assert theirs.std() > 0.05, f"{name} is too flat to compare"
        attention_mask = torch.ones(ours.shape[:2], dtype=torch.bool)
        if not name.startswith("image"):
            attention_mask[:, -batch.text.attention_mask.shape[1] :] = batch.text.attention_mask
        differences.append((ours - theirs)[attention_mask].abs().max().item())
    assert len(differences) == 10
    return max(differences)


@torch.no_grad()
def test_states(pair: Twins) -> None:
    assert largest_difference(pair) < 1e-5


@torch.no_grad()
def test_states_in_64_bits(exact_pair: Twins) -> None:
    """Here rounding cannot hide a difference in what is computed."""
    assert largest_difference(exact_pair) < 1e-13


@torch.no_grad()
def test_codes(pair: Twins) -> None:
    pixels = pair.images().codebook_pixels
    codes = pair.ours.codebook.codes(pixels)
    assert len(codes.unique()) > 2
    theirs = published_codebook(pair.published)
    assert torch.equal(codes, theirs.get_codebook_indices(pixels))
    logits = theirs(pixels)
    # Of the logits' spread, which is in the hundreds at these weights.
    tolerance = 1e-5 * logits.std().item()
    torch.testing.assert_close(pair.ours.codebook.encoder(pixels), logits, rtol=0, atol=tolerance)


@torch.no_grad()
def test_contrastive_features(pair: Twins) -> None:
    batch = pair.pairs()
    image = pair.ours.encode_image(batch.image.pixels)
    text = pair.ours.encode_text(batch.text.input_ids, batch.text.attention_mask)
    theirs = run_published(pair.published, batch).contrastive_logits_per_image
    torch.testing.assert_close(pair.ours.logit_scale.exp() * image @ text.T, theirs)


def losses(pair: Twins, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    terms = FlavaObjective(FlavaObjectiveConfig(), pair.ours)(batch)
    ours = {PUBLISHED_LOSSES.get(name, name): term.loss for name, term in terms.items()}
    theirs = run_published(pair.published, batch).loss_info
    return ours, {name: loss for name, loss in theirs.items() if loss is not None}


@pytest.mark.parametrize("kind", BATCHES)
@torch.no_grad()
def test_losses(pair: Twins, kind: str) -> None:
    ours, theirs = losses(pair, make_batch(pair, kind))
    assert ours.keys() == theirs.keys()
    for name, loss in theirs.items():
        torch.testing.assert_close(ours[name], loss, rtol=1e-5, atol=0, msg=lambda m, n=name: n + m)


def gradients(pair: Twins, kind: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of the sum of the losses: ours under the published names, and theirs."""
    pair.ours.zero_grad()
    pair.published.zero_grad()
    ours, theirs = losses(pair, make_batch(pair, kind))
    torch.stack(list(ours.values())).sum().backward()
    torch.stack(list(theirs.values())).sum().backward()
    named = dict(pair.published.named_parameters())  # a bias with two names stands there once
    converted = to_published(
        {name: p.grad for name, p in pair.ours.named_parameters() if p.grad is not None}
    )
    return (
        {name: gradient for name, gradient in converted.items() if name in named},
        {name: p.grad for name, p in named.items() if p.grad is not None},
    )


@pytest.mark.parametrize("kind", BATCHES)
def test_gradients(pair: Twins, kind: str) -> None:
    """Within 1e-5 of the largest entry of all gradients.

    Not of each tensor's own: a key's bias moves no softmax, so that its gradient is rounding.
    """
    compare_gradients(*gradients(pair, kind), tolerance=1e-5)


@pytest.mark.parametrize("kind", BATCHES)
def test_gradients_in_64_bits(exact_pair: Twins, kind: str) -> None:
    """Ours still takes the logits to the losses in 32 bits; the rest is exact."""
    compare_gradients(*gradients(exact_pair, kind), tolerance=3e-7)


def compare_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    scale = max(gradient.abs().max().item() for gradient in theirs.values())
    for name, gradient in theirs.items():
        error = (ours[name] - gradient).abs().max().item()
        assert error < tolerance * scale, f"{name}: {error} where the largest gradient is {scale}"


def test_the_base_model_has_the_published_layout() -> None:
    with torch.device("meta"):
        ours = Flava(FlavaConfig(projection_width=768))
        published = FlavaForPreTraining(PublishedConfig())
    mine = {name: p.shape for name, p in to_published(ours.state_dict()).items()}
    assert mine == {name: p.shape for name, p in published.state_dict().items()}
    assert len(mine) == 618
    counted = [p.numel() for n, p in ours.named_parameters() if "codebook.decoder" not in n]
    assert sum(counted) == sum(p.numel() for p in published.parameters())
    assert round(sum(counted) / 1e6, 2) == 357.65
