"""`flava evaluate` and `flava report`: a run's figures, and the page that shows them."""

from pathlib import Path

import tyro

from flava.evaluation.classification_report import (
    is_classification,
    write_classification_report,
)
from flava.evaluation.report import write_report
from flava.evaluation.run import evaluate_run


def evaluate(run: tyro.conf.Positional[str], output_dir: Path | None = None) -> None:
    """Evaluate a run, or a published FLAVA, on held-out data, and write RUN/evaluation.json.

    Args:
        run: The run's folder, as given to `flava train` with --output-dir; or anything that
            flava.load takes.
        output_dir: The folder to write to instead of RUN, which a file or a hub id needs.
    """
    print(evaluate_run(run, output_dir=output_dir))


def report(run: tyro.conf.Positional[Path]) -> None:
    """Write RUN/report.html: curves, figures beside their baselines, and pictures.

    Args:
        run: The run's folder, as given to `flava train` with --output-dir, or to `flava finetune`
            or `flava probe`.
    """
    write = write_classification_report if is_classification(run) else write_report
    print(f"report: {write(run)}")
