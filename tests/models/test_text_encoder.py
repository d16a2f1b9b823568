import pytest
import torch
from torch.nn.functional import pad

from tests.support import random_images, random_texts, tiny_model


@torch.no_grad()
def test_padding_changes_no_state_of_a_real_token() -> None:
    """Neither how much there is of it nor which ids stand there."""
    model = tiny_model()
    texts = random_texts(model.config, [5, 1, 9, 3])
    states = model.text_encoder(texts.input_ids, texts.attention_mask)[texts.attention_mask]
    more = model.text_encoder(pad(texts.input_ids, (0, 3)), pad(texts.attention_mask, (0, 3)))
    torch.testing.assert_close(more[:, :9][texts.attention_mask], states)
    noise = texts.input_ids.where(texts.attention_mask, torch.randint(53, texts.input_ids.shape))
    torch.testing.assert_close(
        model.text_encoder(noise, texts.attention_mask)[texts.attention_mask], states
    )
    for row, length in enumerate((5, 1, 9, 3)):
        alone = model.text_encoder(
            texts.input_ids[row : row + 1, :length], texts.attention_mask[row:][:1, :length]
        )
        torch.testing.assert_close(alone[0], states[texts.attention_mask.nonzero()[:, 0] == row])


@torch.no_grad()
def test_padding_changes_no_multimodal_state() -> None:
    model = tiny_model()
    texts = random_texts(model.config, [5, 1, 9, 3])
    image = model.image_encoder(random_images(model.config, 4).pixels)
    states = model.multimodal(
        image, model.text_encoder(texts.input_ids, texts.attention_mask), texts.attention_mask
    )
    input_ids, attention_mask = (
        pad(texts.input_ids, (0, 2), value=7),
        pad(texts.attention_mask, (0, 2)),
    )
    more = model.multimodal(image, model.text_encoder(input_ids, attention_mask), attention_mask)
    kept = torch.cat([torch.ones(4, 18, dtype=torch.bool), texts.attention_mask], dim=1)
    torch.testing.assert_close(more[:, :27][kept], states[kept])


@torch.no_grad()
def test_order_matters() -> None:
    model = tiny_model()
    texts = random_texts(model.config, [6])
    turned = model.encode_text(texts.input_ids.flip(1), texts.attention_mask)
    assert not torch.allclose(
        model.encode_text(texts.input_ids, texts.attention_mask), turned, atol=1e-3
    )


def test_a_text_longer_than_the_positions() -> None:
    model = tiny_model()
    texts = random_texts(model.config, [12, 4])
    model.text_encoder(texts.input_ids, texts.attention_mask)
    texts = random_texts(model.config, [13, 4])
    with pytest.raises(ValueError, match=r"text of 13 tokens is longer than .* max_length 12"):
        model.text_encoder(texts.input_ids, texts.attention_mask)
