"""What `flava.load` returns: a model with its processor, and the methods that users call."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flava.inference import encoding, export, fill
from flava.inference.encoding import InputGroups, check_pairs, pair_states
from flava.inference.features import FeatureExtractor, gather
from flava.inference.identity import identity
from flava.inference.int8 import InferencePrecision, to_precision
from flava.inference.processor import ImagesLike, Processor, image_list
from flava.inference.results import (
    Candidate,
    ClassificationResult,
    HiddenStates,
    Match,
    Reconstruction,
)
from flava.inference.zero_shot import (
    TEMPLATES,
    check_classes,
    class_embeddings,
    class_probabilities,
)
from flava.models import Clip, Flava


class Pretrained:
    """What `flava.load` returns.

    Images may be PIL images, arrays, tensors, paths or files' bytes (see
    `flava.inference.processor.open_image`). All results are in 32 bits, on the CPU, and in the
    order asked. Every method raises ValueError for inputs that cannot be used, and names them.
    ``model`` is in 32 bits whatever the precision; for less its matrices were copied when this was
    made.
    """

    def __init__(
        self,
        model: Flava | Clip,
        processor: Processor,
        *,
        precision: InferencePrecision = InferencePrecision.FP32,
        folder: Path | None = None,
    ) -> None:
        """``folder`` is where the checkpoint's files are, if it is a folder's."""
        self.model, self.processor, self.precision = model.eval(), processor, precision
        self.folder = folder
        self._extractor = FeatureExtractor(to_precision(model, precision), precision)
        patch_size = model.config.image.patch_size
        self._inputs = InputGroups(processor, patch_size, self._extractor.device)

    @cached_property
    def identity(self) -> str:
        """Names what made an embedding: see `flava.inference.identity`. Takes a second or two for a
        base model, once."""
        return identity(self.model, self.processor)

    @property
    def logit_scale(self) -> float:
        """The natural logarithm of what cosines are multiplied with to be logits."""
        return self.model.logit_scale.item()

    def encode_image(self, images: ImagesLike) -> Float[Tensor, "images width"]:
        """Unit vectors of the contrastive space."""
        images, extractor = image_list(images), self._extractor
        with extractor.computing():
            encoded = (
                (group.indices, extractor.image_embeddings(group.pixels[0]))
                for group in self._inputs.images(images)
            )
            return gather(encoded, len(images), self.model.config.projection_width)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        """Unit vectors of the contrastive space."""
        input_ids, extractor = self.processor.input_ids(texts), self._extractor
        with extractor.computing():
            encoded = (
                (group.indices, extractor.text_embeddings(group.input_ids, group.attention_mask))
                for group in self._inputs.texts(input_ids)
            )
            return gather(encoded, len(input_ids), self.model.config.projection_width)

    def encode_pair(self, images: ImagesLike, texts: Sequence[str]) -> Float[Tensor, "pairs width"]:
        """Of each image with its text the multimodal [CLS_M] after the final norm, h_CLS,M."""
        model, input_ids = self._require_flava(), self.processor.input_ids(texts)
        with self._extractor.computing():
            encoded = (
                (pairs.indices, pair_states(self._extractor, pairs).joint[:, 0])
                for pairs in self._inputs.pairs(images, input_ids)
            )
            return gather(encoded, len(input_ids), model.config.multimodal.width)

    def hidden_states(
        self, images: ImagesLike | None = None, texts: Sequence[str] | None = None
    ) -> HiddenStates:
        """All states of the encoders that read what is given, after their final norms.

        Raises:
            ValueError: neither images nor texts are given; or some cannot be used.
        """
        self._require_flava()
        return encoding.hidden_states(self._extractor, self._inputs, images, texts)

    def match(self, images: ImagesLike, texts: Sequence[str]) -> Match:
        """How well each image goes with its text."""
        if isinstance(self.model, Clip):
            images = image_list(images)
            check_pairs(len(images), len(texts))
            cosine = (self.encode_image(images) * self.encode_text(texts)).sum(dim=1)
            return Match(cosine=cosine, probability=None)
        model, input_ids = self._require_flava("itm_head"), self.processor.input_ids(texts)
        cosine, probability = torch.zeros(2, len(input_ids))
        with self._extractor.computing():
            for pairs in self._inputs.pairs(images, input_ids):
                states = pair_states(self._extractor, pairs)
                image, text = model.project_image(states.image), model.project_text(states.text)
                cosine[pairs.indices] = (image * text).sum(dim=1).cpu()
                logits = self._extractor.matching_logits(states.joint)
                probability[pairs.indices] = logits.softmax(dim=1)[:, 1].cpu()
        return Match(cosine=cosine, probability=probability)

    def classify(
        self,
        images: ImagesLike,
        class_names: Sequence[str],
        templates: Sequence[str] = TEMPLATES,
    ) -> ClassificationResult:
        """Zero-shot classes: which of the names, each put in all templates, fits an image best.

        A class's vector is the mean of the unit vectors of its prompts, as in CLIP.
        """
        check_classes(class_names, templates)
        names = [(name,) for name in class_names]
        classes = class_embeddings(self.encode_text, names, templates)
        scale = self.model.logit_scale.detach().exp().cpu()
        probabilities = class_probabilities(self.encode_image(images), classes, scale)
        return ClassificationResult(names=tuple(class_names), probabilities=probabilities)

    def fill_mask(
        self, texts: Sequence[str], images: ImagesLike | None = None, *, top: int = 5
    ) -> list[list[list[Candidate]]]:
        """For each text, for each [MASK] in it, the likeliest tokens, best first.

        From the text alone by the head of masked language modelling; with an image each, by that of
        masked multimodal modelling, which sees both.
        """
        self._require_flava("mlm_head" if images is None else "mmm_text_head")
        return fill.fill_mask(self._extractor, self._inputs, texts, images, top)

    def reconstruct(
        self,
        images: ImagesLike,
        texts: Sequence[str] | None = None,
        *,
        mask: Bool[Tensor, "*images rows columns"] | None = None,
        seed: int = 0,
    ) -> list[Reconstruction]:
        """Hides patches of each image, predicts their codes, and draws those with the codebook.

        From the rest of the image alone by the head of masked image modelling; with a text each, by
        that of masked multimodal modelling. ``mask`` is True at patches to hide, one for all images
        or one each; without it, blocks are drawn by ``seed`` as in pretraining.
        """
        head = "mim_head" if texts is None else "mmm_image_head"
        self._require_flava(head, "codebook.encoder", "codebook.decoder")
        return fill.reconstruct(self._extractor, self._inputs, images, texts, mask, seed)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model for transformers, with its processor's files, into a new folder.

        Raises:
            ValueError: transformers has no such model; every reason is listed.
            OSError: the folder is there and not empty, or could not be written.
        """
        return export.save_pretrained(self.model, Path(folder), source=self.folder)

    def push_to_hub(
        self, repo_id: str, *, licence: str, private: bool = False, token: str | None = None
    ) -> str:
        """Upload what `save_pretrained` writes, with a model card: see `flava.inference.export`."""
        return export.push_to_hub(
            self.model, repo_id, licence=licence, private=private, token=token, source=self.folder
        )

    def _require_flava(self, *parts: str) -> Flava:
        """The model in its precision, if it is a FLAVA whose checkpoint held these parts."""
        if not isinstance(self.model, Flava):
            raise ValueError(
                f"a {type(self.model).__name__} has no multimodal encoder and no heads: load a "
                "FLAVA for this, or use encode_image, encode_text, classify or match"
            )
        self.model.require(*parts)
        return self._extractor.model
