"""`flava evaluate` and `flava report`: a model's figures, and the pages that show them."""

from pathlib import Path
from typing import Annotated

import tyro

from flava.core.precision import Precision
from flava.evaluation.evaluate import evaluate_run, folder_for_figures
from flava.inference.load import device_named
from flava.reports.classifier_report import is_classification, write_classification_report
from flava.reports.run_report import write_report
from flava.reports.suite_page import is_suite, report_suite
from flava.suite.registry import TASKS, print_availability, select
from flava.suite.results_file import FILE
from flava.suite.run_suite import evaluate_suite
from flava.suite.task import Settings


def evaluate(
    run: tyro.conf.Positional[str | None] = None,
    output_dir: Path | None = None,
    tasks: str | None = None,
    data_root: Path | None = None,
    few: int | None = None,
    dry_run: bool = False,
    cache: Path | None = None,
    batch_size: int = Settings.batch_size,
    precision: Annotated[Precision, tyro.conf.EnumChoicesFromValues] = Settings.precision,
    seed: int = Settings.seed,
    device: str = "auto",
) -> None:
    """Evaluate a run, or a published FLAVA or CLIP, on held-out data or on the paper's tasks.

    Without --tasks it is evaluated on held-out data of the embedded corpus, and RUN/evaluation.json
    is written. With it, on data sets below --data-root by the paper's protocol: each task adds its
    figures to RUN/results.jsonl, and the same command goes on after an interruption, or with data
    that was missing. For the table, run flava report on it. All options but --output-dir are for
    --tasks alone.

    Args:
        run: The run's folder, as given to `flava train` with --output-dir; or anything that
            flava.load takes.
        output_dir: The folder to write to instead of RUN, which a file or a hub id needs.
        tasks: "vision", "nlp", "multimodal" or names of tasks, separated by commas.
        data_root: The folder that holds a folder for each data set.
        few: Samples of each split that are looked at, for a trial; all if not set.
        dry_run: Only list what data is there, what is missing, where it is to be had and under
            which licence.
        cache: Where features, extracted text and fine-tuned runs are kept. By default in
            RUN/cache; models that share one extract the text of images once.
        batch_size: Samples that are computed at once.
        precision: What matrix products are computed in.
        seed: Decides all that is drawn.
        device: As torch names it; auto takes a GPU if there is one.
    """
    if tasks is None and not dry_run:
        only_for_tasks({"--data-root": data_root, "--few": few, "--cache": cache})
        print(evaluate_run(needed(run), output_dir=output_dir))
        return
    if data_root is None:
        raise ValueError("give the folder that holds a folder for each data set with --data-root")
    chosen = TASKS if tasks is None else select(tasks)
    if dry_run:
        print_availability(chosen, data_root)
        return
    folder = folder_for_figures(needed(run), output_dir)
    settings = Settings(
        data_root=data_root,
        cache=folder / "cache" if cache is None else cache,
        few=few,
        seed=seed,
        precision=precision,
        batch_size=batch_size,
    )
    print(evaluate_suite(needed(run), chosen, settings, folder, device=device_named(device)))


def needed(run: str | None) -> str:
    if run is None:
        raise ValueError("give a run's folder, a file of weights or a model's id on the hub")
    return run


def only_for_tasks(options: dict[str, object]) -> None:
    """Raises ValueError: options are given that an evaluation on the embedded corpus ignores."""
    if given := [name for name, value in options.items() if value is not None]:
        raise ValueError(f"{', '.join(given)}: only with --tasks, which names what is measured")


def report(
    results: tyro.conf.Positional[tuple[Path, ...]],
    output: Path | None = None,
    paper: str = "flava-dino",
) -> None:
    """Write RUN/report.html; or the paper's table of what `flava evaluate --tasks` found.

    A run's page has curves, figures beside their baselines, and pictures. The table has a column
    for each result, beside one of the paper's.

    Args:
        results: A run's folder, as given to `flava train` with --output-dir, or to `flava finetune`
            or `flava probe`. Or any number of results.jsonl, or folders that hold one.
        output: The folder to write the table to, as table.md, table.csv and table.html. Of a run's
            folder too, it makes the table.
        paper: The column of Table C.1 to compare with: flava-dino is the headline model, clip-400m
            OpenAI's CLIP.
    """
    if not results:
        raise ValueError("give a run's folder, or results of `flava evaluate --tasks`")
    if output is not None or is_suite(results):
        report_suite(results, paper, output)
        return
    (run,) = results
    write = write_classification_report if is_classification(run) else write_report
    print(f"report: {write(run)}")
    if (run / FILE).is_file():
        print(f"for the paper's table: flava report {run / FILE}")
