"""What is computed: the encoders, the heads and the codebook. No loss, no data, no training."""

from flava.model.classifier import Classifier, ClassifierConfig, classifier_of
from flava.model.clip import Clip, ClipConfig, ClipImageConfig, ClipTextConfig
from flava.model.codebook import Codebook, CodebookConfig
from flava.model.dino import Dino, DinoConfig
from flava.model.features import Features, FeaturesConfig, features_of
from flava.model.flava import MAX_LOGIT_SCALE, Flava, FlavaConfig
from flava.model.heads import MaskedHead
from flava.model.image import ImageConfig, ImageEncoder
from flava.model.masked import MaskedImage, MaskedImageConfig, MaskedText, MaskedTextConfig
from flava.model.multimodal import MultimodalConfig, MultimodalEncoder
from flava.model.text import TextConfig, TextEncoder
from flava.model.transformer import Activation

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
    "Features",
    "FeaturesConfig",
    "Flava",
    "FlavaConfig",
    "ImageConfig",
    "ImageEncoder",
    "MaskedHead",
    "MaskedImage",
    "MaskedImageConfig",
    "MaskedText",
    "MaskedTextConfig",
    "MultimodalConfig",
    "MultimodalEncoder",
    "TextConfig",
    "TextEncoder",
    "classifier_of",
    "features_of",
]
