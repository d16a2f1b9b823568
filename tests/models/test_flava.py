import math
from dataclasses import replace

import pytest
import torch

from flava.models import Flava, TextConfig
from tests.support import random_images, random_texts, tiny_config, tiny_model


@torch.no_grad()
def test_encodings_are_unit_vectors_in_32_bits() -> None:
    model = tiny_model()
    images, texts = random_images(model.config, 4), random_texts(model.config, [5, 1, 9, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
        image, text = (
            model.encode_image(images.pixels),
            model.encode_text(texts.input_ids, texts.attention_mask),
        )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model.encode_image(images.pixels)
    for features in (image, text, rough):
        assert features.shape == (4, 16)
        assert features.dtype == torch.float32
        torch.testing.assert_close(features.norm(dim=1), torch.ones(4), rtol=0, atol=1e-6)
    # Eight bits of mantissa, through four blocks.
    torch.testing.assert_close(rough, image, rtol=0, atol=0.03)


@torch.no_grad()
def test_multimodal_states_stand_in_the_order_cls_image_text() -> None:
    """Where the blocks add nothing, the states are the norm of what was put in."""
    model = tiny_model()
    for name, parameter in model.multimodal_encoder.blocks.named_parameters():
        if "attention.output" in name or "mlp_out" in name:
            parameter.zero_()
    images, texts = random_images(model.config, 2), random_texts(model.config, [5, 3])
    image = model.image_encoder(images.pixels)
    text = model.text_encoder(texts.input_ids, texts.attention_mask)
    states = model.multimodal(image, text, texts.attention_mask)
    norm = model.multimodal_encoder.norm
    cls = norm(model.multimodal_encoder.cls_token[0, 0])
    torch.testing.assert_close(states[:, 0], cls.expand(2, -1))
    torch.testing.assert_close(states[:, 1:18], norm(model.image_to_multimodal(image)))
    words = norm(model.text_to_multimodal(text))
    torch.testing.assert_close(states[:, 18:][texts.attention_mask], words[texts.attention_mask])


@torch.no_grad()
def test_each_modality_reaches_the_other() -> None:
    model = tiny_model()
    images, texts = random_images(model.config, 2), random_texts(model.config, [5, 3])
    image = model.image_encoder(images.pixels)
    text = model.text_encoder(texts.input_ids, texts.attention_mask)
    states = model.multimodal(image, text, texts.attention_mask)
    other_image = model.multimodal(image.flip(0), text, texts.attention_mask)
    assert (states[:, 18:] - other_image[:, 18:]).abs().max() > 1e-3
    other_text = model.multimodal(image, text + 1, texts.attention_mask)
    assert (states[:, :18] - other_text[:, :18]).abs().max() > 1e-3


def test_weights_start_as_published() -> None:
    """N(0, 0.02), biases 0, norms 1 and 0, tokens 0 (transformers' `_init_weights`)."""
    model = Flava(replace(tiny_config(), text=TextConfig(width=48, depth=1)))
    assert model.logit_scale.item() == pytest.approx(math.log(1 / 0.07), abs=1e-4)
    for tokens in (model.image_encoder.cls_token, model.image_encoder.mask_token):
        assert not tokens.any()
    assert not model.image_encoder.positions.any()
    assert model.text_encoder.words.weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert model.mlm_head.decoder.weight.std().item() == pytest.approx(0.02, rel=0.01)
    for name, parameter in model.named_parameters():
        if name.startswith("codebook"):
            assert not parameter.requires_grad
        elif "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, name.endswith("weight")))
        elif name.endswith("bias"):
            assert not parameter.any()


def test_tokens_and_weights_start_as_wide_as_configured() -> None:
    config = replace(
        tiny_config(), init_std=0.1, token_init_std=0.3, text=TextConfig(width=48, depth=1)
    )
    model = Flava(config)
    assert model.text_encoder.words.weight.std().item() == pytest.approx(0.1, rel=0.01)
    # 17 positions of 32: a relative standard error of 3 %.
    assert model.image_encoder.positions.std().item() == pytest.approx(0.3, rel=0.15)
    assert model.multimodal_encoder.cls_token.all()


def test_codebook_stays_frozen_in_training() -> None:
    model = tiny_model().train()
    assert not any(p.requires_grad for p in model.codebook.parameters())
