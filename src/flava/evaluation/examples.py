"""What the report shows of a model: samples drawn by the seed, never picked by hand."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from flava.core.batch import unmap_pixels
from flava.core.randomness import random_generator
from flava.evaluation.embedded_data import EmbeddedPairs, tokenizer
from flava.evaluation.features import BOTH, EvaluatedModel, TextStates, missing_parts
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
from flava.inference.fill import HIDDEN_GREY, paste, to_picture

QUERIES = 8
"""Samples of each kind of example."""
BLANKS = 2
"""Hidden tokens of a caption that is shown, at most."""
SHOWN = 5
"""Retrieved items, and fillings of a hidden token, that are shown."""


class Album:
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
    subject: EvaluatedModel, split: str = "unseen_style"
) -> tuple[Examples, Pictures]:
    """Examples of everything that the model has the parts for, and the pictures they name."""
    album, has = Album(), missing_parts(subject.model).isdisjoint
    pairs = subject.held_out.pairs(split)
    rng = random_generator(subject.held_out.seed, 0, "examples")
    rows = torch.from_numpy(rng.permutation(len(pairs))[:QUERIES])
    examples = Examples(
        images_for_captions=tuple(
            images_for_captions(subject, split, rows, album) if has(BOTH) else ()
        ),
        captions_for_images=tuple(
            captions_for_images(subject, split, rows, album) if has(BOTH) else ()
        ),
        masked_images=tuple(
            masked_images(subject, split, rows, album) if has(MASKED_IMAGES) else ()
        ),
        masked_texts=tuple(masked_texts(subject, split, rng, album) if has(MASKED_TEXTS) else ()),
        reconstructions=tuple(reconstructions(subject, split, rng, album) if has(CODEBOOK) else ()),
    )
    return examples, album.pictures


def images_for_captions(
    subject: EvaluatedModel, split: str, rows: Int[Tensor, " rows"], album: Album
) -> Iterator[RankedExample]:
    texts, images = subject.caption_embeddings(split), subject.image_embeddings(split)
    pairs = subject.held_out.pairs(split)
    for row, order, rank in nearest(texts, images, pairs, rows):
        yield RankedExample(
            picture=album.add(f"image-{row}", pairs.images[row]),
            caption=pairs.captions.texts[row],
            results=tuple(album.add(f"image-{i}", pairs.images[i]) for i in order),
            right=tuple(pairs.concepts[i] == pairs.concepts[row] for i in order),
            rank=rank,
            candidates=len(pairs),
        )


def captions_for_images(
    subject: EvaluatedModel, split: str, rows: Int[Tensor, " rows"], album: Album
) -> Iterator[RankedExample]:
    texts, images = subject.caption_embeddings(split), subject.image_embeddings(split)
    pairs = subject.held_out.pairs(split)
    for row, order, rank in nearest(images, texts, pairs, rows):
        yield RankedExample(
            picture=album.add(f"image-{row}", pairs.images[row]),
            caption=pairs.captions.texts[row],
            results=tuple(pairs.captions.texts[i] for i in order),
            right=tuple(pairs.concepts[i] == pairs.concepts[row] for i in order),
            rank=rank,
            candidates=len(pairs),
        )


def nearest(
    queries: Float[Tensor, "n width"],
    gallery: Float[Tensor, "n width"],
    pairs: EmbeddedPairs,
    rows: Int[Tensor, " rows"],
) -> Iterator[tuple[int, list[int], int]]:
    """For each row: itself, the best candidates, and the rank from 1 of the first right one."""
    ids = pairs.concept_ids
    places = ranks(queries[rows].numpy(), gallery.numpy(), ids[rows.numpy()], ids)
    best = (queries[rows] @ gallery.T).topk(min(SHOWN, len(pairs)), dim=1).indices
    for row, order, place in zip(rows.tolist(), best.tolist(), places.tolist(), strict=True):
        yield row, order, place + 1


def masked_images(
    subject: EvaluatedModel, split: str, rows: Int[Tensor, " rows"], album: Album
) -> Iterator[MaskedImageExample]:
    """The hidden patches as the codebook draws the codes that the model predicts for them."""
    model, pairs = subject.flava, subject.held_out.pairs(split)
    patch_mask = patch_masks(pairs, subject.held_out.seed)[rows]
    states = subject.image_states(pairs.pixels[rows], patch_mask)
    alone = fill.patches_alone(model, states.to(subject.device), patch_mask).argmax(dim=1).cpu()
    texts = subject.text_states(pairs.captions)
    joint = jointly(subject, states, texts, rows)
    with_text = fill.patches_jointly(model, joint, patch_mask).argmax(dim=1).cpu()
    codes = subject.codes(split)[rows]
    truth = codes[patch_mask]
    seen = pairs.codebook_pixels[rows]
    original = unmap_pixels(seen)
    grey = torch.full_like(original, HIDDEN_GREY)
    drawn = {
        "original": original,
        "masked": paste(original, grey, patch_mask),
        "codes": decode(subject, codes),
        "alone": filled_in(subject, original, codes, patch_mask, alone),
        "caption": filled_in(subject, original, codes, patch_mask, with_text),
    }
    which = patch_mask.nonzero()[:, 0]
    for i, row in enumerate(rows.tolist()):
        name = {kind: album.add(f"masked-{row}-{kind}", drawn[kind][i]) for kind in drawn}
        hits = [share(guess[which == i] == truth[which == i]) for guess in (alone, with_text)]
        yield MaskedImageExample(
            caption=pairs.captions.texts[row],
            original=name["original"],
            masked=name["masked"],
            reconstruction=name["codes"],
            filled_alone=name["alone"],
            filled_with_caption=name["caption"],
            right_alone=hits[0],
            right_with_caption=hits[1],
        )


def jointly(
    subject: EvaluatedModel,
    images: Float[Tensor, "n tokens width"],
    texts: TextStates,
    rows: Int[Tensor, " n"],
) -> Float[Tensor, "n joint_tokens joint_width"]:
    """The multimodal states of images with those rows of the texts."""
    inputs = (images, texts.hidden[rows], texts.attention_mask[rows])
    return subject.flava.multimodal(*(each.to(subject.device) for each in inputs))


def decode(
    subject: EvaluatedModel, codes: Int[Tensor, "n rows columns"]
) -> Float[Tensor, "n 3 height width"]:
    """What the codebook draws, in [0, 1]."""
    return subject.flava.codebook.decode(codes.to(subject.device)).float().cpu()


def share(right: Bool[Tensor, " n"]) -> float:
    return right.double().mean().item() if len(right) else 0.0


def filled_in(
    subject: EvaluatedModel,
    original: Float[Tensor, "n 3 h w"],
    codes: Int[Tensor, "n rows columns"],
    patch_mask: Bool[Tensor, "n rows columns"],
    guesses: Int[Tensor, " hidden"],
) -> Float[Tensor, "n 3 h w"]:
    """The originals with their hidden patches decoded from the guessed codes."""
    guessed = codes.clone()
    guessed[patch_mask] = guesses
    return paste(original, decode(subject, guessed), patch_mask)


def masked_texts(
    subject: EvaluatedModel, split: str, rng: np.random.Generator, album: Album
) -> Iterator[MaskedTextExample]:
    """Captions in which the evaluation's masks hide one or two tokens."""
    pairs, model = subject.held_out.pairs(split), subject.flava
    hidden = hidden_tokens(pairs.captions, subject.held_out.seed)
    blanks = hidden.sum(dim=1)
    short = ((blanks > 0) & (blanks <= BLANKS)).nonzero()[:, 0]
    rows = short[torch.from_numpy(rng.permutation(len(short))[:QUERIES])]
    texts = subject.text_states(pairs.captions, hidden)
    images = subject.image_states(pairs.pixels[rows])
    joint = jointly(subject, images, texts, rows)
    for i, row in enumerate(rows.tolist()):
        token_mask, ids = hidden[row : row + 1], pairs.captions.input_ids[row]
        seeing = fill.tokens_jointly(model, joint[i : i + 1], token_mask)
        blind = fill.tokens_alone(model, texts.hidden[row : row + 1].to(subject.device), token_mask)
        shown = ids.masked_fill(token_mask[0], tokenizer().mask)[texts.attention_mask[row]]
        yield MaskedTextExample(
            picture=album.add(f"image-{row}", pairs.images[row]),
            sentence=tokenizer().decode(shown[1:-1].tolist(), keep_special=True),
            blanks=tuple(
                MaskedTokenExample(
                    truth=tokenizer().token(t), with_image=top(s), without_image=top(b)
                )
                for t, s, b in zip(ids[token_mask[0]].tolist(), seeing, blind, strict=True)
            ),
        )


def top(logits: Float[Tensor, " vocabulary"]) -> tuple[tuple[str, float], ...]:
    """The likeliest tokens with their probabilities."""
    best = logits.softmax(dim=0).topk(SHOWN)
    return tuple(
        (tokenizer().token(token), probability)
        for token, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )


def reconstructions(
    subject: EvaluatedModel, split: str, rng: np.random.Generator, album: Album
) -> Iterator[tuple[str, str]]:
    pairs = subject.held_out.pairs(split)
    rows = torch.from_numpy(rng.permutation(len(pairs))[: 2 * QUERIES])
    seen = unmap_pixels(pairs.codebook_pixels[rows])
    drawn = decode(subject, subject.codes(split)[rows])
    for row, before, after in zip(rows.tolist(), seen, drawn, strict=True):
        yield album.add(f"codebook-{row}-seen", before), album.add(f"codebook-{row}-drawn", after)
