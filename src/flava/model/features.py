"""The part of a model that reads images, texts or pairs, as one vector each: what a head sees."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from flava.batch import ImageInputs, Inputs, Kind, PairInputs, TextInputs
from flava.model.dino import Dino
from flava.model.flava import Flava
from flava.model.image import ImageConfig, ImageEncoder
from flava.model.masked import MaskedImage, MaskedText
from flava.model.multimodal import MultimodalConfig, MultimodalEncoder
from flava.model.text import TextConfig, TextEncoder


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


FeaturesConfig = ImageConfig | TextConfig | PairConfig


class ImageFeatures(nn.Module):
    """Images -> h_CLS,I: the image encoder's [CLS] after its final norm."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder(config)

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch width"]:
        if not isinstance(inputs, ImageInputs):
            raise ValueError(f"this model reads images, and was given {inputs.kind}")
        return self.image_encoder.norm(self.image_encoder(inputs.pixels)[:, 0])


class TextFeatures(nn.Module):
    """Texts -> h_CLS,T: the text encoder's [CLS] after its final norm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.text_encoder = TextEncoder(config)

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch width"]:
        if not isinstance(inputs, TextInputs):
            raise ValueError(f"this model reads text, and was given {inputs.kind}")
        return self.text_encoder.norm(self.text_encoder(inputs.ids, inputs.real)[:, 0])


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
        if not isinstance(inputs, PairInputs):
            raise ValueError(f"this model reads pairs, and was given {inputs.kind} alone")
        real = inputs.text.real
        # As in pretraining, it reads both encoders' states before their final norms.
        image = self.image_to_multimodal(self.image_encoder(inputs.image.pixels))
        text = self.text_to_multimodal(self.text_encoder(inputs.text.ids, real))
        return self.multimodal_encoder.norm(self.multimodal_encoder(image, text, real)[:, 0])


Features = ImageFeatures | TextFeatures | PairFeatures


def build_features(config: FeaturesConfig) -> Features:
    """Encoders of that geometry, with torch's own initial weights: they are to be filled."""
    match config:
        case ImageConfig():
            return ImageFeatures(config)
        case TextConfig():
            return TextFeatures(config)
        case PairConfig():
            return PairFeatures(config)


def kind_of(config: FeaturesConfig) -> Kind:
    """What encoders of that geometry read."""
    match config:
        case ImageConfig():
            return "images"
        case TextConfig():
            return "text"
        case PairConfig():
            return "pairs"


def features_config(model: nn.Module, kind: Kind) -> FeaturesConfig:
    """The geometry of the part of a model that reads inputs of that kind.

    Raises:
        ValueError: the model has no such part.
    """
    match model, kind:
        case ((Flava() | MaskedImage() | Dino()), "images"):
            return model.config.image
        case ((Flava() | MaskedText()), "text"):
            return model.config.text
        case Flava(config=config), "pairs":
            return PairConfig(image=config.image, text=config.text, multimodal=config.multimodal)
    raise ValueError(
        f"a {type(model).__name__} does not read {kind}: give a FLAVA (a run of `flava train`, "
        "or a checkpoint)"
    )


def fill_features(features: Features, model: nn.Module) -> None:
    """Copy a model's weights: the encoders have the same names in both."""
    weights = model.state_dict()
    features.load_state_dict({name: weights[name] for name in features.state_dict()})


def features_of(model: nn.Module, kind: Kind) -> Features:
    """A copy of the part of a model that reads inputs of that kind, in evaluation mode.

    Raises:
        ValueError: the model has no such part.
    """
    features = build_features(features_config(model, kind))
    fill_features(features, model)
    return features.eval()
