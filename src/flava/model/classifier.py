"""Encoders with a classification head on top: what fine-tuning trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Float
from torch import Tensor, nn

from flava.batch import Inputs, Kind
from flava.model.features import (
    FeaturesConfig,
    build_features,
    features_config,
    fill_features,
    kind_of,
    with_image_size,
)
from flava.named import Named

PAIR_HIDDEN_WIDTH = 1536
"""Hidden width of the paper's two-layer head on h_CLS,M."""

DROPOUT = 0.1
"""Before the last layer, as BERT's classification head has it (Devlin et al. 2019; its code)."""

HEAD_INIT_STD = 0.02
"""Standard deviation of a new head's weights: that of the published model's initial weights."""


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Geometry of a classifier, and the names of what it tells apart."""

    encoder: Annotated[FeaturesConfig, Named()]
    """Geometry of the encoders; its type tells what they read: images, text or pairs."""
    classes: tuple[str, ...]
    """The classes' names, in the order of the logits; if there are none, a score is predicted."""
    hidden_width: int | None
    """Width of the head's hidden layer; a single linear layer if there is none."""

    def __post_init__(self) -> None:
        mistakes = self.encoder.mistakes("encoder")
        if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes):
            mistakes.append(f"classes are {self.classes}: use two or more, each once")
        if self.hidden_width is not None and self.hidden_width < 1:
            mistakes.append(f"hidden_width is {self.hidden_width}: use at least 1, or null")
        if mistakes:
            raise ValueError("the classifier does not hold:\n  " + "\n  ".join(mistakes))

    @property
    def outputs(self) -> int:
        """A logit for each class, or the score."""
        return len(self.classes) or 1

    @property
    def kind(self) -> Kind:
        """What is classified."""
        return kind_of(self.encoder)


class Classifier(nn.Module):
    """Inputs -> logits of the classes, or a score.

    Pairs have the paper's head: two layers on h_CLS,M, with a hidden width of 1,536. The paper
    fine-tunes texts with "a classification head" and does not fine-tune images: both have one
    linear layer on their encoder's [CLS] after its final norm, as is usual for BERT and ViT.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.features = build_features(config.encoder)
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
        encoder = with_image_size(encoder, image_size)
    config = ClassifierConfig(encoder=encoder, classes=tuple(classes), hidden_width=hidden_width)
    classifier = Classifier(config)
    fill_features(classifier.features, model)
    return classifier
