"""What is computed: the encoders, the heads and the codebook. No loss, no data, no training."""

from flava.model.clip import Clip, ClipConfig, ClipImageConfig, ClipTextConfig
from flava.model.codebook import Codebook, CodebookConfig
from flava.model.flava import MAX_LOGIT_SCALE, Flava, FlavaConfig
from flava.model.image import ImageConfig, ImageEncoder
from flava.model.multimodal import MultimodalConfig, MultimodalEncoder
from flava.model.text import TextConfig, TextEncoder
from flava.model.transformer import Activation

__all__ = [
    "MAX_LOGIT_SCALE",
    "Activation",
    "Clip",
    "ClipConfig",
    "ClipImageConfig",
    "ClipTextConfig",
    "Codebook",
    "CodebookConfig",
    "Flava",
    "FlavaConfig",
    "ImageConfig",
    "ImageEncoder",
    "MultimodalConfig",
    "MultimodalEncoder",
    "TextConfig",
    "TextEncoder",
]
