"""What the heads predict: hidden patches, hidden tokens, whether a pair matches."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from flava.evaluation.held_out import tokenizer
from flava.model import Flava


def patches_alone(
    model: Flava, pixels: Float[Tensor, "batch 3 h w"], selected: Bool[Tensor, "batch rows columns"]
) -> Float[Tensor, "hidden codes"]:
    """Logits of the hidden patches, row by row, from the image alone (MIM)."""
    encoder = model.image_encoder
    patches = encoder(pixels, selected)[:, 1:]
    return model.mim_head(encoder.norm(patches[selected.flatten(1)])).float()


def patches_with_text(
    model: Flava,
    pixels: Float[Tensor, "batch 3 h w"],
    selected: Bool[Tensor, "batch rows columns"],
    ids: Int[Tensor, "batch length"],
    real: Bool[Tensor, "batch length"],
) -> Float[Tensor, "hidden codes"]:
    """Logits of the hidden patches, with the whole text (MMM)."""
    image = model.image_encoder(pixels, selected)
    states = model.multimodal(image, model.text_encoder(ids, real), real)
    patches = states[:, 2 : 1 + image.shape[1]]
    return model.mmm_image_head(patches[selected.flatten(1)]).float()


def tokens_alone(
    model: Flava,
    ids: Int[Tensor, "batch length"],
    real: Bool[Tensor, "batch length"],
    selected: Bool[Tensor, "batch length"],
) -> Float[Tensor, "hidden vocabulary"]:
    """Logits of the hidden tokens from the text alone (MLM)."""
    encoder = model.text_encoder
    masked = ids.masked_fill(selected, tokenizer().mask)
    return model.mlm_head(encoder.norm(encoder(masked, real)[selected])).float()


def tokens_with_image(
    model: Flava,
    pixels: Float[Tensor, "batch 3 h w"],
    ids: Int[Tensor, "batch length"],
    real: Bool[Tensor, "batch length"],
    selected: Bool[Tensor, "batch length"],
) -> Float[Tensor, "hidden vocabulary"]:
    """Logits of the hidden tokens, with the whole image (MMM)."""
    image = model.image_encoder(pixels)
    text = model.text_encoder(ids.masked_fill(selected, tokenizer().mask), real)
    tokens = model.multimodal(image, text, real)[:, 1 + image.shape[1] :]
    return model.mmm_text_head(tokens[selected]).float()


def matching_scores(
    model: Flava,
    pixels: Float[Tensor, "batch 3 h w"],
    ids: Int[Tensor, "batch length"],
    real: Bool[Tensor, "batch length"],
) -> Float[Tensor, " batch"]:
    """The matching head's logit of "matched" over "mismatched"."""
    states = model.multimodal(model.image_encoder(pixels), model.text_encoder(ids, real), real)
    logits = model.itm_head(states).float()
    return logits[:, 1] - logits[:, 0]
