"""CLIP's objective beside open_clip's loss, and its edges."""

import math

import pytest
import torch
from open_clip.loss import ClipLoss
from torch.nn.functional import normalize

from flava.core.batch import ImageInputs, PairInputs, TextInputs, WholePairBatch
from flava.core.distributed import Gather
from flava.models import Clip, ClipConfig, ClipImageConfig, ClipTextConfig
from flava.objectives import ClipObjective, ClipObjectiveConfig
from flava.objectives.losses import contrastive
from tests.support import random_images, tiny_config

END = 30


def tiny() -> Clip:
    image = ClipImageConfig(image_size=12, patch_size=4, width=24, depth=2, heads=3, mlp_width=20)
    text = ClipTextConfig(
        vocabulary_size=END + 1, max_length=9, width=20, depth=2, heads=5, mlp_width=28
    )
    return Clip(ClipConfig(image=image, text=text, projection_width=16))


def whole_pairs(lengths: list[int]) -> WholePairBatch:
    attention_mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    input_ids = torch.randint(1, END, attention_mask.shape).where(attention_mask, 0)
    input_ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = END
    return WholePairBatch(
        keys=tuple(f"pair-{i}" for i in range(len(lengths))),
        inputs=PairInputs(
            image=ImageInputs(pixels=torch.randn(len(lengths), 3, 12, 12)),
            text=TextInputs(input_ids=input_ids, attention_mask=attention_mask),
        ),
    )


@pytest.mark.parametrize("reach", Gather)
def test_loss_and_gradients_are_open_clips(reach: Gather) -> None:
    drawn = [torch.randn(7, 5) for _ in range(2)]
    results = []
    for ours in (True, False):
        leaves = [each.clone().requires_grad_() for each in drawn]
        scale = torch.tensor(1.7, requires_grad=True)
        image, text = (normalize(each, dim=1) for each in leaves)
        if ours:
            loss = contrastive(image, text, scale, torch.ones(7, dtype=torch.bool), reach).loss
        else:
            loss = ClipLoss()(image, text, scale.exp())
        loss.backward()
        results.append([loss.detach(), *(each.grad for each in (*leaves, scale))])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)


def test_the_objective_is_open_clips_loss_of_the_models_features() -> None:
    model, batch = tiny(), whole_pairs([5, 9, 3, 7])
    terms = ClipObjective(ClipObjectiveConfig(), model)(batch)
    image = model.encode_image(batch.inputs.image.pixels)
    text = model.encode_text(batch.inputs.text.input_ids, batch.inputs.text.attention_mask)
    assert list(terms) == ["gc"]
    torch.testing.assert_close(
        terms["gc"].loss, ClipLoss()(image, text, model.logit_scale.exp()), rtol=1e-5, atol=1e-6
    )


def test_every_parameter_is_trained() -> None:
    model = tiny()
    ClipObjective(ClipObjectiveConfig(), model)(whole_pairs([5, 9, 3]))["gc"].loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_one_small_batch_can_be_learnt() -> None:
    """The loss falls below a fifth of where it started."""
    model, batch = tiny(), whole_pairs([5, 9, 3, 7])
    objective = ClipObjective(ClipObjectiveConfig(), model)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = objective(batch)["gc"].loss.item()
    for step in range(60):
        optimizer.zero_grad()
        objective(batch)["gc"].loss.backward()
        optimizer.step()
        objective.after_step(step + 1)
    term = objective(batch)["gc"]
    assert term.loss.item() < first / 5
    assert term.accuracy == 1


def test_logits_are_scaled_by_1_to_100() -> None:
    model = tiny()
    objective = ClipObjective(ClipObjectiveConfig(), model)
    for value, kept in ((-1.0, 1.0), (2.0, math.exp(2)), (9.0, 100.0)):
        torch.nn.init.constant_(model.logit_scale, value)
        objective.after_step(1)
        assert model.logit_scale.exp().item() == pytest.approx(kept, rel=1e-5)
    assert model.logit_scale.requires_grad


def test_other_data_is_refused() -> None:
    objective = ClipObjective(ClipObjectiveConfig(), tiny())
    with pytest.raises(ValueError, match=r"yields a ImageBatch: set data.pairs, and data.mask_pai"):
        objective(random_images(tiny_config(), 2))
