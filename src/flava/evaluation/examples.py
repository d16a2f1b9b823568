"""The examples that a model's report shows: samples drawn by the seed, never picked by hand."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from flava.core.batch import unmap_pixels
from flava.core.randomness import random_generator
from flava.evaluation.embedded_data import EmbeddedPairs
from flava.evaluation.embedded_features import EmbeddedFeatures, TextStates
from flava.evaluation.masked_tasks import hidden_tokens, patch_masks
from flava.evaluation.record import (
    Examples,
    MaskedImageExample,
    MaskedTextExample,
    MaskedTokenExample,
    Pictures,
    RankedExample,
)
from flava.evaluation.retrieval import ranks
from flava.inference import fill
from flava.inference.features import CONTRASTIVE_PARTS
from flava.inference.fill import HIDDEN_GREY, paste, to_picture
from flava.inference.processor import bert_tokenizer

QUERIES = 8
"""Samples of each kind of example."""
BLANKS = 2
"""Hidden tokens of a caption that is shown, at most."""
SHOWN = 5
"""Retrieved items, and fillings of a hidden token, that are shown."""


class PictureStore:
    """Pictures by name, each stored once."""

    def __init__(self) -> None:
        self.pictures: dict[str, Image.Image] = {}

    def add(self, name: str, picture: Image.Image | Float[Tensor, "3 h w"]) -> str:
        """Store a picture, or pixels in [0, 1], and return the name."""
        self.pictures[name] = to_picture(picture) if isinstance(picture, Tensor) else picture
        return name


CODEBOOK = ("codebook.encoder", "codebook.decoder")
MASKED_IMAGES = ("mim_head", "mmm_image_head", *CODEBOOK)
MASKED_TEXTS = ("mlm_head", "mmm_text_head")
"""What examples are drawn with, of the parts that not every checkpoint holds."""


def draw_examples(
    features: EmbeddedFeatures, split: str = "unseen_style"
) -> tuple[Examples, Pictures]:
    """Examples of everything that the model has the parts for, and the pictures they name."""
    store, has = PictureStore(), features.model.missing_parts.isdisjoint
    pairs = features.corpus.pairs(split)
    rng = random_generator(features.corpus.seed, 0, "examples")
    rows = torch.from_numpy(rng.permutation(len(pairs))[:QUERIES])
    examples = Examples(
        images_for_captions=tuple(
            _images_for_captions(features, split, rows, store) if has(CONTRASTIVE_PARTS) else ()
        ),
        captions_for_images=tuple(
            _captions_for_images(features, split, rows, store) if has(CONTRASTIVE_PARTS) else ()
        ),
        masked_images=tuple(
            _masked_images(features, split, rows, store) if has(MASKED_IMAGES) else ()
        ),
        masked_texts=tuple(_masked_texts(features, split, rng, store) if has(MASKED_TEXTS) else ()),
        reconstructions=tuple(
            _reconstructions(features, split, rng, store) if has(CODEBOOK) else ()
        ),
    )
    return examples, store.pictures


def _images_for_captions(
    features: EmbeddedFeatures, split: str, rows: Int[Tensor, " rows"], store: PictureStore
) -> Iterator[RankedExample]:
    texts, images = features.caption_embeddings(split), features.image_embeddings(split)
    pairs = features.corpus.pairs(split)
    for row, order, rank in _nearest(texts, images, pairs, rows):
        yield RankedExample(
            picture=store.add(f"image-{row}", pairs.images[row]),
            caption=pairs.captions.texts[row],
            results=tuple(store.add(f"image-{i}", pairs.images[i]) for i in order),
            right=tuple(pairs.concepts[i] == pairs.concepts[row] for i in order),
            rank=rank,
            candidates=len(pairs),
        )


def _captions_for_images(
    features: EmbeddedFeatures, split: str, rows: Int[Tensor, " rows"], store: PictureStore
) -> Iterator[RankedExample]:
    texts, images = features.caption_embeddings(split), features.image_embeddings(split)
    pairs = features.corpus.pairs(split)
    for row, order, rank in _nearest(images, texts, pairs, rows):
        yield RankedExample(
            picture=store.add(f"image-{row}", pairs.images[row]),
            caption=pairs.captions.texts[row],
            results=tuple(pairs.captions.texts[i] for i in order),
            right=tuple(pairs.concepts[i] == pairs.concepts[row] for i in order),
            rank=rank,
            candidates=len(pairs),
        )


def _nearest(
    queries: Float[Tensor, "n width"],
    gallery: Float[Tensor, "n width"],
    pairs: EmbeddedPairs,
    rows: Int[Tensor, " rows"],
) -> Iterator[tuple[int, list[int], int]]:
    """For each row: itself, the best candidates, and the rank from 1 of the first right one."""
    ids = pairs.concept_ids
    from_zero = ranks(queries[rows].numpy(), gallery.numpy(), ids[rows.numpy()], ids)
    best = (queries[rows] @ gallery.T).topk(min(SHOWN, len(pairs)), dim=1).indices
    for row, order, rank in zip(rows.tolist(), best.tolist(), from_zero.tolist(), strict=True):
        yield row, order, rank + 1


def _masked_images(
    features: EmbeddedFeatures, split: str, rows: Int[Tensor, " rows"], store: PictureStore
) -> Iterator[MaskedImageExample]:
    """The hidden patches as the codebook draws the codes that the model predicts for them."""
    model, pairs = features.model, features.corpus.pairs(split)
    patch_mask = patch_masks(pairs, features.corpus.seed)[rows]
    states, device = (
        features.image_states(pairs.pixels[rows], patch_mask),
        features.extractor.device,
    )
    alone = fill.mim_logits(model, states.to(device), patch_mask).argmax(dim=1).cpu()
    texts = features.text_states(pairs.captions)
    joint = _joint_states(features, states, texts, rows)
    with_text = fill.mmm_image_logits(model, joint, patch_mask).argmax(dim=1).cpu()
    codes = features.codes(split)[rows]
    truth = codes[patch_mask]
    original = unmap_pixels(pairs.codebook_pixels[rows])
    grey = torch.full_like(original, HIDDEN_GREY)
    pictures = {
        "original": original,
        "masked": paste(original, grey, patch_mask),
        "codes": _decode(features, codes),
        "alone": _filled_in(features, original, codes, patch_mask, alone),
        "caption": _filled_in(features, original, codes, patch_mask, with_text),
    }
    which = patch_mask.nonzero()[:, 0]
    for i, row in enumerate(rows.tolist()):
        name = {kind: store.add(f"masked-{row}-{kind}", each[i]) for kind, each in pictures.items()}
        right = [_share(codes[which == i] == truth[which == i]) for codes in (alone, with_text)]
        yield MaskedImageExample(
            caption=pairs.captions.texts[row],
            original=name["original"],
            masked=name["masked"],
            reconstruction=name["codes"],
            filled_alone=name["alone"],
            filled_with_caption=name["caption"],
            right_alone=right[0],
            right_with_caption=right[1],
        )


def _joint_states(
    features: EmbeddedFeatures,
    image_states: Float[Tensor, "n tokens width"],
    texts: TextStates,
    rows: Int[Tensor, " n"],
) -> Float[Tensor, "n joint_tokens joint_width"]:
    """The multimodal states of images with those rows of the texts."""
    return features.extractor.joint_states(
        image_states, texts.states[rows], texts.attention_mask[rows]
    )


def _decode(
    features: EmbeddedFeatures, codes: Int[Tensor, "n rows columns"]
) -> Float[Tensor, "n 3 height width"]:
    """What the codebook draws, in [0, 1]."""
    return features.model.codebook.decode(codes.to(features.extractor.device)).float().cpu()


def _share(right: Bool[Tensor, " n"]) -> float:
    return right.double().mean().item() if len(right) else 0.0


def _filled_in(
    features: EmbeddedFeatures,
    original: Float[Tensor, "n 3 h w"],
    codes: Int[Tensor, "n rows columns"],
    patch_mask: Bool[Tensor, "n rows columns"],
    predicted: Int[Tensor, " hidden"],
) -> Float[Tensor, "n 3 h w"]:
    """The originals with their hidden patches decoded from the predicted codes."""
    filled = codes.clone()
    filled[patch_mask] = predicted
    return paste(original, _decode(features, filled), patch_mask)


def _masked_texts(
    features: EmbeddedFeatures, split: str, rng: np.random.Generator, store: PictureStore
) -> Iterator[MaskedTextExample]:
    """Captions in which the evaluation's masks hide one or two tokens."""
    pairs, model = features.corpus.pairs(split), features.model
    hidden = hidden_tokens(pairs.captions, features.corpus.seed)
    blanks = hidden.sum(dim=1)
    short = ((blanks > 0) & (blanks <= BLANKS)).nonzero()[:, 0]
    rows = short[torch.from_numpy(rng.permutation(len(short))[:QUERIES])]
    texts = features.text_states(pairs.captions, hidden)
    images = features.image_states(pairs.pixels[rows])
    joint = _joint_states(features, images, texts, rows)
    for i, row in enumerate(rows.tolist()):
        token_mask, ids = hidden[row : row + 1], pairs.captions.input_ids[row]
        with_image = fill.mmm_text_logits(model, joint[i : i + 1], token_mask)
        states = texts.states[row : row + 1].to(features.extractor.device)
        without_image = fill.mlm_logits(model, states, token_mask)
        shown = ids.masked_fill(token_mask[0], bert_tokenizer().mask)[texts.attention_mask[row]]
        yield MaskedTextExample(
            picture=store.add(f"image-{row}", pairs.images[row]),
            sentence=bert_tokenizer().decode(shown[1:-1].tolist(), keep_special=True),
            blanks=tuple(
                MaskedTokenExample(
                    truth=bert_tokenizer().token(token),
                    with_image=_top(seen),
                    without_image=_top(unseen),
                )
                for token, seen, unseen in zip(
                    ids[token_mask[0]].tolist(), with_image, without_image, strict=True
                )
            ),
        )


def _top(logits: Float[Tensor, " vocabulary"]) -> tuple[tuple[str, float], ...]:
    """The likeliest tokens with their probabilities."""
    best = logits.softmax(dim=0).topk(SHOWN)
    return tuple(
        (bert_tokenizer().token(token), probability)
        for token, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )


def _reconstructions(
    features: EmbeddedFeatures, split: str, rng: np.random.Generator, store: PictureStore
) -> Iterator[tuple[str, str]]:
    pairs = features.corpus.pairs(split)
    rows = torch.from_numpy(rng.permutation(len(pairs))[: 2 * QUERIES])
    originals = unmap_pixels(pairs.codebook_pixels[rows])
    decoded = _decode(features, features.codes(split)[rows])
    for row, before, after in zip(rows.tolist(), originals, decoded, strict=True):
        yield store.add(f"codebook-{row}-seen", before), store.add(f"codebook-{row}-drawn", after)
