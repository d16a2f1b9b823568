"""What the model fills in where something is hidden: tokens of texts, patches of images.

States are those of the encoders before their norms; a joint state is the multimodal encoder's.
"""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from flava.core.batch import unmap_pixels
from flava.core.randomness import random_generator
from flava.data.masking import blockwise_mask
from flava.data.tokenizers import Tokenizer
from flava.inference.encoding import Passes
from flava.inference.processor import ImagesLike, image_list
from flava.inference.results import Candidate, Reconstruction
from flava.models import Flava, MaskedImageModel, MaskedTextModel

HIDDEN_GREY = 0.6
"""The grey, of [0, 1], that stands for a hidden patch."""


def to_picture(pixels: Float[Tensor, "3 height width"]) -> Image.Image:
    """Pixels in [0, 1] as an image; what is outside is clamped."""
    eight_bits = (pixels.float().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(eight_bits.permute(1, 2, 0).cpu().numpy())


def paste(
    below: Float[Tensor, "n 3 h w"],
    above: Float[Tensor, "n 3 h w"],
    patch_mask: Bool[Tensor, "n rows columns"],
) -> Float[Tensor, "n 3 h w"]:
    """``above`` at the selected patches, ``below`` elsewhere."""
    size = below.shape[-1] // patch_mask.shape[-1]
    mask = patch_mask.repeat_interleave(size, dim=1).repeat_interleave(size, dim=2)
    return torch.where(mask[:, None], above, below)


def patches_alone(
    model: Flava | MaskedImageModel,
    image: Float[Tensor, "batch tokens width"],
    patch_mask: Bool[Tensor, "batch r c"],
) -> Float[Tensor, "hidden codes"]:
    """Logits of the hidden patches, image by image, from the image alone (MIM)."""
    states = image[:, 1:][patch_mask.flatten(1)]
    return model.mim_head(model.image_encoder.norm(states)).float()


def patches_jointly(
    model: Flava, joint: Float[Tensor, "batch tokens width"], patch_mask: Bool[Tensor, "batch r c"]
) -> Float[Tensor, "hidden codes"]:
    """Logits of the hidden patches, image by image, from image and text (MMM)."""
    patches = patch_mask.flatten(1)
    return model.mmm_image_head(joint[:, 2 : 2 + patches.shape[1]][patches]).float()


def tokens_alone(
    model: Flava | MaskedTextModel,
    text: Float[Tensor, "batch tokens width"],
    token_mask: Bool[Tensor, "batch tokens"],
) -> Float[Tensor, "hidden vocabulary"]:
    """Logits of the hidden tokens, text by text, from the text alone (MLM)."""
    return model.mlm_head(model.text_encoder.norm(text[token_mask])).float()


def tokens_jointly(
    model: Flava,
    joint: Float[Tensor, "batch tokens width"],
    token_mask: Bool[Tensor, "batch length"],
) -> Float[Tensor, "hidden vocabulary"]:
    """Logits of the hidden tokens, text by text, from text and image (MMM)."""
    return model.mmm_text_head(joint[:, -token_mask.shape[1] :][token_mask]).float()


def matching_scores(
    model: Flava, joint: Float[Tensor, "batch tokens width"]
) -> Float[Tensor, " batch"]:
    """The matching head's logit of "matched" over "mismatched"."""
    logits = model.itm_head(joint).float()
    return logits[:, 1] - logits[:, 0]


MASK = "[MASK]"


def fill_mask(
    model: Flava, passes: Passes, texts: Sequence[str], images: ImagesLike | None, top: int
) -> list[list[list[Candidate]]]:
    """See `Pretrained.fill_mask`."""
    tokenizer = passes.processor.tokenizer
    assert isinstance(tokenizer, Tokenizer)  # a FLAVA's
    input_ids = passes.processor.input_ids(texts)
    check_masks(texts, input_ids, tokenizer, passes.processor.max_length)
    if not 1 <= top <= tokenizer.size:
        raise ValueError(f"top is {top}: use 1 to {tokenizer.size}, the size of the vocabulary")
    found: list[list[list[Candidate]]] = [[] for _ in input_ids]
    with passes.computing():
        for rows, token_mask, logits in mask_logits(
            model, passes, input_ids, images, tokenizer.mask
        ):
            # An encoder's vocabulary may be padded beyond the tokeniser's.
            best = logits.softmax(dim=1)[:, : tokenizer.size].topk(top, dim=1)
            places = [rows[i] for i in token_mask.nonzero()[:, 0].tolist()]
            for row, tokens, odds in zip(
                places, best.indices.tolist(), best.values.tolist(), strict=True
            ):
                found[row].append(
                    [
                        Candidate(token=tokenizer.token(token), probability=probability)
                        for token, probability in zip(tokens, odds, strict=True)
                    ]
                )
    return found


def mask_logits(
    model: Flava,
    passes: Passes,
    input_ids: Sequence[list[int]],
    images: ImagesLike | None,
    mask: int,
) -> Iterator[tuple[list[int], Bool[Tensor, "batch length"], Float[Tensor, "masks vocabulary"]]]:
    """For groups of texts: their rows, where their masks are, and each mask's logits."""
    if images is None:
        for text in passes.texts(input_ids):
            hidden, token_mask = (
                model.text_encoder(text.input_ids, text.attention_mask),
                text.input_ids == mask,
            )
            yield text.rows, token_mask, tokens_alone(model, hidden, token_mask)
    else:
        for pair in passes.pairs(model, images, input_ids):
            token_mask = pair.input_ids == mask
            yield pair.rows, token_mask, tokens_jointly(model, pair.joint, token_mask)


def check_masks(
    texts: Sequence[str], input_ids: Sequence[list[int]], tokenizer: Tokenizer, max_length: int
) -> None:
    """Raises ValueError, naming every text that has no [MASK], or one that was cut off."""
    wrong = []
    for i, (text, own) in enumerate(zip(texts, input_ids, strict=True)):
        kept = own.count(tokenizer.mask)
        if kept < tokenizer.encode(text, sys.maxsize).count(tokenizer.mask):
            wrong.append(f"texts[{i}]: a {MASK} is beyond {max_length} tokens: shorten the text")
        elif not kept:
            wrong.append(f"texts[{i}]: no {MASK} in {text!r:.60}: write it where a word is to come")
    if wrong:
        raise ValueError(f"some texts have no {MASK} to fill:\n  " + "\n  ".join(wrong))


def reconstruct(
    model: Flava,
    passes: Passes,
    images: ImagesLike,
    texts: Sequence[str] | None,
    mask: Bool[Tensor, "*images rows columns"] | None,
    seed: int,
) -> list[Reconstruction]:
    """See `Pretrained.reconstruct`."""
    images = image_list(images)
    patch_mask = patches_to_hide(passes.grid, len(images), mask, seed)
    done: list[Reconstruction | None] = [None] * len(images)
    with passes.computing():
        for rows, codebook_pixels, logits in patch_logits(model, passes, images, texts, patch_mask):
            hidden = patch_mask[rows].to(passes.device)
            codes = model.codebook.codes(codebook_pixels)
            codes[hidden] = logits.argmax(dim=1)
            original, decoded = unmap_pixels(codebook_pixels), model.codebook.decode(codes)
            grey = torch.full_like(original, HIDDEN_GREY)
            drawn = (original, paste(original, grey, hidden), paste(original, decoded, hidden))
            for row, *three in zip(rows, *drawn, strict=True):
                seen, masked, filled = map(to_picture, three)
                done[row] = Reconstruction(
                    original=seen, masked=masked, filled=filled, mask=patch_mask[row]
                )
    return [each for each in done if each is not None]


def patch_logits(
    model: Flava,
    passes: Passes,
    images: ImagesLike,
    texts: Sequence[str] | None,
    patch_mask: Bool[Tensor, "images rows columns"],
) -> Iterator[tuple[list[int], Float[Tensor, "batch 3 h w"], Float[Tensor, "hidden codes"]]]:
    """For groups of images: their rows, the codebook's pixels, each hidden patch's logits."""
    view = passes.processor.codebook
    assert view is not None  # a FLAVA's
    if texts is None:
        for image in passes.images(images, view):
            hidden = patch_mask[image.rows].to(passes.device)
            states = model.image_encoder(image.pixels[0], hidden)
            yield image.rows, image.pixels[1], patches_alone(model, states, hidden)
    else:
        input_ids = passes.processor.input_ids(texts)
        for pair in passes.pairs(model, images, input_ids, view, patch_mask=patch_mask):
            hidden = patch_mask[pair.rows].to(passes.device)
            logits = patches_jointly(model, pair.joint, hidden)
            yield pair.rows, pair.pixels[1], logits


def patches_to_hide(
    grid: tuple[int, int],
    count: int,
    mask: Bool[Tensor, "*images rows columns"] | None,
    seed: int,
) -> Bool[Tensor, "images rows columns"]:
    """The given mask, for each image; or blocks drawn for each by the seed, as in pretraining.

    Raises:
        ValueError: the mask is not of the images' patches.
    """
    if mask is None:
        drawn = [
            blockwise_mask(random_generator(seed, i, "reconstruct"), *grid) for i in range(count)
        ]
        return torch.from_numpy(np.stack(drawn)) if drawn else torch.zeros(0, *grid).bool()
    if mask.shape not in (grid, (count, *grid)):
        raise ValueError(
            f"the mask's shape is {list(mask.shape)}: give {list(grid)}, rows and columns of "
            f"patches, or {[count, *grid]}, one for each image"
        )
    return mask.cpu().expand(count, *grid)
