"""Shared by both layouts of CLIP: builds a `Clip` and loads published weights into it."""

from collections.abc import Collection

from flava.checkpoints.layout import (
    Checkpoint,
    KeyMapping,
    empty_model,
    load_weights,
    published_keys,
    raise_if_any,
    split_qkv,
)
from flava.core.constraints import config_errors
from flava.models.clip import Clip, ClipConfig, ClipImageConfig, ClipTextConfig

QUERY_KEY_VALUE = split_qkv("q_proj", "k_proj", "v_proj")
"""As transformers' CLIP names query, key and value; OpenAI's CLIP holds them in one, as ours."""


def empty_clip(
    checkpoint: Checkpoint, *, image: ClipImageConfig, text: ClipTextConfig, projection_width: int
) -> Clip:
    """A CLIP with uninitialised weights.

    Raises:
        ValueError: no encoder of ours can have this geometry.
    """
    errors = config_errors(image, "image.") + config_errors(text, "text.")
    raise_if_any(errors, f"the geometry of {checkpoint.origin} does not hold")
    config = ClipConfig(image=image, text=text, projection_width=projection_width)
    return empty_model(lambda: Clip(config))


def load_clip(
    model: Clip,
    checkpoint: Checkpoint,
    *,
    cls: str,
    positions: str,
    transposed: Collection[str],
    mapping: KeyMapping,
    ignored: Collection[str],
) -> Clip:
    """The model with the weights of the checkpoint, in evaluation mode.

    Args:
        cls, positions: keys of the image encoder's class and position embeddings, which have
            fewer dimensions than ours.
        transposed: keys of matrices that are stored transposed. The mapping has them with
            " (transposed)" at the end, so that errors say it.
        ignored: keys that may be there and are not read.

    Raises:
        ValueError: as `load_weights`.
    """
    state_dict = {
        f"{key} (transposed)" if key in transposed else key: (
            tensor.T if key in transposed else tensor
        )
        for key, tensor in checkpoint.state_dict.items()
    }
    state_dict[cls] = state_dict[cls][None, None]
    state_dict[positions] = state_dict[positions][None]
    if "logit_scale" in state_dict:
        state_dict["logit_scale"] = state_dict["logit_scale"].squeeze()
    keys = published_keys(model.state_dict(), mapping, QUERY_KEY_VALUE)
    load_weights(model, state_dict, keys, origin=checkpoint.origin, ignored=ignored)
    return model.eval()
