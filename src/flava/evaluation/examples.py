"""What the report shows of a model: samples drawn by the seed, never picked by hand."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from flava.batch import unmap_pixels
from flava.data.seeding import generator
from flava.evaluation import predictions
from flava.evaluation.held_out import Pairs, tokenizer
from flava.evaluation.masked import hidden_tokens, patch_masks
from flava.evaluation.record import (
    Blank,
    Examples,
    MaskedImage,
    MaskedText,
    Pictures,
    Ranked,
)
from flava.evaluation.retrieval import ranks
from flava.evaluation.subject import Subject, evaluating

QUERIES = 8
"""Samples of each kind of example."""
SHOWN = 5
"""Retrieved items, and fillings of a hidden token, that are shown."""
HIDDEN_GREY = 0.6
"""The grey, of [0, 1], that stands for a hidden patch."""


class Album:
    """Pictures by name, each stored once."""

    def __init__(self) -> None:
        self.pictures: dict[str, Image.Image] = {}

    def add(self, name: str, picture: Image.Image | Float[Tensor, "3 h w"]) -> str:
        """Store a picture, or pixels in [0, 1], and return the name."""
        if isinstance(picture, Tensor):
            eight_bits = (picture.float().clamp(0, 1) * 255).round().byte()
            picture = Image.fromarray(eight_bits.permute(1, 2, 0).cpu().numpy())
        self.pictures[name] = picture
        return name


def draw_examples(subject: Subject, split: str = "unseen_style") -> tuple[Examples, Pictures]:
    """Examples of everything that can be looked at, and the pictures they name."""
    album = Album()
    pairs = subject.held_out.pairs(split)
    rng = generator(subject.held_out.seed, 0, "examples")
    rows = torch.from_numpy(rng.permutation(len(pairs))[:QUERIES])
    with evaluating(subject.model):
        return Examples(
            images_for_captions=tuple(images_for_captions(subject, split, rows, album)),
            captions_for_images=tuple(captions_for_images(subject, split, rows, album)),
            masked_images=tuple(masked_images(subject, pairs, rows, album)),
            masked_texts=tuple(masked_texts(subject, pairs, rng, album)),
            reconstructions=tuple(reconstructions(subject, pairs, rng, album)),
        ), album.pictures


def images_for_captions(
    subject: Subject, split: str, rows: Int[Tensor, " rows"], album: Album
) -> Iterator[Ranked]:
    texts, images = subject.caption_embeddings(split), subject.image_embeddings(split)
    pairs = subject.held_out.pairs(split)
    for row, order, rank in nearest(texts, images, pairs, rows):
        yield Ranked(
            picture=album.add(f"image-{row}", pairs.images[row]),
            caption=pairs.captions.texts[row],
            results=tuple(album.add(f"image-{i}", pairs.images[i]) for i in order),
            right=tuple(pairs.concepts[i] == pairs.concepts[row] for i in order),
            rank=rank,
            candidates=len(pairs),
        )


def captions_for_images(
    subject: Subject, split: str, rows: Int[Tensor, " rows"], album: Album
) -> Iterator[Ranked]:
    texts, images = subject.caption_embeddings(split), subject.image_embeddings(split)
    pairs = subject.held_out.pairs(split)
    for row, order, rank in nearest(images, texts, pairs, rows):
        yield Ranked(
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
    pairs: Pairs,
    rows: Int[Tensor, " rows"],
) -> Iterator[tuple[int, list[int], int]]:
    """For each row: itself, the best candidates, and the rank from 1 of the first right one."""
    ids = pairs.concept_ids
    places = ranks(queries[rows].numpy(), gallery.numpy(), ids[rows.numpy()], ids)
    best = (queries[rows] @ gallery.T).topk(min(SHOWN, len(pairs)), dim=1).indices
    for row, order, place in zip(rows.tolist(), best.tolist(), places.tolist(), strict=True):
        yield row, order, place + 1


def masked_images(
    subject: Subject, pairs: Pairs, rows: Int[Tensor, " rows"], album: Album
) -> Iterator[MaskedImage]:
    """The hidden patches as the codebook draws the codes that the model predicts for them."""
    model, device = subject.model, subject.device
    selected = patch_masks(pairs, subject.held_out.seed)[rows]
    pixels = pairs.pixels[rows].to(device)
    seen = pairs.codebook_pixels[rows].to(device)
    codes = model.codebook.codes(seen)
    truth = codes[selected]
    alone = predictions.patches_alone(model, pixels, selected).argmax(dim=1)
    tokens = subject.tokens(pairs.captions, rows)
    with_text = predictions.patches_with_text(model, pixels, selected, *tokens).argmax(dim=1)
    original = unmap_pixels(seen)
    grey = torch.full_like(original, HIDDEN_GREY)
    drawn = {
        "original": original,
        "masked": paste(original, grey, selected),
        "codes": model.codebook.decode(codes),
        "alone": filled_in(subject, original, codes, selected, alone),
        "caption": filled_in(subject, original, codes, selected, with_text),
    }
    which = selected.nonzero()[:, 0]
    for i, row in enumerate(rows.tolist()):
        name = {kind: album.add(f"masked-{row}-{kind}", drawn[kind][i]) for kind in drawn}
        hits = [share(guess[which == i] == truth[which == i]) for guess in (alone, with_text)]
        yield MaskedImage(
            caption=pairs.captions.texts[row],
            original=name["original"],
            masked=name["masked"],
            reconstruction=name["codes"],
            filled_alone=name["alone"],
            filled_with_caption=name["caption"],
            right_alone=hits[0],
            right_with_caption=hits[1],
        )


def share(right: Bool[Tensor, " n"]) -> float:
    return right.double().mean().item() if len(right) else 0.0


def filled_in(
    subject: Subject,
    original: Float[Tensor, "n 3 h w"],
    codes: Int[Tensor, "n rows columns"],
    selected: Bool[Tensor, "n rows columns"],
    guesses: Int[Tensor, " hidden"],
) -> Float[Tensor, "n 3 h w"]:
    """The originals with their hidden patches decoded from the guessed codes."""
    guessed = codes.clone()
    guessed[selected] = guesses
    return paste(original, subject.model.codebook.decode(guessed), selected)


def paste(
    below: Float[Tensor, "n 3 h w"],
    above: Float[Tensor, "n 3 h w"],
    selected: Bool[Tensor, "n rows columns"],
) -> Float[Tensor, "n 3 h w"]:
    """``above`` at the selected patches, ``below`` elsewhere."""
    size = below.shape[-1] // selected.shape[-1]
    mask = selected.repeat_interleave(size, dim=1).repeat_interleave(size, dim=2)
    return torch.where(mask[:, None].to(below.device), above, below)


def masked_texts(
    subject: Subject, pairs: Pairs, rng: np.random.Generator, album: Album
) -> Iterator[MaskedText]:
    """Captions with hidden tokens, among those in which the evaluation's masks hide any."""
    captions, model = pairs.captions, subject.model
    hidden = hidden_tokens(captions, subject.held_out.seed)
    with_any = hidden.any(dim=1).nonzero()[:, 0]
    rows = with_any[torch.from_numpy(rng.permutation(len(with_any))[:QUERIES])]
    for row in rows.tolist():
        only = torch.tensor([row])
        ids, real = subject.tokens(captions, only)
        selected = hidden[only, : ids.shape[1]].to(ids.device)
        pixels = pairs.pixels[only].to(subject.device)
        seeing = predictions.tokens_with_image(model, pixels, ids, real, selected)
        blind = predictions.tokens_alone(model, ids, real, selected)
        yield MaskedText(
            picture=album.add(f"image-{row}", pairs.images[row]),
            sentence=tokenizer().decode(
                ids.masked_fill(selected, tokenizer().mask)[0, 1:-1].tolist(), keep_special=True
            ),
            blanks=tuple(
                Blank(truth=tokenizer().token(t), with_image=top(s), without_image=top(b))
                for t, s, b in zip(ids[selected].tolist(), seeing, blind, strict=True)
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
    subject: Subject, pairs: Pairs, rng: np.random.Generator, album: Album
) -> Iterator[tuple[str, str]]:
    rows = rng.permutation(len(pairs))[: 2 * QUERIES]
    pixels = pairs.codebook_pixels[torch.from_numpy(rows)].to(subject.device)
    decoded = subject.model.codebook.decode(subject.model.codebook.codes(pixels))
    for row, seen, drawn in zip(rows.tolist(), unmap_pixels(pixels), decoded, strict=True):
        yield album.add(f"codebook-{row}-seen", seen), album.add(f"codebook-{row}-drawn", drawn)
