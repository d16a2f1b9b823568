"""One random model twice, as transformers' `FlavaForPreTraining` and as ours; and its batches."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from transformers import FlavaConfig as PublishedConfig
from transformers import FlavaForPreTraining
from transformers.models.flava.modeling_flava import FlavaForPreTrainingOutput, FlavaImageCodebook

from flava.checkpoints import flava_huggingface as huggingface
from flava.checkpoints.layout import (
    QUERY_KEY_VALUE,
    export_state_dict,
    load_weights,
    published_keys,
)
from flava.core.batch import Batch, ImageBatch, PairBatch, TextBatch
from flava.models import (
    CodebookConfig,
    Flava,
    FlavaConfig,
    ImageConfig,
    MultimodalConfig,
    TextConfig,
)
from tests.support import random_images, random_pairs, random_texts, randomise

IGNORED = -100
"""The published code's label of what is not to be predicted."""


def geometry(
    *,
    width: int,
    image: tuple[int, int, int, int, int],
    text: tuple[int, int, int, int, int],
    multimodal: tuple[int, int, int],
    projection: int,
    codebook: tuple[int, int, int],
) -> FlavaConfig:
    """One width for all, which is all that the published heads can do.

    ``image``: size, patch, depth, heads, MLP. ``text``: vocabulary, longest, depth, heads, MLP.
    ``multimodal``: depth, heads, MLP. ``codebook``: codes, width, blocks.
    """
    return FlavaConfig(
        image=ImageConfig(
            width=width,
            image_size=image[0],
            patch_size=image[1],
            depth=image[2],
            heads=image[3],
            mlp_width=image[4],
        ),
        text=TextConfig(
            width=width,
            vocabulary_size=text[0],
            max_length=text[1],
            depth=text[2],
            heads=text[3],
            mlp_width=text[4],
        ),
        multimodal=MultimodalConfig(
            width=width, depth=multimodal[0], heads=multimodal[1], mlp_width=multimodal[2]
        ),
        projection_width=projection,
        codebook=CodebookConfig(codes=codebook[0], width=codebook[1], blocks=codebook[2]),
    )


GEOMETRIES = {
    "three-image-blocks": geometry(
        width=48,
        image=(40, 8, 3, 3, 100),
        text=(101, 20, 2, 4, 80),
        multimodal=(2, 2, 60),
        projection=24,
        codebook=(64, 8, 1),
    ),
    "odd-everything": geometry(
        width=45,
        image=(21, 7, 1, 5, 33),
        text=(57, 11, 3, 9, 51),
        multimodal=(1, 3, 77),
        projection=61,
        codebook=(33, 4, 2),
    ),
    "two-pixel-patches": geometry(
        width=64,
        image=(12, 2, 2, 8, 48),
        text=(211, 33, 1, 16, 96),
        multimodal=(3, 1, 32),
        projection=64,
        codebook=(129, 12, 3),
    ),
}

LENGTHS = {
    "three-image-blocks": [11, 3, 7, 9, 5, 11],
    "odd-everything": [7, 2, 3, 7, 5],
    "two-pixel-patches": [1, 13, 12, 5, 6, 7, 11],
}


@dataclass(frozen=True)
class Twins:
    name: str
    ours: Flava
    published: FlavaForPreTraining

    def images(self) -> ImageBatch:
        return cast(self, random_images(self.ours.config, len(LENGTHS[self.name])))

    def texts(self) -> TextBatch:
        return random_texts(self.ours.config, LENGTHS[self.name])

    def pairs(self, mismatched: tuple[int, ...] = ()) -> PairBatch:
        matched = torch.ones(len(LENGTHS[self.name]), dtype=torch.bool)
        matched[list(mismatched)] = False
        pairs = random_pairs(self.ours.config, LENGTHS[self.name], matched)
        assert isinstance(pairs.image, ImageBatch)
        return PairBatch(image=cast(self, pairs.image), text=pairs.text, matched=pairs.matched)


def cast(twins: Twins, batch: ImageBatch) -> ImageBatch:
    """The batch in the floating point of the model."""
    dtype = twins.ours.logit_scale.dtype
    return ImageBatch(
        keys=batch.keys,
        pixels=batch.pixels.to(dtype),
        codebook_pixels=batch.codebook_pixels.to(dtype),
        patch_mask=batch.patch_mask,
    )


@cache
def twins(name: str, dtype: torch.dtype = torch.float32) -> Twins:
    """Whoever changes a twin must put it back; they are shared for their cost of construction."""
    torch.manual_seed(sum(map(ord, name)))
    config = GEOMETRIES[name]
    published = FlavaForPreTraining(published_config(config)).train()
    randomise(published)
    vary_codes(published_codebook(published))
    # Within the bounds that the published code clamps to in its forward pass.
    torch.nn.init.constant_(published.flava.logit_scale, 1.7)
    ours = Flava(config)
    ours_without_decoder = without_decoder(ours.state_dict())
    entries = published_keys(ours_without_decoder, huggingface.KEY_MAPPING, QUERY_KEY_VALUE)
    ignored = huggingface.TIED_KEYS
    load_weights(ours, published.state_dict(), entries, origin="the twin", ignored=ignored)
    torch.nn.Module.to(published, dtype)  # the published class declares a `to` of another type
    return Twins(name, ours.to(dtype), published)


def without_decoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The codebook's decoder is ours alone."""
    return {name: t for name, t in state.items() if not name.startswith("codebook.decoder.")}


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under all the names of the published model's state dict."""
    published = export_state_dict(without_decoder(state), huggingface.KEY_MAPPING)
    second = huggingface.TIED_KEYS.items()
    return published | {name: published[first] for name, first in second if first in published}


def published_codebook(published: FlavaForPreTraining) -> FlavaImageCodebook:
    assert isinstance(published.image_codebook, FlavaImageCodebook)
    return published.image_codebook


@torch.no_grad()
def vary_codes(codebook: FlavaImageCodebook) -> None:
    """Weights at which the codes follow the pixels: at others they are one and the same."""
    for convolution in codebook.modules():
        if isinstance(convolution, torch.nn.Conv2d):
            convolution.weight.normal_(std=3 * convolution.weight[0].numel() ** -0.5)


def published_config(config: FlavaConfig) -> PublishedConfig:
    """The configuration of transformers' model of the same geometry."""
    image, text, multimodal = config.image, config.text, config.multimodal
    return PublishedConfig(
        image_config={
            "hidden_size": image.width,
            "num_attention_heads": image.heads,
            "intermediate_size": image.mlp_width,
            "num_hidden_layers": image.depth,
            "image_size": image.image_size,
            "patch_size": image.patch_size,
            "vocab_size": config.codebook.codes,
        },
        text_config={
            "hidden_size": text.width,
            "num_attention_heads": text.heads,
            "intermediate_size": text.mlp_width,
            "num_hidden_layers": text.depth,
            "vocab_size": text.vocabulary_size,
            "max_position_embeddings": text.max_length,
        },
        multimodal_config={
            "hidden_size": multimodal.width,
            "num_attention_heads": multimodal.heads,
            "intermediate_size": multimodal.mlp_width,
            "num_hidden_layers": multimodal.depth,
        },
        image_codebook_config={
            "hidden_size": config.codebook.width,
            "vocab_size": config.codebook.codes,
            "num_blocks_per_group": config.codebook.blocks,
        },
        hidden_size=multimodal.width,
        projection_dim=config.projection_width,
    )


def run_published(model: FlavaForPreTraining, batch: Batch) -> FlavaForPreTrainingOutput:
    """The published forward pass of pretraining, with all its losses."""
    arguments: dict[str, Tensor] = {}
    image = batch.image if isinstance(batch, PairBatch) else batch
    text = batch.text if isinstance(batch, PairBatch) else batch
    if isinstance(image, ImageBatch):
        arguments |= {
            "pixel_values": image.pixels,
            "codebook_pixel_values": image.codebook_pixels,
            "bool_masked_pos": image.patch_mask.clone(),  # it is changed in place
        }
    if isinstance(text, TextBatch):
        arguments |= {
            "input_ids": text.input_ids,
            "input_ids_masked": text.input_ids_masked,
            "attention_mask": text.attention_mask.long(),
            "mlm_labels": text.input_ids.where(text.token_mask, IGNORED),
        }
    if isinstance(batch, PairBatch):
        arguments["itm_labels"] = batch.matched.long()
    # The unmasked multimodal states enter no loss; the tests compare them all the same.
    return model(**arguments, return_loss=True, skip_unmasked_multimodal_encoder=False)
