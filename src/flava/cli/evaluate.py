"""`flava evaluate` measures a model; `flava report` writes the pages that show the figures."""

from pathlib import Path
from typing import Annotated

import tyro

from flava.core.precision import Precision
from flava.evaluation.evaluate import evaluate_run, folder_for_figures
from flava.inference.load import device_named
from flava.reports.classifier_report import is_classification, write_classification_report
from flava.reports.run_report import write_report
from flava.reports.suite_report import is_suite, report_suite
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

    Without --tasks, the model is evaluated on held-out data of the embedded corpus, and the figures
    are written to RUN/evaluation.json. With --tasks, it is evaluated on data sets below --data-root
    by the paper's protocol, and the figures of each task are added to RUN/results.jsonl. Run the
    same command again to go on after an interruption, or after adding missing data; `flava report`
    makes the table. All options but --output-dir are for --tasks and --dry-run only.

    Args:
        run: The run's folder, as given to `flava train` with --output-dir; or anything that
            flava.load takes.
        output_dir: The folder to write to instead of RUN. It is needed if RUN is a file or the id
            of a model on the hub.
        tasks: "vision", "nlp", "multimodal" or names of tasks, separated by commas.
        data_root: The folder that holds a folder for each data set.
        few: Use only this many samples of each split, to try everything out. By default all.
        dry_run: Evaluate nothing. List which data is there, which is missing, where to get it, and
            its licence.
        cache: Folder for features, extracted text and fine-tuned runs, so that nothing is computed
            twice. By default RUN/cache; models with the same cache share the text extracted from
            images.
        batch_size: Samples that are computed at once.
        precision: Number format of matrix products.
        seed: Seed of everything that is drawn at random.
        device: A device of PyTorch, such as cpu or cuda:0. auto takes a GPU if there is one.
    """
    if tasks is None and not dry_run:
        _require_unset({"--data-root": data_root, "--few": few, "--cache": cache})
        print(evaluate_run(_given(run), output_dir=output_dir))
        return
    if data_root is None:
        raise ValueError("give the folder that holds a folder for each data set with --data-root")
    chosen = TASKS if tasks is None else select(tasks)
    if dry_run:
        print_availability(chosen, data_root)
        return
    folder = folder_for_figures(_given(run), output_dir)
    settings = Settings(
        data_root=data_root,
        cache=folder / "cache" if cache is None else cache,
        few=few,
        seed=seed,
        precision=precision,
        batch_size=batch_size,
    )
    print(evaluate_suite(_given(run), chosen, settings, folder, device=device_named(device)))


def _given(run: str | None) -> str:
    """Raises ValueError: no model is given."""
    if run is None:
        raise ValueError("give a run's folder, a file of weights or a model's id on the hub")
    return run


def _require_unset(options: dict[str, object]) -> None:
    """Raises ValueError: options are given that only an evaluation with --tasks uses."""
    if given := [name for name, value in options.items() if value is not None]:
        raise ValueError(f"{', '.join(given)}: only with --tasks, which names what is measured")


def report(
    results: tyro.conf.Positional[tuple[Path, ...]],
    output: Path | None = None,
    paper: str = "flava-dino",
) -> None:
    """Write a run's report.html, or the table of the results of `flava evaluate --tasks`.

    The report of a run shows training curves, figures next to their baselines, and pictures. The
    table has a column for each model and one of the paper's.

    Args:
        results: For the report: a run's folder, as given to `flava train`, `flava finetune` or
            `flava probe` with --output-dir. For the table: any number of results.jsonl, or of
            folders that hold one.
        output: Make the table, and write it to this folder as table.md, table.csv and table.html.
            Without it, the table is only printed.
        paper: The column of Table C.1 to compare with. flava-dino is the paper's main model,
            clip-400m is OpenAI's CLIP.
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
