import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from flava.model.transformer import attend


@pytest.mark.parametrize("masked", [True, False])
def test_attention_spelt_out_is_the_fused_one(masked: bool) -> None:
    """The CPU takes the one and CUDA the other: values and gradients agree."""
    inputs = torch.randn(3, 2, 3, 7, 5, dtype=torch.float64)
    real = torch.arange(7) < torch.tensor([7, 1])[:, None]
    mask = real[:, None, None] if masked else None
    spelt, fused = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    ours = attend(spelt[0], spelt[1], spelt[2], mask)
    theirs = scaled_dot_product_attention(fused[0], fused[1], fused[2], attn_mask=mask)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(spelt.grad, fused.grad)
