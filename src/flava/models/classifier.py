"""Encoders with a classification head, for fine-tuning."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, get_args

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from flava.core.batch import ImageInputs, Inputs, Kind, PairInputs, TextInputs
from flava.core.unions import TaggedUnion
from flava.models.clip import (
    Clip,
    ClipImageConfig,
    ClipImageEncoder,
    ClipTextConfig,
    ClipTextEncoder,
    end_of_text,
)
from flava.models.config import Model, ModelConfig
from flava.models.dino import Dino
from flava.models.encoders import (
    ImageConfig,
    ImageEncoder,
    MultimodalConfig,
    MultimodalEncoder,
    TextConfig,
    TextEncoder,
    resize_positions,
)
from flava.models.flava import Flava
from flava.models.unimodal import MaskedImageModel, MaskedTextModel

POSITIONS = "image_encoder.positions"


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """Geometry of the three encoders that read a pair."""

    image: ImageConfig = field(default_factory=ImageConfig)
    text: TextConfig = field(default_factory=TextConfig)
    multimodal: MultimodalConfig = field(default_factory=MultimodalConfig)

    @property
    def width(self) -> int:
        """Size of the vector that the head reads."""
        return self.multimodal.width


@dataclass(frozen=True, kw_only=True)
class ClipPairConfig:
    """Geometry of CLIP's two encoders, whose vectors of a pair are joined end to end."""

    image: ClipImageConfig = field(default_factory=ClipImageConfig)
    text: ClipTextConfig = field(default_factory=ClipTextConfig)

    @property
    def width(self) -> int:
        """Size of the vector that the head reads."""
        return self.image.width + self.text.width


FeaturesConfig = ImageConfig | TextConfig | PairConfig | ClipTextConfig | ClipPairConfig


class ImageFeatures(nn.Module):
    """Images -> h_CLS,I: the image encoder's [CLS] after its final norm."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder(config)

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch width"]:
        if not isinstance(inputs, ImageInputs):
            raise ValueError(f"this model reads images, and was given {inputs.kind}")
        return self.image_encoder.norm(self.image_encoder.cls(inputs.pixels)[:, 0])


class TextFeatures(nn.Module):
    """Texts -> h_CLS,T: the text encoder's [CLS] after its final norm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.text_encoder = TextEncoder(config)

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch width"]:
        text = _text_of(inputs)
        return self.text_encoder.norm(
            self.text_encoder.cls(text.input_ids, text.attention_mask)[:, 0]
        )


class PairFeatures(nn.Module):
    """Pairs -> h_CLS,M: the multimodal encoder's [CLS_M] after its final norm."""

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        image, text, multimodal = config.image, config.text, config.multimodal
        self.image_encoder = ImageEncoder(image)
        self.text_encoder = TextEncoder(text)
        self.multimodal_encoder = MultimodalEncoder(multimodal)
        self.image_to_multimodal = nn.Linear(image.width, multimodal.width)
        self.text_to_multimodal = nn.Linear(text.width, multimodal.width)

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch width"]:
        pair = _pair_of(inputs)
        attention_mask = pair.text.attention_mask
        # As in pretraining, it reads both encoders' states before their final norms.
        image = self.image_to_multimodal(self.image_encoder(pair.image.pixels))
        text = self.text_to_multimodal(self.text_encoder(pair.text.input_ids, attention_mask))
        return self.multimodal_encoder.norm(
            self.multimodal_encoder.cls(image, text, attention_mask)[:, 0]
        )


class ClipTextFeatures(nn.Module):
    """Texts -> CLIP's end-of-text token after the final norm, before the projection."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.text_encoder = ClipTextEncoder(config)

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch width"]:
        text = _text_of(inputs)
        states = self.text_encoder.end(text.input_ids, text.attention_mask)
        return self.text_encoder.norm(end_of_text(states, text.input_ids))


class ClipPairFeatures(nn.Module):
    """Pairs -> CLIP's [CLS] of the image, then the end-of-text token of the text.

    Each after its encoder's final norm and before its projection. The paper's baseline: "for CLIP
    the features of both encoders are concatenated under the same head".
    """

    def __init__(self, config: ClipPairConfig) -> None:
        super().__init__()
        self.image_encoder = ClipImageEncoder(config.image)
        self.text_encoder = ClipTextEncoder(config.text)

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch width"]:
        pair = _pair_of(inputs)
        image = self.image_encoder.norm(self.image_encoder.cls(pair.image.pixels)[:, 0])
        states = self.text_encoder.end(pair.text.input_ids, pair.text.attention_mask)
        text = self.text_encoder.norm(end_of_text(states, pair.text.input_ids))
        return torch.cat([image, text], dim=1)


def _text_of(inputs: Inputs) -> TextInputs:
    """Raises ValueError: the inputs are no texts."""
    if not isinstance(inputs, TextInputs):
        raise ValueError(f"this model reads text, and was given {inputs.kind}")
    return inputs


def _pair_of(inputs: Inputs) -> PairInputs:
    """Raises ValueError: the inputs are no pairs."""
    if not isinstance(inputs, PairInputs):
        raise ValueError(f"this model reads pairs, and was given {inputs.kind} alone")
    return inputs


FeatureEncoder = ImageFeatures | TextFeatures | PairFeatures | ClipTextFeatures | ClipPairFeatures


def _build_features(config: FeaturesConfig) -> FeatureEncoder:
    """Encoders of that geometry with torch's initial weights, to be filled by `_fill_features`."""
    match config:
        case ImageConfig():
            return ImageFeatures(config)
        case ClipTextConfig():  # which is a TextConfig too
            return ClipTextFeatures(config)
        case TextConfig():
            return TextFeatures(config)
        case ClipPairConfig():
            return ClipPairFeatures(config)
        case PairConfig():
            return PairFeatures(config)


def _kind_of(config: FeaturesConfig) -> Kind:
    """The kind of inputs that encoders of that geometry read."""
    match config:
        case ImageConfig():
            return "images"
        case TextConfig():
            return "text"
        case PairConfig() | ClipPairConfig():
            return "pairs"


def features_config(model: nn.Module, kind: Kind) -> FeaturesConfig:
    """The geometry of the part of a model that reads inputs of that kind.

    Raises:
        ValueError: the model has no such part.
    """
    match model, kind:
        case ((Flava() | MaskedImageModel() | Dino()), "images"):
            return model.config.image
        case ((Flava() | MaskedTextModel() | Clip()), "text"):
            return model.config.text
        case Flava(config=config), "pairs":
            return PairConfig(image=config.image, text=config.text, multimodal=config.multimodal)
        case Clip(config=config), "pairs":
            return ClipPairConfig(image=config.image, text=config.text)
    raise ValueError(
        f"a {type(model).__name__} does not read {kind}: give a FLAVA (a run of `flava train`, "
        "or a checkpoint)"
    )


def _with_image_size(config: FeaturesConfig, image_size: int) -> FeaturesConfig:
    """The same geometry for images of another size, in pixels a side.

    Raises:
        ValueError: it reads no images.
    """
    match config:
        case ImageConfig():
            return replace(config, image_size=image_size)
        case PairConfig() | ClipPairConfig():
            return replace(config, image=replace(config.image, image_size=image_size))
    raise ValueError(f"image_size is {image_size}, and this model reads text alone: leave it out")


def _fill_features(features: FeatureEncoder, model: nn.Module) -> None:
    """Copy the weights of a model, whose encoders have the same names.

    For another image size, position embeddings are interpolated.
    """
    state, empty = model.state_dict(), features.state_dict()
    weights = {name: state[name] for name in empty}
    if POSITIONS in weights:
        theirs, ours = (math.isqrt(each[POSITIONS].shape[1] - 1) for each in (state, empty))
        weights[POSITIONS] = resize_positions(weights[POSITIONS], theirs, ours, ours)
    features.load_state_dict(weights)


def features_of(model: nn.Module, kind: Kind) -> FeatureEncoder:
    """A copy of the part of a model that reads inputs of that kind, in evaluation mode.

    Raises:
        ValueError: the model has no such part.
    """
    features = _build_features(features_config(model, kind))
    _fill_features(features, model)
    return features.eval()


PAIR_HIDDEN_WIDTH = 1536
"""Hidden width of the paper's two-layer head on h_CLS,M."""

DROPOUT = 0.1
"""Dropout before the last layer, as in the code of BERT's classifier (Devlin et al. 2019)."""

HEAD_INIT_STD = 0.02
"""Standard deviation of a new head's weights: that of the published model's initial weights."""


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(ModelConfig):
    """Geometry of a classifier, and the names of its classes."""

    encoder: Annotated[FeaturesConfig, TaggedUnion(lambda: get_args(FeaturesConfig))]
    """Geometry of the encoders. Its type decides what they read: images, text or pairs."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits. Without any, a score is predicted."""
    hidden_width: PositiveInt | None
    """Width of the head's hidden layer. None: the head is a single linear layer."""

    def mistakes(self, prefix: str) -> list[str]:
        """What spans several fields or elements; see `config_errors`."""
        if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes):
            return [f"{prefix}classes are {self.classes}: use two or more, each once"]
        return []

    @property
    def outputs(self) -> int:
        """A logit for each class, or the score."""
        return len(self.classes) or 1

    @property
    def kind(self) -> Kind:
        """What is classified."""
        return _kind_of(self.encoder)


class Classifier(Model):
    """Inputs -> logits of the classes, or a score.

    Pairs have the paper's head: two layers on h_CLS,M, with a hidden width of 1,536. The paper
    fine-tunes texts with "a classification head" and does not fine-tune images: both have one
    linear layer on their encoder's [CLS] after its final norm, as is usual for BERT and ViT.
    """

    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.features = _build_features(config.encoder)
        width, hidden, outputs = config.encoder.width, config.hidden_width, config.outputs
        if hidden is None:
            layers = [nn.Dropout(DROPOUT), nn.Linear(width, outputs)]
        else:
            # The paper names no activation: the model's own.
            last = nn.Linear(hidden, outputs)
            layers = [nn.Linear(width, hidden), nn.GELU(), nn.Dropout(DROPOUT), last]
        self.head = nn.Sequential(*layers)
        for layer in self.head:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=HEAD_INIT_STD)
                nn.init.zeros_(layer.bias)

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch outputs"]:
        return self.head(self.features(inputs))


def classifier_of(
    model: nn.Module,
    kind: Kind,
    classes: Sequence[str],
    *,
    hidden_width: int | None,
    image_size: int | None = None,
) -> Classifier:
    """A classifier on a copy of a model's encoders, with a new head.

    For images of another ``image_size``, in pixels a side, the position embeddings are interpolated
    once, and then belong to that size.

    Raises:
        ValueError: the model does not read inputs of that kind, or the classes do not hold.
    """
    encoder = features_config(model, kind)
    if image_size is not None:
        encoder = _with_image_size(encoder, image_size)
    config = ClassifierConfig(encoder=encoder, classes=tuple(classes), hidden_width=hidden_width)
    classifier = Classifier(config)
    _fill_features(classifier.features, model)
    return classifier
