"""Predicts masked tokens of texts and masked patches of images with a model's pretraining heads.

The heads of one modality are given states of the encoders before their norms, those of both
modalities the multimodal encoder's states.
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
from flava.inference.encoding import InputGroups, pair_states
from flava.inference.features import FeatureExtractor
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


def mim_logits(
    model: Flava | MaskedImageModel,
    image_states: Float[Tensor, "batch tokens width"],
    patch_mask: Bool[Tensor, "batch rows columns"],
) -> Float[Tensor, "hidden codes"]:
    """Logits of the hidden patches, image by image, from the image alone."""
    states = image_states[:, 1:][patch_mask.flatten(1)]
    return model.mim_head(model.image_encoder.norm(states)).float()


def mmm_image_logits(
    model: Flava,
    joint_states: Float[Tensor, "batch tokens width"],
    patch_mask: Bool[Tensor, "batch rows columns"],
) -> Float[Tensor, "hidden codes"]:
    """Logits of the hidden patches, image by image, from image and text."""
    patches = patch_mask.flatten(1)
    return model.mmm_image_head(joint_states[:, 2 : 2 + patches.shape[1]][patches]).float()


def mlm_logits(
    model: Flava | MaskedTextModel,
    text_states: Float[Tensor, "batch tokens width"],
    token_mask: Bool[Tensor, "batch tokens"],
) -> Float[Tensor, "hidden vocabulary"]:
    """Logits of the hidden tokens, text by text, from the text alone."""
    return model.mlm_head(model.text_encoder.norm(text_states[token_mask])).float()


def mmm_text_logits(
    model: Flava,
    joint_states: Float[Tensor, "batch tokens width"],
    token_mask: Bool[Tensor, "batch length"],
) -> Float[Tensor, "hidden vocabulary"]:
    """Logits of the hidden tokens, text by text, from text and image."""
    return model.mmm_text_head(joint_states[:, -token_mask.shape[1] :][token_mask]).float()


MASK = "[MASK]"


def fill_mask(
    extractor: FeatureExtractor,
    inputs: InputGroups,
    texts: Sequence[str],
    images: ImagesLike | None,
    top: int,
) -> list[list[list[Candidate]]]:
    """See `Pretrained.fill_mask`."""
    processor = inputs.processor
    tokenizer = processor.tokenizer
    assert isinstance(tokenizer, Tokenizer)  # a FLAVA's
    input_ids = processor.input_ids(texts)
    _check_masks(texts, input_ids, tokenizer, processor.max_length)
    if not 1 <= top <= tokenizer.size:
        raise ValueError(f"top is {top}: use 1 to {tokenizer.size}, the size of the vocabulary")
    candidates: list[list[list[Candidate]]] = [[] for _ in input_ids]
    with extractor.computing():
        for indices, token_mask, logits in _mask_logits(
            extractor, inputs, input_ids, images, tokenizer.mask
        ):
            # An encoder's vocabulary may be padded beyond the tokeniser's.
            best = logits.softmax(dim=1)[:, : tokenizer.size].topk(top, dim=1)
            texts_of_masks = [indices[i] for i in token_mask.nonzero()[:, 0].tolist()]
            for text, tokens, probabilities in zip(
                texts_of_masks, best.indices.tolist(), best.values.tolist(), strict=True
            ):
                candidates[text].append(
                    [
                        Candidate(token=tokenizer.token(token), probability=probability)
                        for token, probability in zip(tokens, probabilities, strict=True)
                    ]
                )
    return candidates


def _mask_logits(
    extractor: FeatureExtractor,
    inputs: InputGroups,
    input_ids: Sequence[list[int]],
    images: ImagesLike | None,
    mask_id: int,
) -> Iterator[tuple[list[int], Bool[Tensor, "batch length"], Float[Tensor, "masks vocabulary"]]]:
    """For each group of texts: their indices, where their masks are, the logits of each mask."""
    model = extractor.model
    if images is None:
        for group in inputs.texts(input_ids):
            token_mask = group.input_ids == mask_id
            states = extractor.text_states(group.input_ids, group.attention_mask)
            yield group.indices, token_mask, mlm_logits(model, states, token_mask)
    else:
        for pairs in inputs.pairs(images, input_ids):
            token_mask = pairs.input_ids == mask_id
            states = pair_states(extractor, pairs).joint
            yield pairs.indices, token_mask, mmm_text_logits(model, states, token_mask)


def _check_masks(
    texts: Sequence[str], input_ids: Sequence[list[int]], tokenizer: Tokenizer, max_length: int
) -> None:
    """Raises ValueError, naming every text that has no [MASK], or one that was cut off."""
    mistakes = []
    for i, (text, ids) in enumerate(zip(texts, input_ids, strict=True)):
        kept = ids.count(tokenizer.mask)
        if kept < tokenizer.encode(text, sys.maxsize).count(tokenizer.mask):
            mistakes.append(f"texts[{i}]: a {MASK} is beyond {max_length} tokens: shorten the text")
        elif not kept:
            mistakes.append(
                f"texts[{i}]: no {MASK} in {text!r:.60}: write it where a word is to come"
            )
    if mistakes:
        raise ValueError(f"some texts have no {MASK} to fill:\n  " + "\n  ".join(mistakes))


def reconstruct(
    extractor: FeatureExtractor,
    inputs: InputGroups,
    images: ImagesLike,
    texts: Sequence[str] | None,
    mask: Bool[Tensor, "*images rows columns"] | None,
    seed: int,
) -> list[Reconstruction]:
    """See `Pretrained.reconstruct`."""
    images = image_list(images)
    patch_mask = _patches_to_hide(inputs.grid, len(images), mask, seed)
    codebook = extractor.model.codebook
    reconstructions: dict[int, Reconstruction] = {}
    with extractor.computing():
        for indices, codebook_pixels, logits in _patch_logits(
            extractor, inputs, images, texts, patch_mask
        ):
            hidden = patch_mask[indices].to(extractor.device)
            codes = codebook.codes(codebook_pixels)
            codes[hidden] = logits.argmax(dim=1)
            original, decoded = unmap_pixels(codebook_pixels), codebook.decode(codes)
            grey = torch.full_like(original, HIDDEN_GREY)
            masked, filled = paste(original, grey, hidden), paste(original, decoded, hidden)
            for index, *pixels in zip(indices, original, masked, filled, strict=True):
                pictures = [to_picture(each) for each in pixels]
                reconstructions[index] = Reconstruction(
                    original=pictures[0],
                    masked=pictures[1],
                    filled=pictures[2],
                    mask=patch_mask[index],
                )
    return [reconstructions[index] for index in range(len(images))]


def _patch_logits(
    extractor: FeatureExtractor,
    inputs: InputGroups,
    images: ImagesLike,
    texts: Sequence[str] | None,
    patch_mask: Bool[Tensor, "images rows columns"],
) -> Iterator[tuple[list[int], Float[Tensor, "batch 3 h w"], Float[Tensor, "hidden codes"]]]:
    """For each group of images: indices, the codebook's pixels, the logits of each hidden patch."""
    model, view = extractor.model, inputs.processor.codebook
    assert view is not None  # a FLAVA's
    if texts is None:
        for group in inputs.images(images, view):
            hidden = patch_mask[group.indices].to(extractor.device)
            states = extractor.image_states(group.pixels[0], hidden)
            yield group.indices, group.pixels[1], mim_logits(model, states, hidden)
    else:
        input_ids = inputs.processor.input_ids(texts)
        for pairs in inputs.pairs(images, input_ids, view):
            hidden = patch_mask[pairs.indices].to(extractor.device)
            states = pair_states(extractor, pairs, hidden).joint
            yield pairs.indices, pairs.pixels[1], mmm_image_logits(model, states, hidden)


def _patches_to_hide(
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
