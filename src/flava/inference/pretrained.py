"""A loaded model with its processor: what it can be used for, from whatever a user has."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flava.inference import encoding, export, fill
from flava.inference.encoding import Passes, check_pairs, gather
from flava.inference.identity import identity
from flava.inference.int8 import InferencePrecision
from flava.inference.processor import ImagesLike, Processor, image_list
from flava.inference.results import (
    Candidate,
    ClassificationResult,
    HiddenStates,
    Match,
    Reconstruction,
)
from flava.inference.zero_shot import TEMPLATES, check_classes, class_embeddings
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
        self._passes = Passes(model, processor, precision)

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
        images = image_list(images)
        with self._passes.computing():
            encoded = (
                (each.rows, self._passes.model.encode_image(each.pixels[0]))
                for each in self._passes.images(images)
            )
            return gather(encoded, len(images), self.model.config.projection_width)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        """Unit vectors of the contrastive space."""
        input_ids = self.processor.input_ids(texts)
        with self._passes.computing():
            encoded = (
                (each.rows, self._passes.model.encode_text(each.input_ids, each.attention_mask))
                for each in self._passes.texts(input_ids)
            )
            return gather(encoded, len(input_ids), self.model.config.projection_width)

    def encode_pair(self, images: ImagesLike, texts: Sequence[str]) -> Float[Tensor, "pairs width"]:
        """Of each image with its text the multimodal [CLS_M] after the final norm, h_CLS,M."""
        model, input_ids = self._flava(), self.processor.input_ids(texts)
        with self._passes.computing():
            encoded = (
                (each.rows, each.joint[:, 0])
                for each in self._passes.pairs(model, images, input_ids)
            )
            return gather(encoded, len(input_ids), model.config.multimodal.width)

    def hidden_states(
        self, images: ImagesLike | None = None, texts: Sequence[str] | None = None
    ) -> HiddenStates:
        """All states of the encoders that read what is given, after their final norms.

        Raises:
            ValueError: neither images nor texts are given; or some cannot be used.
        """
        return encoding.hidden_states(self._flava(), self._passes, images, texts)

    def match(self, images: ImagesLike, texts: Sequence[str]) -> Match:
        """How well each image goes with its text."""
        if isinstance(self.model, Clip):
            images = image_list(images)
            check_pairs(len(images), len(texts))
            cosine = (self.encode_image(images) * self.encode_text(texts)).sum(dim=1)
            return Match(cosine=cosine, probability=None)
        model, input_ids = self._flava("itm_head"), self.processor.input_ids(texts)
        cosine, probability = torch.zeros(2, len(input_ids))
        with self._passes.computing():
            for each in self._passes.pairs(model, images, input_ids):
                image, text = model.project_image(each.image), model.project_text(each.text)
                cosine[each.rows] = (image * text).sum(dim=1).cpu()
                logits = model.itm_head(each.joint).float()
                probability[each.rows] = logits.softmax(dim=1)[:, 1].cpu()
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
        named = [(name,) for name in class_names]
        classes = class_embeddings(self.encode_text, named, templates)
        logits = self.model.logit_scale.detach().exp().cpu() * self.encode_image(images) @ classes.T
        return ClassificationResult(names=tuple(class_names), probabilities=logits.softmax(dim=1))

    def fill_mask(
        self, texts: Sequence[str], images: ImagesLike | None = None, *, top: int = 5
    ) -> list[list[list[Candidate]]]:
        """For each text, for each [MASK] in it, the likeliest tokens, best first.

        From the text alone by the head of masked language modelling; with an image each, by that of
        masked multimodal modelling, which sees both.
        """
        model = self._flava("mlm_head" if images is None else "mmm_text_head")
        return fill.fill_mask(model, self._passes, texts, images, top)

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
        model = self._flava(head, "codebook.encoder", "codebook.decoder")
        return fill.reconstruct(model, self._passes, images, texts, mask, seed)

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

    def _flava(self, *parts: str) -> Flava:
        """The model, if it is a FLAVA whose checkpoint held these parts."""
        if not isinstance(self.model, Flava):
            raise ValueError(
                f"a {type(self.model).__name__} has no multimodal encoder and no heads: load a "
                "FLAVA for this, or use encode_image, encode_text, classify or match"
            )
        self.model.require(*parts)
        model = self._passes.model
        assert isinstance(model, Flava)
        return model
