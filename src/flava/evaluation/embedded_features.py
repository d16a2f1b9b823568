"""Features and states of the embedded corpus, computed once for all tasks of an evaluation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flava.evaluation.embedded_data import EmbeddedCorpus, TokenizedTexts
from flava.evaluation.linear_probe import LinearProbe, pca_of_pixels
from flava.inference.features import (
    FeatureExtractor,
    batches_by_length,
    gather,
    in_batches,
)
from flava.inference.processor import bert_tokenizer
from flava.models import EncoderModel


@dataclass(frozen=True)
class TextStates:
    """The text encoder's states before its norm; ``attention_mask`` is False at padding."""

    states: Float[Tensor, "texts length width"]
    attention_mask: Bool[Tensor, "texts length"]


class EmbeddedFeatures:
    """What a model makes of the embedded corpus, each result on the CPU but the joint states.

    Its methods must be called within ``extractor.computing()``.
    """

    def __init__(self, extractor: FeatureExtractor, corpus: EmbeddedCorpus) -> None:
        self.extractor, self.corpus = extractor, corpus
        self.probes: dict[str, LinearProbe] = {}
        """Fitted on the features, each by the first task that needs it."""
        self._images: dict[str, tuple[Tensor, Tensor]] = {}
        self._captions: dict[str, Tensor] = {}
        self._codes: dict[str, Tensor] = {}

    @property
    def model(self) -> Any:
        """The model; its ``missing_parts`` tell which parts of a FLAVA it lacks."""
        return self.extractor.model

    def of_model(self, model: EncoderModel) -> "EmbeddedFeatures":
        """Those of another model with the same codebook, whose codes are computed once for both."""
        extractor = self.extractor
        other = EmbeddedFeatures(
            FeatureExtractor(model, extractor.precision, extractor.batch_size), self.corpus
        )
        other._codes = self._codes
        return other

    def features(self, split: str) -> Float[np.ndarray, "images width"]:
        """The image encoder's [CLS] after the final norm."""
        return self._encode_images(split)[0].numpy()

    def text_features(self, texts: TokenizedTexts) -> Float[np.ndarray, "texts width"]:
        """The text encoder's [CLS], or CLIP's end of text, after the final norm."""
        width = self.model.config.text.width
        return self._encode_texts(texts, self.extractor.text_features, width).numpy()

    def image_embeddings(self, split: str) -> Float[Tensor, "images projection"]:
        """Unit vectors of the contrastive space."""
        return self._encode_images(split)[1]

    def caption_embeddings(self, split: str) -> Float[Tensor, "images projection"]:
        """Unit vectors of the canonical captions."""
        if split not in self._captions:
            self._captions[split] = self._embed(self.corpus.pairs(split).captions)
        return self._captions[split]

    def embed(self, texts: list[str]) -> Float[Tensor, "texts projection"]:
        """Unit vectors of any texts."""
        return self._embed(TokenizedTexts(texts, texts, self.model.config))

    def codes(self, split: str) -> Int[Tensor, "images rows columns"]:
        """The codebook's codes of every patch."""
        if split not in self._codes:
            pixels = self.corpus.pairs(split).codebook_pixels
            codebook, device = self.model.codebook, self.extractor.device
            self._codes[split] = in_batches(
                lambda batch: codebook.codes(batch.to(device)), self.extractor.batch_size, pixels
            )
        return self._codes[split]

    def image_states(
        self,
        pixels: Float[Tensor, "images 3 h w"],
        patch_mask: Bool[Tensor, "images rows columns"] | None = None,
    ) -> Float[Tensor, "images tokens width"]:
        """The image encoder's states before its norm, with the selected patches hidden."""
        extractor = self.extractor
        return in_batches(extractor.image_states, extractor.batch_size, pixels, patch_mask)

    def text_states(
        self, texts: TokenizedTexts, token_mask: Bool[Tensor, "texts length"] | None = None
    ) -> TextStates:
        """The text encoder's states, with [MASK] at the selected tokens."""
        input_ids, attention_mask = texts.input_ids, texts.attention_mask
        if token_mask is not None:
            input_ids = input_ids.masked_fill(token_mask, bert_tokenizer().mask)
        states = torch.zeros(*input_ids.shape, self.model.config.text.width)
        for rows, length in self._by_length(attention_mask):
            computed = self.extractor.text_states(
                input_ids[rows, :length], attention_mask[rows, :length]
            )
            states[rows, :length] = computed.float().cpu()
        return TextStates(states, attention_mask)

    def joint_states(
        self,
        image_states: Float[Tensor, "images image_tokens width"],
        texts: TextStates,
        image_rows: Int[Tensor, " pairs"],
        text_rows: Int[Tensor, " pairs"],
    ) -> Iterator[tuple[Int[Tensor, " batch"], Float[Tensor, "batch tokens joint"]]]:
        """The multimodal states of pairs of rows, as (which of the pairs, their states)."""
        for pairs, length in self._by_length(texts.attention_mask[text_rows]):
            rows = text_rows[pairs]
            joint = self.extractor.joint_states(
                image_states[image_rows[pairs]],
                texts.states[rows, :length],
                texts.attention_mask[rows, :length],
            )
            yield pairs, joint

    def _encode_images(self, split: str) -> tuple[Tensor, Tensor]:
        if split not in self._images:
            extractor, pixels = self.extractor, self.corpus.pairs(split).pixels
            if "projections" in self.model.missing_parts:
                features = in_batches(extractor.image_features, extractor.batch_size, pixels)
                self._images[split] = features, torch.empty(0, 0)
            else:
                batches = [
                    [each.cpu() for each in extractor.image_features_and_embeddings(batch)]
                    for batch in pixels.split(extractor.batch_size)
                ]
                features, embeddings = zip(*batches, strict=True)
                self._images[split] = torch.cat(features), torch.cat(embeddings)
        return self._images[split]

    def _embed(self, texts: TokenizedTexts) -> Float[Tensor, "texts projection"]:
        width = self.model.config.projection_width
        return self._encode_texts(texts, self.extractor.text_embeddings, width)

    def _encode_texts(
        self, texts: TokenizedTexts, encode: Callable[[Tensor, Tensor], Tensor], width: int
    ) -> Float[Tensor, "texts width"]:
        """The vector that ``encode`` makes of (input_ids, attention_mask), for all texts."""
        batches = (
            (rows, encode(texts.input_ids[rows, :length], texts.attention_mask[rows, :length]))
            for rows, length in self._by_length(texts.attention_mask)
        )
        return gather(batches, len(texts.input_ids), width)

    def _by_length(
        self, attention_mask: Bool[Tensor, "texts length"]
    ) -> Iterator[tuple[Int[Tensor, " batch"], int]]:
        return batches_by_length(attention_mask, self.extractor.batch_size)


class PixelComponents:
    """The baseline of the linear probe: as many principal components of the pixels."""

    def __init__(self, corpus: EmbeddedCorpus, fitted_on: str, components: int) -> None:
        self.corpus = corpus
        self.probes: dict[str, LinearProbe] = {}
        self.pca = pca_of_pixels(self._pixels(fitted_on), components, corpus.seed)

    def features(self, split: str) -> Float[np.ndarray, "images width"]:
        return self.pca.transform(self._pixels(split))

    def _pixels(self, split: str) -> Float[np.ndarray, "images pixels"]:
        return self.corpus.pairs(split).pixels.flatten(1).numpy()
