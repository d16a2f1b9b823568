"""Objectives, one module for each method: an objective turns a batch into named losses."""

from flava.objectives.classifier import FinetuneObjective
from flava.objectives.clip import ClipObjective, ClipObjectiveConfig, ContrastConfig
from flava.objectives.codebook import CodebookObjective, CodebookObjectiveConfig
from flava.objectives.dino import DinoObjective, DinoObjectiveConfig
from flava.objectives.flava import FlavaObjective, FlavaObjectiveConfig
from flava.objectives.losses import LossOutput
from flava.objectives.unimodal import MaskedObjective, MaskedObjectiveConfig

__all__ = [
    "ClipObjective",
    "ClipObjectiveConfig",
    "CodebookObjective",
    "CodebookObjectiveConfig",
    "ContrastConfig",
    "DinoObjective",
    "DinoObjectiveConfig",
    "FinetuneObjective",
    "FlavaObjective",
    "FlavaObjectiveConfig",
    "LossOutput",
    "MaskedObjective",
    "MaskedObjectiveConfig",
]
