"""What the heads predict: hidden patches, hidden tokens, whether a pair matches.

States are those of the encoders before their norms; a joint state is the multimodal encoder's.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from flava.model import Flava, MaskedImage, MaskedText


def patches_alone(
    model: Flava | MaskedImage,
    image: Float[Tensor, "batch tokens width"],
    selected: Bool[Tensor, "batch r c"],
) -> Float[Tensor, "hidden codes"]:
    """Logits of the hidden patches, image by image, from the image alone (MIM)."""
    states = image[:, 1:][selected.flatten(1)]
    return model.mim_head(model.image_encoder.norm(states)).float()


def patches_jointly(
    model: Flava, joint: Float[Tensor, "batch tokens width"], selected: Bool[Tensor, "batch r c"]
) -> Float[Tensor, "hidden codes"]:
    """Logits of the hidden patches, image by image, from image and text (MMM)."""
    patches = selected.flatten(1)
    return model.mmm_image_head(joint[:, 2 : 2 + patches.shape[1]][patches]).float()


def tokens_alone(
    model: Flava | MaskedText,
    text: Float[Tensor, "batch tokens width"],
    selected: Bool[Tensor, "batch tokens"],
) -> Float[Tensor, "hidden vocabulary"]:
    """Logits of the hidden tokens, text by text, from the text alone (MLM)."""
    return model.mlm_head(model.text_encoder.norm(text[selected])).float()


def tokens_jointly(
    model: Flava, joint: Float[Tensor, "batch tokens width"], selected: Bool[Tensor, "batch length"]
) -> Float[Tensor, "hidden vocabulary"]:
    """Logits of the hidden tokens, text by text, from text and image (MMM)."""
    return model.mmm_text_head(joint[:, -selected.shape[1] :][selected]).float()


def matching_scores(
    model: Flava, joint: Float[Tensor, "batch tokens width"]
) -> Float[Tensor, " batch"]:
    """The matching head's logit of "matched" over "mismatched"."""
    logits = model.itm_head(joint).float()
    return logits[:, 1] - logits[:, 0]
