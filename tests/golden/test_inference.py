"""From pictures and texts to results, beside transformers' processor and model on the same weights.

Theirs is given padded batches in the order asked, ours sorts and groups them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import BertTokenizer, FlavaImageProcessorPil

from flava.inference.pretrained import Pretrained
from flava.inference.processor import Processor
from flava.models import Flava
from tests.data.shard_files import picture
from tests.golden.twins import GEOMETRIES, Twins, twins
from tests.inference.models import processor_of, vocabulary

TEXTS = ["a b [MASK]", "[MASK]", "é, c [MASK] d [MASK]", "ab [MASK] z", "q r [MASK]"]
IMAGES = [picture(n, 20 + 9 * n, 40 - 5 * n) for n in range(len(TEXTS))]


@dataclass(frozen=True)
class Both:
    ours: Pretrained
    inputs: dict[str, Tensor]
    """What transformers' own processor makes of the images and texts."""
    output: Any
    """What its model makes of those, with the texts' masks and no patch hidden."""


@pytest.fixture(params=GEOMETRIES, scope="module")
def both(request: pytest.FixtureRequest) -> Both:
    pair = twins(request.param)
    config = pair.ours.config
    processor: Processor = processor_of(pair.ours)
    words = vocabulary(config.text.vocabulary_size)
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    size, codes = config.image.image_size, config.image.grid * 8
    seen_codes = {"height": codes, "width": codes}
    images = FlavaImageProcessorPil(
        size=size,
        crop_size=size,
        codebook_size=seen_codes,
        codebook_crop_size=seen_codes,
        return_codebook_pixels=True,
    )
    read = tokenizer(TEXTS, padding=True, return_tensors="pt")
    seen = images(IMAGES, return_tensors="pt")
    inputs = {
        "pixel_values": seen["pixel_values"],
        "input_ids": read["input_ids"],
        "attention_mask": read["attention_mask"],
    }
    with torch.no_grad():
        output: Any = pair.published.eval()(
            **inputs,
            input_ids_masked=read["input_ids"],
            codebook_pixel_values=seen["codebook_pixel_values"],
            bool_masked_pos=torch.zeros(len(IMAGES), config.image.grid, config.image.grid).bool(),
            skip_unmasked_multimodal_encoder=False,
            return_loss=False,
        )
    pair.published.train()
    return Both(Pretrained(pair.ours, processor), inputs, output)


def test_hidden_states(both: Both) -> None:
    states: Any = both.ours.hidden_states(IMAGES, TEXTS)
    attention_mask = both.inputs["attention_mask"].bool()
    assert torch.equal(states.text_attention_mask, attention_mask)
    assert (states.image - both.output.image_embeddings).abs().max() < 1e-5
    assert (states.text - both.output.text_embeddings)[attention_mask].abs().max() < 1e-5
    joint = both.output.multimodal_embeddings
    assert joint.shape == states.multimodal.shape
    assert (states.multimodal - joint)[states.multimodal_attention_mask].abs().max() < 1e-5
    assert (both.ours.encode_pair(IMAGES, TEXTS) - joint[:, 0]).abs().max() < 1e-5


def test_embeddings_are_those_of_the_published_contrastive_loss(both: Both) -> None:
    images, texts = both.ours.encode_image(IMAGES), both.ours.encode_text(TEXTS)
    scale = np.exp(both.ours.logit_scale)
    logits = scale * images @ texts.T
    expected = both.output.contrastive_logits_per_image
    assert (logits - expected).abs().max() < 1e-5 * scale
    match: Any = both.ours.match(IMAGES, TEXTS)
    assert (match.cosine - expected.diag() / scale).abs().max() < 1e-5
    found = both.ours.classify(IMAGES, TEXTS, ["{}"])
    assert (found.probabilities - expected.softmax(dim=1)).abs().max() < 1e-5


@torch.no_grad()
def test_get_features_are_the_same_before_their_length_is_made_one(both: Both) -> None:
    """They project every state; the first is what the contrastive loss reads."""
    published: Any = twins_of(both).published.flava.eval()
    image = published.get_image_features(both.inputs["pixel_values"]).pooler_output
    text = published.get_text_features(
        both.inputs["input_ids"], attention_mask=both.inputs["attention_mask"]
    ).pooler_output
    assert image.ndim == text.ndim == 3
    ours = both.ours.encode_image(IMAGES), both.ours.encode_text(TEXTS)
    for own, theirs in zip(ours, (image, text), strict=True):
        assert (own - functional.normalize(theirs[:, 0], dim=1)).abs().max() < 1e-5


def twins_of(both: Both) -> Twins:
    (name,) = (n for n in GEOMETRIES if twins(n).ours is both.ours.model)
    return twins(name)


def test_matching(both: Both) -> None:
    expected = both.output.itm_logits.softmax(dim=1)[:, 1]
    match: Any = both.ours.match(IMAGES, TEXTS)
    assert (match.probability - expected).abs().max() < 1e-5
    assert expected.std() > 1e-4


def test_masks_filled_with_an_image(both: Both) -> None:
    check_filled(both, both.ours.fill_mask(TEXTS, IMAGES), both.output.mmm_text_logits)


@torch.no_grad()
def test_masks_filled_without_an_image(both: Both) -> None:
    published = twins_of(both).published.eval()
    input_ids, attention_mask = both.inputs["input_ids"], both.inputs["attention_mask"]
    output: Any = published(
        input_ids=input_ids,
        input_ids_masked=input_ids,
        attention_mask=attention_mask,
        return_loss=False,
    )
    check_filled(both, both.ours.fill_mask(TEXTS), output.mlm_logits)


def check_filled(both: Both, found: list, logits: Tensor) -> None:
    masks = both.inputs["input_ids"] == 3
    logits = logits[:, -masks.shape[1] :]
    words = vocabulary(10**6)
    for row, candidates in enumerate(found):
        expected = logits[row][masks[row]].softmax(dim=1)
        assert len(candidates) == len(expected)
        for five, odds in zip(candidates, expected, strict=True):
            known = odds[: both.ours.processor.tokenizer.size]
            best = known.topk(5)
            assert [words.index(each.token) for each in five] == best.indices.tolist()
            for each, odd in zip(five, best.values.tolist(), strict=True):
                assert abs(each.probability - odd) < 1e-5


@pytest.mark.parametrize("with_texts", [False, True])
@torch.no_grad()
def test_codes_of_hidden_patches(both: Both, with_texts: bool) -> None:
    """What is drawn at hidden patches is what the codebook makes of the published head's codes."""
    pair, model = twins_of(both), both.ours.model
    assert isinstance(model, Flava)
    grid = model.config.image.grid
    mask = torch.rand(len(IMAGES), grid, grid) < 0.4
    texts = [text.replace("[MASK]", "a") for text in TEXTS] if with_texts else None
    inputs = {"pixel_values": both.inputs["pixel_values"], "bool_masked_pos": mask.clone()}
    if texts is not None:
        input_ids, attention_mask = both.ours.processor.texts(texts)
        inputs |= {
            "input_ids": input_ids,
            "input_ids_masked": input_ids,
            "attention_mask": attention_mask.long(),
        }
    pixels = both.ours.processor.codebook_images(IMAGES)
    output: Any = pair.published.eval()(**inputs, codebook_pixel_values=pixels, return_loss=False)
    logits = output.mim_logits if texts is None else output.mmm_image_logits
    # Without labels they keep every position, and of an image alone its [CLS] too.
    guesses = logits.argmax(dim=-1)[:, -(grid**2) :].view(len(IMAGES), grid, grid)
    codes = model.codebook.codes(pixels)
    assert (guesses[mask] != codes[mask]).any()
    codes = torch.where(mask, guesses, codes)
    drawn = model.codebook.decode(codes).permute(0, 2, 3, 1).numpy() * 255
    for i, each in enumerate(both.ours.reconstruct(IMAGES, texts, mask=mask)):
        hidden = np.kron(mask[i].numpy(), np.ones((8, 8), bool))
        assert abs(np.asarray(each.filled)[hidden] - drawn[i][hidden]).max() < 0.51


@pytest.mark.parametrize("grid", [3, 7])
@torch.no_grad()
def test_other_sizes_in_the_whole_model(grid: int) -> None:
    """Theirs takes them in the image encoder alone, so its parts are put together here."""
    pair = twins("three-image-blocks")
    model, flava = pair.ours, pair.published.flava.eval()
    processor = processor_of(model).of_size((8 * grid, 8 * grid), 8)
    ours = Pretrained(model, processor)
    input_ids, attention_mask = processor.texts(TEXTS)
    pixels = FlavaImageProcessorPil(size=8 * grid, crop_size=8 * grid)(IMAGES, return_tensors="pt")
    image = flava.image_model(
        pixels["pixel_values"], interpolate_pos_encoding=True, output_hidden_states=True
    )
    text = flava.text_model(
        input_ids, attention_mask=attention_mask.long(), output_hidden_states=True
    )
    joined = torch.cat(
        [
            flava.image_to_mm_projection(image.hidden_states[-1]),
            flava.text_to_mm_projection(text.hidden_states[-1]),
        ],
        dim=1,
    )
    everywhere = torch.cat([torch.ones(len(TEXTS), 2 + grid**2), attention_mask.float()], dim=1)
    joint = flava.multimodal_model(joined, attention_mask=everywhere).last_hidden_state
    states: Any = ours.hidden_states(IMAGES, TEXTS)
    assert (states.image - image.last_hidden_state).abs().max() < 1e-5
    assert (states.multimodal - joint)[states.multimodal_attention_mask].abs().max() < 1e-5
    matched = pair.published.itm_head(joint).softmax(dim=1)[:, 1]
    match: Any = ours.match(IMAGES, TEXTS)
    assert (match.probability - matched).abs().max() < 1e-5
    features = functional.normalize(flava.image_projection(image.last_hidden_state[:, 0]), dim=1)
    assert (ours.encode_image(IMAGES) - features).abs().max() < 1e-5


def test_pictures_differ() -> None:
    assert len({image.tobytes() for image in IMAGES}) == len(IMAGES)
    assert all(isinstance(image, Image.Image) for image in IMAGES)
