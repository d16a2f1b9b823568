"""What is filled in, against the heads applied one input at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flava.core.batch import unmap_pixels
from flava.inference.fill import HIDDEN_GREY
from flava.inference.pretrained import Pretrained
from flava.inference.results import Candidate
from tests.data.shard_files import picture
from tests.inference.models import loaded, vocabulary

WORDS = vocabulary(53)
MASK = 3
TEXTS = ["a [MASK] b", "[MASK]", "c d e f [MASK] g [MASK]", "x[MASK]y z"]
MASKS = [1, 1, 2, 1]
IMAGES = [picture(n, 20 + 3 * n, 30 - n) for n in range(len(TEXTS))]


@pytest.fixture
def pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretrained:
    monkeypatch.setattr("flava.inference.encoding.GROUP_TOKENS", 40)
    return loaded(tmp_path)


def likeliest(logits: torch.Tensor, top: int) -> list[tuple[str, float]]:
    """By numpy, in 64 bits."""
    exact = logits.double().numpy()
    odds = np.exp(exact - exact.max())
    odds /= odds.sum()
    return [(WORDS[i], odds[i]) for i in np.argsort(-odds)[:top]]


def same(candidates: list[Candidate], expected: list[tuple[str, float]]) -> None:
    assert [each.token for each in candidates] == [token for token, _ in expected]
    odds = [each.probability for each in candidates]
    assert odds == pytest.approx([probability for _, probability in expected], abs=1e-6)


@pytest.mark.parametrize("seen", [False, True])
@torch.no_grad()
def test_masks_are_filled_by_the_right_head_in_the_order_asked(pretrained, seen):
    model, processor = pretrained.model, pretrained.processor
    found = pretrained.fill_mask(TEXTS, IMAGES if seen else None, top=4)
    assert [len(masks) for masks in found] == MASKS
    for text, image, masks in zip(TEXTS, IMAGES, found, strict=True):
        input_ids, attention_mask = processor.texts([text])
        states = model.text_encoder(input_ids, attention_mask)
        if seen:
            joint = model.multimodal(
                model.image_encoder(processor.images([image])), states, attention_mask
            )
            logits = model.mmm_text_head(joint[0, 18:])
        else:
            logits = model.mlm_head(model.text_encoder.norm(states)[0])
        for candidates, row in zip(masks, logits[input_ids[0] == MASK], strict=True):
            same(candidates, likeliest(row, 4))


def test_the_image_matters_to_what_is_filled_in(pretrained):
    one, other = (pretrained.fill_mask(["[MASK]"], [image])[0][0] for image in IMAGES[:2])
    assert [each.probability for each in one] != [each.probability for each in other]


def test_all_probabilities_add_up_to_one(pretrained):
    (candidates,) = pretrained.fill_mask(["[MASK] a"], top=53)[0]
    assert len({each.token for each in candidates}) == 53
    assert sum(each.probability for each in candidates) == pytest.approx(1, abs=1e-5)


def test_texts_with_nothing_to_fill_are_all_named_with_the_remedy(pretrained):
    texts = ["a [MASK]", "a b", "[mask] b", "a " * 20 + "[MASK]", "[MASK]" + " a" * 20]
    with pytest.raises(ValueError, match=r"texts have no \[MASK\] to fill") as caught:
        pretrained.fill_mask(texts)
    lines = str(caught.value).splitlines()[1:]
    assert lines == [
        "  texts[1]: no [MASK] in 'a b': write it where a word is to come",
        "  texts[2]: no [MASK] in '[mask] b': write it where a word is to come",
        "  texts[3]: a [MASK] is beyond 12 tokens: shorten the text",
    ]
    # One of two that is cut off is no less lost.
    with pytest.raises(ValueError, match="is beyond 12 tokens"):
        pretrained.fill_mask(["[MASK] " + "a " * 20 + "[MASK]"])


@pytest.mark.parametrize("top", [0, -1, 54])
def test_a_number_of_candidates_that_cannot_be_is_named(pretrained, top):
    with pytest.raises(ValueError, match=f"top is {top}: use 1 to 53"):
        pretrained.fill_mask(["[MASK]"], top=top)


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("with_texts", [False, True])
@torch.no_grad()
def test_hidden_patches_are_drawn_from_the_codes_of_the_right_head(pretrained, with_texts):
    model, processor = pretrained.model, pretrained.processor
    masks = torch.rand(4, 4, 4) < 0.4
    masks[1] = False
    masks[2] = True
    texts = ["a", "b c d e", "", "f g"] if with_texts else None
    done = pretrained.reconstruct(IMAGES, texts, mask=masks)
    codebook_pixels = processor.codebook_images(IMAGES)
    for i, each in enumerate(done):
        assert torch.equal(each.mask, masks[i])
        states = model.image_encoder(processor.images([IMAGES[i]]), masks[i : i + 1])
        if texts is None:
            logits = model.mim_head(model.image_encoder.norm(states)[0, 1:])
        else:
            input_ids, attention_mask = processor.texts([texts[i]])
            joint = model.multimodal(
                states, model.text_encoder(input_ids, attention_mask), attention_mask
            )
            logits = model.mmm_image_head(joint[0, 2:18])
        codes = model.codebook.codes(codebook_pixels[i : i + 1])[0]
        codes = torch.where(masks[i], logits.argmax(dim=1).view(4, 4), codes)
        drawn = model.codebook.decode(codes[None])[0].permute(1, 2, 0).numpy() * 255
        seen = unmap_pixels(codebook_pixels[i]).permute(1, 2, 0).numpy() * 255
        hidden = np.kron(masks[i].numpy(), np.ones((8, 8), bool))[..., None]
        # Rounded to levels; and a different order of sums may move a value across a half.
        assert abs(levels(each.original) - seen).max() < 0.51
        assert abs(levels(each.masked) - np.where(hidden, 255 * HIDDEN_GREY, seen)).max() < 0.51
        assert abs(levels(each.filled) - np.where(hidden, drawn, seen)).max() < 0.51


def test_without_a_mask_blocks_are_drawn_by_the_seed(pretrained):
    first, again = (pretrained.reconstruct(IMAGES * 3) for _ in range(2))
    other = pretrained.reconstruct(IMAGES * 3, seed=1)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.mask, b.mask)
        assert a.filled.tobytes() == b.filled.tobytes()
    assert any(not torch.equal(a.mask, b.mask) for a, b in zip(first, other, strict=True))
    hidden = [int(each.mask.sum()) for each in first]
    assert max(hidden) <= 75 * 16 // 196
    assert min(hidden) > 0
    assert len({each.mask.numpy().tobytes() for each in first}) > 3


def test_one_mask_serves_all_images(pretrained):
    mask = torch.eye(4, dtype=torch.bool)
    assert all(torch.equal(each.mask, mask) for each in pretrained.reconstruct(IMAGES, mask=mask))


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 4), (1, 4, 4, 4)])
def test_a_mask_of_other_patches_is_refused(pretrained, shape):
    with pytest.raises(
        ValueError, match=r"give \[4, 4\], rows and columns of patches, or \[4, 4, 4\]"
    ):
        pretrained.reconstruct(IMAGES, mask=torch.zeros(shape, dtype=torch.bool))


def test_unequal_sides_are_an_error(pretrained):
    for use in (pretrained.fill_mask, lambda t, i: pretrained.reconstruct(i, t)):
        with pytest.raises(ValueError, match="there are 1 images and 2 texts"):
            use(["[MASK]", "[MASK]"], IMAGES[:1])
