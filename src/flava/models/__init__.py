"""The models, as `nn.Module`s with their configurations."""

from flava.models.classifier import (
    Classifier,
    ClassifierConfig,
    FeatureEncoder,
    FeaturesConfig,
    classifier_of,
    features_of,
)
from flava.models.clip import Clip, ClipConfig, ClipImageConfig, ClipTextConfig
from flava.models.codebook import Codebook, CodebookConfig
from flava.models.config import EncoderModel
from flava.models.dino import Dino, DinoConfig
from flava.models.encoders import (
    ImageConfig,
    ImageEncoder,
    MultimodalConfig,
    MultimodalEncoder,
    TextConfig,
    TextEncoder,
)
from flava.models.flava import MAX_LOGIT_SCALE, Flava, FlavaConfig
from flava.models.heads import MaskedHead
from flava.models.transformer import Activation
from flava.models.unimodal import (
    MaskedImageConfig,
    MaskedImageModel,
    MaskedTextConfig,
    MaskedTextModel,
)

__all__ = [
    "MAX_LOGIT_SCALE",
    "Activation",
    "Classifier",
    "ClassifierConfig",
    "Clip",
    "ClipConfig",
    "ClipImageConfig",
    "ClipTextConfig",
    "Codebook",
    "CodebookConfig",
    "Dino",
    "DinoConfig",
    "EncoderModel",
    "FeatureEncoder",
    "FeaturesConfig",
    "Flava",
    "FlavaConfig",
    "ImageConfig",
    "ImageEncoder",
    "MaskedHead",
    "MaskedImageConfig",
    "MaskedImageModel",
    "MaskedTextConfig",
    "MaskedTextModel",
    "MultimodalConfig",
    "MultimodalEncoder",
    "TextConfig",
    "TextEncoder",
    "classifier_of",
    "features_of",
]
