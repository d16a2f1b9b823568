import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

import flava.models.attention
from flava.models.attention import attend
from flava.models.packing import TOKEN_MULTIPLE
from flava.models.transformer import Transformer, TransformerConfig, cls_only

ONE_SAMPLE = 3 * 7 * 7
"""Scores."""


@pytest.mark.parametrize("mask", [None, "of each sample", "of all"])
@pytest.mark.parametrize("at_once", [1, ONE_SAMPLE, 2 * ONE_SAMPLE, 5 * ONE_SAMPLE])
def test_attention_spelt_out_is_the_fused_one(
    mask: str | Tensor | None, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole or in parts: values and gradients agree."""
    monkeypatch.setattr(flava.models.attention, "MAX_SCORES_AT_ONCE", at_once)
    inputs = torch.randn(3, 5, 7, 3, 5, dtype=torch.float64)
    attention_mask = torch.arange(7) < torch.tensor([7, 1, 3, 6, 7])[:, None]
    if mask == "of each sample":
        mask = attention_mask[:, None, None]
    elif mask == "of all":
        mask = torch.ones(7, 7, dtype=torch.bool).tril()[None, None]
    assert not isinstance(mask, str)
    spelt, fused = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    ours = attend(spelt[0], spelt[1], spelt[2], mask)
    query, key, value = fused.transpose(2, 3)
    theirs = scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(spelt.grad, fused.grad)


def some_transformer(depth: int = 3) -> Transformer:
    torch.manual_seed(0)
    config = TransformerConfig(width=12, depth=depth, heads=3, mlp_width=20)
    transformer = Transformer(config).double()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return transformer


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_what_is_read_is_as_if_all_were_computed(depth: int, causal: bool, padded: bool) -> None:
    """Values, and the gradients of every parameter and of what goes in."""
    transformer = some_transformer(depth)
    states = torch.randn(9, 21, 12, dtype=torch.float64)
    attention_mask = torch.arange(21) < torch.tensor([21, 1, 5, 7, 20, 3, 11, 14, 2])[:, None]
    output_positions = (torch.rand(9, 21) < 0.3) & (attention_mask if padded else True)
    output_positions[3] = False
    weight = torch.randn(int(output_positions.sum()), 12, dtype=torch.float64)

    def run(asked: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        given = states.clone().requires_grad_()
        found = transformer.run_blocks(
            given, attention_mask if padded else None, asked, causal=causal
        )[output_positions]
        wanted = [given, *transformer.blocks.parameters()]
        return found, list(torch.autograd.grad((found * weight).sum(), wanted))

    (found, gradients), (expected, all_gradients) = run(output_positions), run(None)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients, all_gradients)


def test_nothing_need_be_read() -> None:
    transformer = some_transformer()
    states = torch.randn(2, 5, 12, dtype=torch.float64, requires_grad=True)
    nothing = torch.zeros(2, 5, dtype=torch.bool)
    found = transformer.run_blocks(states, None, nothing)
    (gradient,) = torch.autograd.grad(found[nothing].sum(), states)
    assert found.shape == states.shape
    assert not gradient.any()


def test_the_last_block_computes_what_is_read_alone() -> None:
    """In operations: queries, output and MLP of the other states are not computed."""
    transformer, batch, length, width, mlp = some_transformer(), 2 * TOKEN_MULTIPLE, 7, 12, 20
    states = torch.randn(batch, length, width, dtype=torch.float64)

    def operations(output_positions: Tensor | None) -> int:
        with FlopCounterMode(display=False) as counter:
            transformer.run_blocks(states, None, output_positions)
        return counter.get_total_flops()

    saved = operations(None) - operations(cls_only(batch, length))
    assert saved == 2 * batch * (length - 1) * (2 * width**2 + 2 * width * mlp)
