"""Applies a frozen model to prepared inputs: the one way in which features are computed.

`Pretrained` computes through it what users ask for, and so do the evaluation, the suite, the
validators of a run and the classifiers of users' own data.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor, nn

from flava.core.precision import Precision
from flava.data.tokenizers import ClipTokenizer, Tokenizer
from flava.data.views import View
from flava.inference.int8 import InferencePrecision
from flava.inference.processor import default_image_view, default_tokenizer
from flava.models import Clip
from flava.models.clip import end_of_text
from flava.models.flava import unit_length

CONTRASTIVE_PARTS = ("image_encoder", "text_encoder", "projections")
"""What the comparison of images with texts needs."""

BATCH_SIZE = 64


class FeatureExtractor:
    """A model in evaluation mode, in one precision and on its own device.

    The methods that take tensors compute one batch, and must be called within `computing`. They
    move their inputs to the model's device and leave the result there. Attention masks stay on the
    CPU, since shapes depend on them. A method fails where the model lacks the part it needs: see
    ``missing_parts`` of the models.
    """

    def __init__(
        self,
        model: nn.Module,
        precision: Precision | InferencePrecision = Precision.BF16,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        """``batch_size`` is how many samples are computed at once, where the caller's inputs are
        not batches yet; it changes no figure."""
        self.model: Any = model
        self.precision, self.batch_size = precision, batch_size

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @contextmanager
    def computing(self) -> Iterator[None]:
        """No gradients and no dropout within; the model's mode is as before afterwards."""
        was_training, dtype = self.model.training, self.precision.dtype
        self.model.eval()
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, dtype, enabled=dtype is not torch.float32),
            ):
                yield
        finally:
            self.model.train(was_training)

    @property
    def view(self) -> View:
        """How images are shown to the model if no file beside its weights says otherwise."""
        return default_image_view(self.model.config)

    @property
    def tokenizer(self) -> Tokenizer | ClipTokenizer:
        """The tokeniser of the model if no file beside its weights says otherwise."""
        return default_tokenizer(self.model.config.text)

    # States of the encoders before their final norms

    def image_states(
        self,
        pixels: Float[Tensor, "batch 3 h w"],
        patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """The image encoder's states, with the selected patches hidden."""
        mask = None if patch_mask is None else patch_mask.to(self.device)
        return self.model.image_encoder(pixels.to(self.device), mask)

    def text_states(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length width"]:
        """The text encoder's states; those at padding mean nothing."""
        return self.model.text_encoder(input_ids.to(self.device), attention_mask)

    def joint_states(
        self,
        image_states: Float[Tensor, "batch image_tokens image_width"],
        text_states: Float[Tensor, "batch length text_width"],
        attention_mask: Bool[Tensor, "batch length"],
    ) -> Float[Tensor, "batch tokens width"]:
        """The multimodal encoder's states after its norm: [CLS_M], image [CLS], patches, text."""
        return self.model.multimodal(
            image_states.to(self.device), text_states.to(self.device), attention_mask
        )

    # Features and embeddings

    def image_features(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch width"]:
        """The image encoder's [CLS] after its final norm, in 32 bits."""
        return self._image_features(self.model.image_encoder.cls(pixels.to(self.device)))

    def image_features_and_embeddings(
        self, pixels: Float[Tensor, "batch 3 h w"]
    ) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "batch projection"]]:
        """Both by one pass through the encoder."""
        states = self.model.image_encoder.cls(pixels.to(self.device))
        return self._image_features(states), self.model.project_image(states)

    def _image_features(self, states: Tensor) -> Tensor:
        return self.model.image_encoder.norm(states[:, 0]).float()

    def text_features(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch width"]:
        """The text encoder's [CLS], or CLIP's end of text, after the final norm, in 32 bits."""
        input_ids = input_ids.to(self.device)
        states = self.text_states(input_ids, attention_mask)
        read = end_of_text(states, input_ids) if isinstance(self.model, Clip) else states[:, 0]
        return self.model.text_encoder.norm(read).float()

    def image_embeddings(
        self, pixels: Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, "batch projection"]:
        """Unit vectors of the contrastive space."""
        return self.model.encode_image(pixels.to(self.device))

    def text_embeddings(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch projection"]:
        """Unit vectors of the contrastive space."""
        return self.model.encode_text(input_ids.to(self.device), attention_mask)

    def matching_logits(
        self, joint_states: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch 2"]:
        """The matching head's logits of "mismatched" and "matched"."""
        return self.model.itm_head(joint_states).float()

    def matching_scores(
        self, joint_states: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, " batch"]:
        """The matching head's logit of "matched" over "mismatched"."""
        logits = self.matching_logits(joint_states)
        return logits[:, 1] - logits[:, 0]

    # From images and texts as data sets hold them; results are on the CPU

    def uint8_image_features(
        self, images: Sequence[UInt8[np.ndarray, "h w 3"]]
    ) -> Float[Tensor, "batch width"]:
        """The features of images that ``view`` has resized, as one batch."""
        return self.image_features(self.view.normalise(images)).cpu()

    def project_images(
        self, features: Float[np.ndarray, "images width"]
    ) -> Float[Tensor, "images projection"]:
        """Unit vectors of the contrastive space from features of images, computed in 32 bits.

        It needs no `computing` around it.
        """
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            projected = self.model.image_projection(torch.from_numpy(features).to(self.device))
        return unit_length(projected).cpu()

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts projection"]:
        """Unit vectors of texts in the contrastive space, computed as one batch."""
        max_length = self.model.config.text.max_length
        input_ids, attention_mask = self.tokenizer.batch(list(texts), max_length)
        return self.text_embeddings(input_ids, attention_mask).float().cpu()


def in_batches(
    compute: Callable[..., Tensor], batch_size: int, *inputs: Tensor | None
) -> Shaped[Tensor, "samples *shape"]:
    """The results of ``compute`` for all samples, on the CPU; it is given a batch of each input."""
    count = next(len(each) for each in inputs if each is not None)
    return torch.cat(
        [
            compute(*(None if each is None else each[rows] for each in inputs)).cpu()
            for rows in (slice(start, start + batch_size) for start in range(0, count, batch_size))
        ]
    )


def batches_by_length(
    attention_mask: Bool[Tensor, "texts length"], batch_size: int
) -> Iterator[tuple[Int[Tensor, " batch"], int]]:
    """Batches of rows from short texts to long, each with the length of its longest text."""
    lengths = attention_mask.sum(dim=1)
    for rows in lengths.argsort().split(batch_size):
        yield rows, int(lengths[rows].max())


def gather(
    parts: Iterator[tuple[list[int] | Int[Tensor, " batch"], Float[Tensor, "batch width"]]],
    count: int,
    width: int,
) -> Float[Tensor, "count width"]:
    """Vectors that come in any order, each in its row, in 32 bits on the CPU."""
    whole = torch.zeros(count, width)
    for rows, values in parts:
        whole[rows] = values.float().cpu()
    return whole
