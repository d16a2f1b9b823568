"""The part of a model that reads images, texts or pairs, as one vector each: what a head sees."""

import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flava.batch import ImageInputs, Inputs, Kind, PairInputs, TextInputs
from flava.model.clip import (
    Clip,
    ClipImageConfig,
    ClipImageEncoder,
    ClipTextConfig,
    ClipTextEncoder,
    at_end,
)
from flava.model.dino import Dino
from flava.model.flava import Flava
from flava.model.image import ImageConfig, ImageEncoder, resize_positions
from flava.model.masked import MaskedImage, MaskedText
from flava.model.multimodal import MultimodalConfig, MultimodalEncoder
from flava.model.text import TextConfig, TextEncoder

POSITIONS = "image_encoder.positions"


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """Geometry of the three encoders that read a pair."""

    image: ImageConfig = field(default_factory=ImageConfig)
    text: TextConfig = field(default_factory=TextConfig)
    multimodal: MultimodalConfig = field(default_factory=MultimodalConfig)

    @property
    def width(self) -> int:
        """Size of the vector that is read."""
        return self.multimodal.width

    def mistakes(self, field: str) -> list[str]:
        """What is wrong with this geometry, one line each."""
        return [
            *self.image.mistakes(f"{field}.image"),
            *self.text.mistakes(f"{field}.text"),
            *self.multimodal.mistakes(f"{field}.multimodal"),
        ]


@dataclass(frozen=True, kw_only=True)
class ClipPairConfig:
    """Geometry of CLIP's two encoders, whose vectors of a pair are joined end to end."""

    image: ClipImageConfig = field(default_factory=ClipImageConfig)
    text: ClipTextConfig = field(default_factory=ClipTextConfig)

    @property
    def width(self) -> int:
        """Size of the vector that is read."""
        return self.image.width + self.text.width

    def mistakes(self, field: str) -> list[str]:
        """What is wrong with this geometry, one line each."""
        return [*self.image.mistakes(f"{field}.image"), *self.text.mistakes(f"{field}.text")]


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
        text = text_of(inputs)
        return self.text_encoder.norm(self.text_encoder.cls(text.ids, text.real)[:, 0])


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
        pair = pair_of(inputs)
        real = pair.text.real
        # As in pretraining, it reads both encoders' states before their final norms.
        image = self.image_to_multimodal(self.image_encoder(pair.image.pixels))
        text = self.text_to_multimodal(self.text_encoder(pair.text.ids, real))
        return self.multimodal_encoder.norm(self.multimodal_encoder.cls(image, text, real)[:, 0])


class ClipTextFeatures(nn.Module):
    """Texts -> CLIP's end-of-text token after the final norm, before the projection."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.text_encoder = ClipTextEncoder(config)

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch width"]:
        text = text_of(inputs)
        states = self.text_encoder.end(text.ids, text.real)
        return self.text_encoder.norm(at_end(states, text.ids))


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
        pair = pair_of(inputs)
        image = self.image_encoder.norm(self.image_encoder.cls(pair.image.pixels)[:, 0])
        states = self.text_encoder.end(pair.text.ids, pair.text.real)
        text = self.text_encoder.norm(at_end(states, pair.text.ids))
        return torch.cat([image, text], dim=1)


def text_of(inputs: Inputs) -> TextInputs:
    """Raises ValueError: these are no texts."""
    if not isinstance(inputs, TextInputs):
        raise ValueError(f"this model reads text, and was given {inputs.kind}")
    return inputs


def pair_of(inputs: Inputs) -> PairInputs:
    """Raises ValueError: these are no pairs."""
    if not isinstance(inputs, PairInputs):
        raise ValueError(f"this model reads pairs, and was given {inputs.kind} alone")
    return inputs


Features = ImageFeatures | TextFeatures | PairFeatures | ClipTextFeatures | ClipPairFeatures


def build_features(config: FeaturesConfig) -> Features:
    """Encoders of that geometry, with torch's own initial weights: they are to be filled."""
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


def kind_of(config: FeaturesConfig) -> Kind:
    """What encoders of that geometry read."""
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
        case ((Flava() | MaskedImage() | Dino()), "images"):
            return model.config.image
        case ((Flava() | MaskedText() | Clip()), "text"):
            return model.config.text
        case Flava(config=config), "pairs":
            return PairConfig(image=config.image, text=config.text, multimodal=config.multimodal)
        case Clip(config=config), "pairs":
            return ClipPairConfig(image=config.image, text=config.text)
    raise ValueError(
        f"a {type(model).__name__} does not read {kind}: give a FLAVA (a run of `flava train`, "
        "or a checkpoint)"
    )


def with_image_size(config: FeaturesConfig, image_size: int) -> FeaturesConfig:
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


def fill_features(features: Features, model: nn.Module) -> None:
    """Copy a model's weights: the encoders have the same names in both.

    Where images are of another size, the position embeddings are interpolated to their grid.
    """
    state, empty = model.state_dict(), features.state_dict()
    weights = {name: state[name] for name in empty}
    if POSITIONS in weights:
        theirs, ours = (math.isqrt(each[POSITIONS].shape[1] - 1) for each in (state, empty))
        weights[POSITIONS] = resize_positions(weights[POSITIONS], theirs, ours, ours)
    features.load_state_dict(weights)


def features_of(model: nn.Module, kind: Kind) -> Features:
    """A copy of the part of a model that reads inputs of that kind, in evaluation mode.

    Raises:
        ValueError: the model has no such part.
    """
    features = build_features(features_config(model, kind))
    fill_features(features, model)
    return features.eval()
