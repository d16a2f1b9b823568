"""DINO (Caron et al. 2021): a student and a teacher, each an image encoder with a head."""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from flava.models.config import EncoderModel, ModelConfig
from flava.models.encoders import ImageConfig, ImageEncoder
from flava.models.flava import PARTS, initialise_module


@dataclass(frozen=True, kw_only=True)
class DinoConfig(ModelConfig):
    """Geometry of both networks; the defaults are those published for ViT-B/16.

    They are ``DINOHead``'s and ``main_dino.py``'s of facebookresearch/dino.
    """

    image: ImageConfig = field(default_factory=ImageConfig)
    """Geometry of the image encoder. Only the student uses its drop_path; the teacher has none."""
    head_width: PositiveInt = 2048
    """Hidden size of the head's MLP."""
    bottleneck: PositiveInt = 256
    """Size of the unit vectors that the head's last layer compares with the prototypes."""
    outputs: PositiveInt = 65_536
    """Output dimension of the head: the number of prototypes."""
    init_std: NonNegativeFloat = 0.02
    """Standard deviation of initial weights. Narrow models learn sooner with a larger one."""
    token_init_std: NonNegativeFloat = 0.02
    """Standard deviation of the initial [CLS] token, mask token and position embeddings."""


class DinoHead(nn.Module):
    """[CLS] -> logits: a three-layer MLP, normalisation, and the cosine with each prototype.

    The weights of the last layer, the prototypes, are normalised to length 1 (``norm_last_layer``,
    which is on for ViT-B/16).
    """

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        hidden = config.head_width
        self.mlp = nn.Sequential(
            nn.Linear(config.image.width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, config.bottleneck),
        )
        self.last_layer = nn.Linear(config.bottleneck, config.outputs, bias=False)

    def forward(
        self, features: Float[Tensor, "samples width"], *, frozen: bool = False
    ) -> Float[Tensor, "samples outputs"]:
        """With ``frozen``, the last layer gets no gradient."""
        prototypes = functional.normalize(self.last_layer.weight, dim=1)
        vectors = functional.normalize(self.mlp(features), dim=-1)
        return functional.linear(vectors, prototypes.detach() if frozen else prototypes)


class DinoNetwork(nn.Module):
    """The student or the teacher: crops -> logits."""

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder(config.image)
        self.head = DinoHead(config)

    def forward(
        self, pixels: Float[Tensor, "crops batch 3 height width"], *, frozen: bool = False
    ) -> Float[Tensor, "crops batch outputs"]:
        """``frozen``: as in `DinoHead`."""
        encoder = self.image_encoder
        cls = encoder.norm(encoder.cls(pixels.flatten(0, 1))[:, 0])
        return self.head(cls, frozen=frozen).unflatten(0, pixels.shape[:2])


class Dino(DinoNetwork, EncoderModel):
    """The teacher, which is what was published as the pretrained model, with its student.

    The names outside ``student`` are the teacher's: ``image_encoder`` is what later stages take. It
    has no gradients: `follow` moves it. ``center`` is what its outputs have been on average.
    """

    config: DinoConfig
    center: Tensor

    missing_parts = PARTS - {"image_encoder"}

    def __init__(self, config: DinoConfig) -> None:
        super().__init__(replace(config, image=replace(config.image, drop_path=0.0)))
        self.config = config
        self.requires_grad_(False)
        self.student = DinoNetwork(config)
        self.initialise()
        self.register_buffer("center", torch.zeros(config.outputs))

    def initialise(self) -> None:
        """Initialise the student, its last layer by torch's default, and copy it to the teacher."""
        encoder, head = self.student.image_encoder, self.student.head
        for module in (*encoder.modules(), *head.mlp.modules()):
            initialise_module(module, self.config.init_std)
        for token in (encoder.cls_token, encoder.mask_token, encoder.positions):
            nn.init.normal_(token, std=self.config.token_init_std)
        self.follow(momentum=0.0)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Teacher = ``momentum`` * teacher + (1 - ``momentum``) * student."""
        for name, parameter in self.student.named_parameters():
            self.get_parameter(name).lerp_(parameter, 1 - momentum)
