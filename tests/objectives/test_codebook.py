"""The dVAE's objective beside torch's own distributions."""

import math

import pytest
import torch
from torch import distributions

from flava.core.batch import ImageBatch, map_pixels
from flava.models import Codebook, CodebookConfig
from flava.objectives import CodebookObjective, CodebookObjectiveConfig
from flava.objectives.codebook import _anneal, _divergence_from_uniform, _logit_laplace
from tests.support import random_images, random_texts, tiny_config


def test_logit_laplace_is_a_laplace_through_a_sigmoid() -> None:
    statistics = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    pixels = map_pixels(torch.rand(2, 3, 4, 5, dtype=torch.float64))
    expected = distributions.TransformedDistribution(
        distributions.Laplace(statistics[:, :3], statistics[:, 3:].exp()),
        [distributions.SigmoidTransform()],
    )
    torch.testing.assert_close(_logit_laplace(statistics, pixels), -expected.log_prob(pixels))


def test_logit_laplace_is_a_density() -> None:
    """Its exponential integrates to 1 over the pixels, by the trapezoid rule."""
    pixels = torch.linspace(1e-6, 1 - 1e-6, 200_001, dtype=torch.float64)
    grid = pixels.expand(1, 3, 1, -1)
    statistics = torch.tensor([0.3, -1.0, 0.0, -0.5, 0.2, -1.0], dtype=torch.float64)
    density = (
        -_logit_laplace(statistics.view(1, 6, 1, 1).expand(1, 6, 1, grid.shape[-1]), grid)
    ).exp()
    area = torch.trapezoid(density[0, :, 0], pixels)
    torch.testing.assert_close(area, torch.ones_like(area), rtol=0, atol=1e-4)


def test_divergence_is_torchs() -> None:
    logits = 2 * torch.randn(2, 11, 3, 4, dtype=torch.float64)
    expected = distributions.kl_divergence(
        distributions.Categorical(logits=logits.movedim(1, -1)),
        distributions.Categorical(logits=torch.zeros(11, dtype=torch.float64)),
    )
    torch.testing.assert_close(_divergence_from_uniform(logits), expected)


def test_divergence_at_its_ends() -> None:
    assert _divergence_from_uniform(torch.zeros(1, 8, 1, 1)).item() == pytest.approx(0, abs=1e-6)
    certain = torch.zeros(1, 8, 1, 1)
    certain[0, 3] = 100
    assert _divergence_from_uniform(certain).item() == pytest.approx(math.log(8))


def test_annealing() -> None:
    """Half a cosine: the ends, the middle, the slope at the ends, and what lies behind."""
    assert _anneal(1.0, 0.2, 0, 100) == 1.0
    assert _anneal(1.0, 0.2, 50, 100) == pytest.approx(0.6)
    assert _anneal(1.0, 0.2, 100, 100) == pytest.approx(0.2)
    assert _anneal(1.0, 0.2, 1000, 100) == pytest.approx(0.2)
    assert _anneal(1.0, 0.2, 0, 0) == pytest.approx(0.2)
    values = [_anneal(0.0, 6.6, step, 50) for step in range(51)]
    assert values == sorted(values)
    assert values[1] < 0.1 < 6.6 / 50


def test_the_objective_follows_its_two_annealings() -> None:
    config = CodebookObjectiveConfig(
        final_temperature=0.25, temperature_steps=10, kl_weight=2.0, kl_steps=4
    )
    objective = CodebookObjective(config, Codebook(CodebookConfig(codes=4, width=4, blocks=1)))
    assert (objective.temperature, objective.kl_weight) == (1, 0)
    objective.after_step(5)
    assert (objective.temperature, objective.kl_weight) == (pytest.approx(0.625), 2)
    objective.after_step(10)
    assert (objective.temperature, objective.kl_weight) == (0.25, 2)


def test_the_sum_is_the_evidence_lower_bound_of_a_pixel() -> None:
    """Over an image, divided by its values: -log p(x|z) + weight * KL, KL summed over positions."""
    config = tiny_config()
    codebook = Codebook(config.codebook)
    objective = CodebookObjective(CodebookObjectiveConfig(kl_weight=3.0, kl_steps=0), codebook)
    batch = random_images(config, 2)
    terms = objective(batch)
    posterior = distributions.Categorical(
        logits=codebook.encoder(batch.codebook_pixels).movedim(1, -1)
    )
    prior = distributions.Categorical(logits=torch.zeros(config.codebook.codes))
    divergence = distributions.kl_divergence(posterior, prior).sum(dim=(1, 2))
    expected = 3.0 * (divergence / batch.codebook_pixels[0].numel()).mean()
    assert terms.keys() == {"reconstruction", "divergence"}
    torch.testing.assert_close(terms["divergence"].loss, expected)


def test_only_images_train_a_codebook() -> None:
    config = tiny_config()
    objective = CodebookObjective(CodebookObjectiveConfig(), Codebook(config.codebook))
    with pytest.raises(ValueError, match="images alone, but the data yields a TextBatch"):
        objective(random_texts(config, [4, 2]))


def four_colours() -> ImageBatch:
    """Two images whose patches are black, red, green or white."""
    colours = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 1]])
    patches = map_pixels(colours[torch.randint(4, (2, 4, 4))]).permute(0, 3, 1, 2)
    pixels = patches.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    nothing = torch.zeros(2, 4, 4, dtype=torch.bool)
    return ImageBatch(keys=("a", "b"), pixels=pixels, codebook_pixels=pixels, patch_mask=nothing)


def test_one_small_batch_can_be_learnt() -> None:
    """And the pictures that are then shown resemble those that were put in."""
    codebook = Codebook(CodebookConfig(codes=4, width=8, blocks=1, decoder_input_width=16))
    batch = four_colours()
    schedule = CodebookObjectiveConfig(
        final_temperature=0.5, temperature_steps=100, kl_weight=0.0, kl_steps=1
    )
    objective = CodebookObjective(schedule, codebook)
    optimizer = torch.optim.Adam(codebook.parameters(), lr=3e-3)

    def error() -> float:
        shown = map_pixels(codebook.decode(codebook.codes(batch.codebook_pixels)))
        return (shown - batch.codebook_pixels).abs().mean().item()

    untrained = error()
    losses = []
    for step in range(100):
        loss = torch.stack([term.loss for term in objective(batch).values()]).sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(step + 1)
    # The best prediction that does not look at the image: Laplace about each channel's median.
    logits = batch.codebook_pixels.logit().movedim(1, 0).flatten(1)
    spread = (logits - logits.median(dim=1, keepdim=True).values).abs().mean(dim=1, keepdim=True)
    jacobian = (batch.codebook_pixels * (1 - batch.codebook_pixels)).log().mean()
    blind = ((2 * spread).log() + 1).mean() + jacobian
    assert sum(losses[-10:]) / 10 < blind.item() - 0.5
    assert error() < 0.7 * untrained
