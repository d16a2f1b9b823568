from dataclasses import FrozenInstanceError, fields

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flava.core.batch import ImageBatch, TextBatch, map_pixels, to_device, unmap_pixels
from tests.support import random_pairs, random_texts, tiny_config


@given(st.lists(st.floats(0, 1, width=32), min_size=1))
def test_the_pixel_map_and_back(values: list[float]) -> None:
    pixels = torch.tensor(values)
    mapped = map_pixels(pixels)
    assert mapped.min() >= 0.1 - 1e-6
    assert mapped.max() <= 0.9 + 1e-6
    torch.testing.assert_close(unmap_pixels(mapped), pixels, rtol=0, atol=1e-6)


def test_unmapping_stays_in_range() -> None:
    shown = unmap_pixels(torch.tensor([-1.0, 0.0, 0.1, 0.5, 0.9, 1.0, 7.0]))
    assert shown.tolist() == pytest.approx([0, 0, 0, 0.5, 1, 1, 1])
    assert 0 <= shown.min() <= shown.max() <= 1


def test_to_device_moves_every_tensor_but_masks_and_keeps_the_rest() -> None:
    batch = random_pairs(tiny_config(), [4, 2], torch.tensor([True, False]))
    moved = to_device(batch, torch.device("meta"))
    assert moved.matched is batch.matched
    assert moved.keys == batch.image.keys
    for part, before in ((moved.image, batch.image), (moved.text, batch.text)):
        for field in fields(part):
            value, earlier = getattr(part, field.name), getattr(before, field.name)
            if field.name in ("keys", "attention_mask", "patch_mask", "token_mask"):
                assert value is earlier
            else:
                assert (value.device.type, value.shape) == ("meta", earlier.shape)


def test_batches_are_frozen_and_their_shapes_checked() -> None:
    texts = random_texts(tiny_config(), [4, 2])
    with pytest.raises(FrozenInstanceError):
        setattr(texts, "input_ids", texts.attention_mask)  # noqa: B010
    with pytest.raises(jaxtyping.TypeCheckError):
        TextBatch(
            keys=texts.keys,
            input_ids=texts.input_ids,
            attention_mask=texts.attention_mask[:, :-1],
            input_ids_masked=texts.input_ids_masked,
            token_mask=texts.token_mask,
        )
    with pytest.raises(jaxtyping.TypeCheckError):
        ImageBatch(
            keys=("a",),
            pixels=torch.zeros(1, 4, 8, 8),
            codebook_pixels=torch.zeros(1, 3, 8, 8),
            patch_mask=torch.zeros(1, 1, 1, dtype=torch.bool),
        )
