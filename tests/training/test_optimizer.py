import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flava.core.constraints import config_errors
from flava.models import Flava
from flava.training.optimizer import OptimizerConfig, build_optimizer, clip_gradients
from tests.support import tiny_model

RATES = st.floats(1e-4, 0.5)


@pytest.fixture
def model() -> Flava:
    return tiny_model()


def names(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    of = {id(parameter): name for name, parameter in model.named_parameters()}
    return {of[id(parameter)] for parameter in parameters}


def test_biases_norms_and_the_temperature_do_not_decay(model):
    optimizer = build_optimizer(OptimizerConfig(weight_decay=0.3), model)
    decayed, free = (names(model, group["params"]) for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert "logit_scale" in free
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if name.startswith("codebook"):
            continue
        if isinstance(module, nn.LayerNorm):
            assert {f"{prefix}weight", f"{prefix}bias"} <= free
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            assert f"{prefix}weight" in decayed
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            assert f"{prefix}bias" in free


def test_each_parameter_is_trained_once_but_the_codebook_never(model):
    optimizer = build_optimizer(OptimizerConfig(), model)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    every = {name for name, _ in model.named_parameters()}
    assert len(trained) == len({id(p) for p in trained})
    assert names(model, trained) == {name for name in every if not name.startswith("codebook.")}


@given(lr=RATES, beta1=st.floats(0, 0.99), beta2=st.floats(0, 0.999), decay=st.floats(0, 1))
def test_two_updates_equal_the_formula(lr, beta1, beta2, decay):
    # Loshchilov & Hutter 2019, algorithm 2, in Python's own doubles.
    module = nn.Linear(1, 1).double()
    config = OptimizerConfig(lr=lr, beta1=beta1, beta2=beta2, eps=1e-6, weight_decay=decay)
    optimizer = build_optimizer(config, module)
    mean = square = 0.0
    weight, bias = module.weight.item(), module.bias.item()
    for step, gradient in enumerate((0.7, -1.9), 1):
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        change = mean / (1 - beta1**step)
        change /= math.sqrt(square / (1 - beta2**step)) + 1e-6
        weight = weight - lr * decay * weight - lr * change
        bias = bias - lr * change
        module.weight.grad = torch.full_like(module.weight, gradient)
        module.bias.grad = torch.full_like(module.bias, gradient)
        optimizer.step()
    assert module.weight.item() == pytest.approx(weight, rel=1e-9)
    assert module.bias.item() == pytest.approx(bias, rel=1e-9)


def test_every_mistake_is_listed():
    config = OptimizerConfig(
        lr=0.0, beta1=1.0, beta2=-0.1, eps=-1.0, weight_decay=-0.1, max_grad_norm=math.nan
    )
    found = config_errors(config, "optimizer.")
    for expected in (
        "optimizer.lr is 0.0: it should be greater than 0",
        "optimizer.beta1 is 1.0: it should be less than 1",
        "optimizer.beta2 is -0.1",
        "optimizer.eps is -1.0",
        "optimizer.weight_decay is -0.1: it should be greater than or equal to 0",
        "optimizer.max_grad_norm is nan",
    ):
        assert any(expected in line for line in found)
    assert len(found) == 6
    assert not config_errors(OptimizerConfig())


def graded(*gradients: list[float]) -> list[nn.Parameter]:
    """Parameters with these gradients, and one with none, as a layer that is frozen."""
    parameters = [nn.Parameter(torch.zeros(len(gradient))) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    return [*parameters, nn.Parameter(torch.zeros(2))]


def gradients_of(parameters: list[nn.Parameter]) -> list[list[float]]:
    return [p.grad.tolist() for p in parameters if p.grad is not None]


def test_gradients_are_clipped_by_the_norm_of_all():
    parameters = graded([3.0, 0.0], [0.0, 4.0])
    assert clip_gradients(OptimizerConfig(max_grad_norm=1.0), parameters) == pytest.approx(5)
    first, second = gradients_of(parameters)
    assert first == pytest.approx([0.6, 0], rel=1e-5)
    assert second == pytest.approx([0, 0.8], rel=1e-5)


@given(
    st.lists(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=3), min_size=1, max_size=4)
)
def test_or_each_by_its_own(gradients):
    """As ``utils.clip_gradients`` of facebookresearch/dino: the others' size does not matter."""
    parameters = graded(*gradients)
    whole = math.sqrt(sum(value**2 for gradient in gradients for value in gradient))
    norm = clip_gradients(OptimizerConfig(max_grad_norm=0.3, clip_each=True), parameters)
    assert norm == pytest.approx(whole, rel=1e-4, abs=1e-6)
    for found, gradient in zip(gradients_of(parameters), gradients, strict=True):
        factor = min(1.0, 0.3 / (math.hypot(*gradient) + 1e-6))
        assert found == pytest.approx([factor * value for value in gradient], rel=1e-4, abs=1e-6)


def test_a_decay_that_goes_from_or_to_nothing():
    wrong = OptimizerConfig(weight_decay=0.0, final_weight_decay=-0.4)
    both = config_errors(wrong, "optimizer.")
    assert [line.split(":")[0] for line in both] == [
        "optimizer.final_weight_decay is -0.4",
        "optimizer.weight_decay is 0.0, and optimizer.final_weight_decay -0.4",
    ]
    assert not config_errors(OptimizerConfig(weight_decay=0.1, final_weight_decay=0.0))
