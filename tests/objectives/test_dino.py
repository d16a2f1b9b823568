"""DINO's loss, center, teacher and schedules, beside facebookresearch/dino's formulas.

The reference below is written from the paper's algorithm 1 and what ``main_dino.py`` computes; it
shares no code with ours.
"""

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from flava.core.batch import CropBatch
from flava.core.constraints import config_errors
from flava.models import Dino
from flava.objectives import DinoObjective, DinoObjectiveConfig, LossOutput
from flava.objectives.dino import _cross_entropy, _mean_entropy
from flava.training.optimizer import OptimizerConfig, build_optimizer
from tests.dino import OUTPUTS, dino_config, dino_model, random_crops
from tests.support import random_images, tiny_config

MAX_STEPS = 12
CONFIG = DinoObjectiveConfig(
    epoch_steps=2, temperature_epochs=3, freeze_epochs=0, teacher_momentum=0.7
)


def total(terms: dict[str, LossOutput]) -> Tensor:
    return torch.stack([term.loss for term in terms.values()]).sum()


class Reference:
    """Three of the published script's states, moved by its formulas."""

    def __init__(self, model: Dino) -> None:
        self.center = model.center.clone()
        self.teacher = {
            name: p.clone() for name, p in model.named_parameters() if not name.startswith("stud")
        }

    def loss(self, student: list[Tensor], teacher: list[Tensor], temperature: float) -> Tensor:
        """Each pair on its own; views of the same crop are left out."""
        found = []
        for i, t in enumerate(teacher):
            target = torch.exp((t - self.center) / temperature)
            target = target / target.sum(dim=1, keepdim=True)
            for j, s in enumerate(student):
                if i != j:
                    predicted = torch.exp(s / 0.1)
                    predicted = predicted / predicted.sum(dim=1, keepdim=True)
                    found.append(-(target * torch.log(predicted)).sum(dim=1).mean())
        return sum(found, torch.zeros(())) / len(found)

    def move(self, model: Dino, teacher: list[Tensor], momentum: float) -> None:
        self.center = 0.9 * self.center + 0.1 * torch.cat(teacher).mean(dim=0)
        for name, theirs in model.student.named_parameters():
            self.teacher[name] = momentum * self.teacher[name] + (1 - momentum) * theirs.detach()


def published_cosine(start: float, end: float, count: int) -> np.ndarray:
    steps = np.arange(count)
    return end + 0.5 * (start - end) * (1 + np.cos(np.pi * steps / len(steps)))


def published_temperatures(config: DinoObjectiveConfig, epochs: int) -> np.ndarray:
    warm = config.temperature_epochs
    rising = np.linspace(config.first_teacher_temperature, config.teacher_temperature, warm)
    return np.concatenate((rising, np.full(epochs - warm, config.teacher_temperature)))


# Golden


@pytest.mark.parametrize("local_crops", [3, 0])
def test_loss_center_and_teacher_are_the_published_ones_over_several_updates(
    local_crops: int,
) -> None:
    model = dino_model()
    objective, reference = DinoObjective(CONFIG, model, MAX_STEPS), Reference(model)
    momenta = published_cosine(0.7, 1, MAX_STEPS)
    temperatures = published_temperatures(CONFIG, MAX_STEPS // 2)
    for step in range(MAX_STEPS):
        batch = random_crops(local_crops=local_crops)
        model.zero_grad()
        terms = objective(batch)
        total(terms).backward()
        teacher, student = logits(model, batch)
        expected = reference.loss(student, teacher, temperatures[step // 2])
        assert total(terms).item() == pytest.approx(expected.item(), rel=1e-5)
        ours = {name: p.grad for name, p in model.student.named_parameters()}
        theirs = torch.autograd.grad(expected, list(model.student.parameters()), allow_unused=True)
        for (name, gradient), wanted in zip(ours.items(), theirs, strict=True):
            assert (gradient is None) == (wanted is None), name
            if gradient is not None:
                torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)
        with torch.no_grad():  # in place of an optimiser
            for parameter in model.student.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        reference.move(model, teacher, momenta[step])
        objective.after_step(step + 1)
        torch.testing.assert_close(model.center, reference.center, rtol=1e-5, atol=1e-6)
        for name, value in reference.teacher.items():
            torch.testing.assert_close(model.get_parameter(name).detach(), value)


def logits(model: Dino, batch: CropBatch) -> tuple[list[Tensor], list[Tensor]]:
    """Of each crop on its own: the teacher's of the global ones, the student's of all."""
    every = [*batch.global_crops, *batch.local_crops]
    with torch.no_grad():
        teacher = [model(crop[None])[0] for crop in batch.global_crops]
    return teacher, [model.student(crop[None])[0] for crop in every]


def test_the_two_terms_are_entropy_and_divergence() -> None:
    """Each by its definition, pair by pair."""
    targets = torch.randn(2, 4, OUTPUTS).softmax(-1)
    predicted = torch.randn(5, 4, OUTPUTS).softmax(-1)
    entropies, divergences = [], []
    for t in range(2):
        for p in range(5):
            if t != p:
                ratio = (targets[t] / predicted[p]).log()
                divergences.append((targets[t] * ratio).sum(-1).mean())
                entropies.append(-(targets[t] * targets[t].log()).sum(-1).mean())
    entropy = _mean_entropy(targets)
    assert entropy.item() == pytest.approx(torch.stack(entropies).mean().item(), rel=1e-5)
    divergence = _cross_entropy(targets, predicted.log()) - entropy
    assert divergence.item() == pytest.approx(torch.stack(divergences).mean().item(), rel=1e-4)


def test_what_has_no_probability_adds_nothing() -> None:
    targets = torch.zeros(2, 3, OUTPUTS)
    targets[..., 4] = 1
    assert _mean_entropy(targets).item() == 0
    assert _mean_entropy(torch.full((2, 3, OUTPUTS), 1 / OUTPUTS)).item() == pytest.approx(
        math.log(OUTPUTS)
    )


def test_the_loss_is_computed_in_32_bits_under_autocast() -> None:
    targets, predicted = (
        torch.randn(2, 64, 500).softmax(-1),
        torch.randn(5, 64, 500).log_softmax(-1),
    )
    expected = _cross_entropy(targets, predicted)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(_cross_entropy(targets, predicted), expected)


def test_no_gradient_reaches_the_teacher_or_the_center() -> None:
    model = dino_model()
    terms = DinoObjective(CONFIG, model, MAX_STEPS)(random_crops())
    assert not terms["entropy"].loss.requires_grad
    total(terms).backward()
    assert all(p.grad is None for p in (model.image_encoder.parameters()))
    assert all(p.grad is None for p in (model.head.parameters()))


# Schedules


def test_the_teachers_temperature_and_momentum_are_published_ones() -> None:
    config = DinoObjectiveConfig(epoch_steps=3)
    temperatures = published_temperatures(config, 400)
    momenta = published_cosine(0.996, 1, 1200)
    for step in range(1200):
        assert config.teacher_temperature_at(step) == pytest.approx(temperatures[step // 3])
        assert config.momentum_at(step, 1200) == pytest.approx(momenta[step], rel=1e-12)


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_warm_up_of_no_epochs_and_of_one(epochs: int) -> None:
    config = replace(CONFIG, temperature_epochs=epochs)
    expected = published_temperatures(config, 6)
    assert [config.teacher_temperature_at(2 * e) for e in range(6)] == pytest.approx(expected)


# After an update


def test_an_update_over_several_batches_moves_the_center_to_their_mean() -> None:
    model = dino_model()
    objective = DinoObjective(CONFIG, model, MAX_STEPS)
    before, batches = model.center.clone(), [random_crops(), random_crops()]
    outputs = torch.stack([model(batch.global_crops).mean((0, 1)) for batch in batches])
    for batch in batches:
        objective(batch)
    objective.after_step(1)
    torch.testing.assert_close(model.center, 0.9 * before + 0.1 * outputs.mean(0))


def test_nothing_moves_where_no_update_was_made() -> None:
    """As when a run is resumed: the checkpoint's teacher and center are after the update."""
    model = dino_model()
    before = deepcopy(model.state_dict())
    objective = DinoObjective(CONFIG, model, MAX_STEPS)
    objective.after_step(4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert objective.temperature == pytest.approx(0.07)


def test_the_last_layer_stays_in_the_first_epochs_and_moves_afterwards() -> None:
    """Not even by weight decay: published training takes its gradient away."""
    model = Dino(dino_config())
    config = replace(CONFIG, freeze_epochs=2)
    objective = DinoObjective(config, model, MAX_STEPS)
    optimizer = build_optimizer(OptimizerConfig(lr=0.01, weight_decay=0.5), model)
    last = model.student.head.last_layer.weight
    first = model.student.get_parameter("head.mlp.0.weight")
    for step in range(6):
        before = last.detach().clone(), first.detach().clone()
        total(objective(random_crops())).backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(step + 1)
        assert torch.equal(last, before[0]) == (step < 4)
        assert not torch.equal(first, before[1])


# The whole method on a few images


def coloured_crops(batch: int) -> CropBatch:
    """Each image has a colour of its own in all of its crops, beside noise."""
    noise, colours = random_crops(batch=batch), torch.randn(batch, 3, 1, 1)
    return replace(
        noise,
        global_crops=colours + 0.3 * noise.global_crops,
        local_crops=colours + 0.3 * noise.local_crops,
    )


def test_it_overfits_a_batch_without_collapse() -> None:
    """The student learns the teacher, and the teacher tells images apart, on both crops alike.

    Seen: divergence 0.37 to 0.003, entropy 0.28 before and after (0.74 between), five outputs.
    """
    torch.manual_seed(0)
    model = Dino(replace(dino_config(), init_std=0.4, token_init_std=0.2))
    objective = DinoObjective(replace(CONFIG, teacher_momentum=0.9), model, 150)
    optimizer = build_optimizer(OptimizerConfig(lr=3e-3, weight_decay=0.0), model)
    batch, history = coloured_crops(8), []
    for step in range(150):
        terms = objective(batch)
        total(terms).backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(step + 1)
        history.append({name: term.loss.item() for name, term in terms.items()})
    assert history[-1]["divergence"] < 0.1 * history[0]["divergence"]
    assert 0.02 < history[-1]["entropy"] < 0.5 * math.log(OUTPUTS)
    with torch.no_grad():
        first, second = model(batch.global_crops).argmax(-1)
    assert torch.equal(first, second)
    assert len(first.unique()) >= 4


# Mistakes


def test_a_batch_without_crops_is_refused() -> None:
    objective = DinoObjective(CONFIG, dino_model(), MAX_STEPS)
    with pytest.raises(ValueError, match=r"yields a ImageBatch: set data\.images and data\.crops"):
        objective(random_images(tiny_config(), 2))


def test_every_mistake_of_the_settings_is_named() -> None:
    config = DinoObjectiveConfig(
        epoch_steps=0,
        student_temperature=0.0,
        teacher_temperature=-1.0,
        first_teacher_temperature=math.nan,
        temperature_epochs=-1,
        center_momentum=1.1,
        teacher_momentum=-0.1,
        freeze_epochs=-2,
    )
    assert config_errors(config, "objective.") == [
        "objective.epoch_steps is 0: it should be greater than 0",
        "objective.student_temperature is 0.0: it should be greater than 0",
        "objective.teacher_temperature is -1.0: it should be greater than 0",
        "objective.first_teacher_temperature is nan: it should be greater than 0",
        "objective.temperature_epochs is -1: it should be greater than or equal to 0",
        "objective.center_momentum is 1.1: it should be less than or equal to 1",
        "objective.teacher_momentum is -0.1: it should be greater than or equal to 0",
        "objective.freeze_epochs is -2: it should be greater than or equal to 0",
    ]
