"""Images of another size than the configured: position embeddings interpolated as published."""

import pytest
import torch

from tests.golden.twins import twins


@pytest.mark.parametrize(
    ("rows", "columns"), [(5, 5), (7, 7), (3, 3), (2, 9), (10, 4), (5, 6), (1, 25)]
)
@torch.no_grad()
def test_states_at_other_sizes(rows: int, columns: int) -> None:
    pair = twins("three-image-blocks")
    pixels = torch.randn(2, 3, 8 * rows, 8 * columns)
    patch_mask = torch.rand(2, rows, columns) < 0.4
    ours = pair.ours.image_encoder.norm(pair.ours.image_encoder(pixels, patch_mask))
    theirs = pair.published.flava.image_model(
        pixels, bool_masked_pos=patch_mask, interpolate_pos_encoding=True
    ).last_hidden_state
    assert ours.shape == (2, 1 + rows * columns, 48)
    assert (ours - theirs).abs().max() < 1e-5
