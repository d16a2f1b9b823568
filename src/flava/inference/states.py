"""All hidden states of many inputs, each in its place."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from flava.inference.images import Images, image_list
from flava.inference.passes import Passes
from flava.inference.results import HiddenStates
from flava.model import Flava


def hidden_states(
    model: Flava, passes: Passes, images: Images | None, texts: Sequence[str] | None
) -> HiddenStates:
    """See `Pretrained.hidden_states`."""
    if texts is None:
        if images is None:
            raise ValueError("give images, texts, or both")
        with passes.computing():
            return of_images(model, passes, images)
    ids = passes.processor.ids(texts)
    _, real = passes.processor.padded(ids)
    with passes.computing():
        if images is None:
            return of_texts(model, passes, ids, real)
        return of_pairs(model, passes, images, ids, real)


def of_images(model: Flava, passes: Passes, images: Images) -> HiddenStates:
    images = image_list(images)
    encoder = model.image_encoder
    image = torch.zeros(len(images), passes.image_tokens, model.config.image.width)
    for each in passes.images(images):
        image[each.rows] = encoder.norm(encoder(each.pixels[0])).float().cpu()
    return HiddenStates(image=image)


def of_texts(
    model: Flava, passes: Passes, ids: Sequence[list[int]], real: Bool[Tensor, "texts length"]
) -> HiddenStates:
    encoder = model.text_encoder
    text = torch.zeros(*real.shape, model.config.text.width)
    for each in passes.texts(ids):
        states = encoder.norm(encoder(each.ids, each.real))
        text[each.rows, : each.real.shape[1]] = states.float().cpu()
    return HiddenStates(text=text * real[..., None], text_real=real)


def of_pairs(
    model: Flava,
    passes: Passes,
    images: Images,
    ids: Sequence[list[int]],
    real: Bool[Tensor, "texts length"],
) -> HiddenStates:
    config, count, tokens = model.config, len(ids), passes.image_tokens
    image = torch.zeros(count, tokens, config.image.width)
    text = torch.zeros(*real.shape, config.text.width)
    joint_real = torch.cat([real.new_ones(count, 1 + tokens), real], dim=1)
    joint = torch.zeros(*joint_real.shape, config.multimodal.width)
    for each in passes.pairs(model, images, ids):
        rows, length = each.rows, each.real.shape[1]
        image[rows] = model.image_encoder.norm(each.image).float().cpu()
        text[rows, :length] = model.text_encoder.norm(each.text).float().cpu()
        joint[rows, : 1 + tokens + length] = each.joint.float().cpu()
    return HiddenStates(
        image=image,
        text=text * real[..., None],
        text_real=real,
        multimodal=joint * joint_real[..., None],
        multimodal_real=joint_real,
    )
