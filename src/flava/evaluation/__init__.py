"""Held-out data and a model -> figures beside their baselines, and a report to read them in."""

from flava.evaluation.harness import EvaluationConfig, evaluate
from flava.evaluation.probe import zero_shot_probe
from flava.evaluation.record import Evaluation, Figure, load_evaluation, save_evaluation
from flava.evaluation.report import write_report
from flava.evaluation.run import evaluate_run

__all__ = [
    "Evaluation",
    "EvaluationConfig",
    "Figure",
    "evaluate",
    "evaluate_run",
    "load_evaluation",
    "save_evaluation",
    "write_report",
    "zero_shot_probe",
]
