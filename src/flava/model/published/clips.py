"""What CLIP's published layouts share: a model of a read geometry, filled from the file."""

from collections.abc import Collection

from flava.model.clip import Clip, ClipConfig, ClipImageConfig, ClipTextConfig
from flava.model.published.names import Table, sources, split
from flava.model.published.shapes import refuse_if
from flava.model.published.stored import Stored
from flava.model.published.strict import fill, unfilled

QUERY_KEY_VALUE = split("q_proj", "k_proj", "v_proj")
"""The parts as transformers' CLIP names them; OpenAI's holds them in one, as ours."""


def clip_of(
    stored: Stored, *, image: ClipImageConfig, text: ClipTextConfig, projection_width: int
) -> Clip:
    """Raises ValueError: this geometry does not hold."""
    mistakes = [*image.mistakes("image"), *text.mistakes("text")]
    refuse_if(mistakes, f"the geometry of {stored.origin} does not hold")
    config = ClipConfig(image=image, text=text, projection_width=projection_width)
    return unfilled(lambda: Clip(config))


def filled(
    model: Clip,
    stored: Stored,
    *,
    cls: str,
    positions: str,
    transposed: Collection[str],
    names: Table,
    ignored: Collection[str],
) -> Clip:
    """The model with the file's weights, whose ``cls`` and ``positions`` have fewer axes.

    Raises:
        ValueError: as `strict.fill`.
    """
    tensors = {
        f"{name} (transposed)" if name in transposed else name: tensor.T
        if name in transposed
        else tensor
        for name, tensor in stored.tensors.items()
    }
    tensors[cls] = tensors[cls][None, None]
    tensors[positions] = tensors[positions][None]
    if "logit_scale" in tensors:
        tensors["logit_scale"] = tensors["logit_scale"].squeeze()
    fill(
        model,
        tensors,
        sources(model.state_dict(), names, QUERY_KEY_VALUE),
        origin=stored.origin,
        ignored=ignored,
    )
    return model.eval()
