"""`flava report` of the suite's results: on the terminal, and as files."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from flava.evaluation.suite.page import html
from flava.evaluation.suite.results import FILE
from flava.evaluation.suite.table import make_table, read_all
from flava.evaluation.suite.written import comma_separated, drawn, markdown
from flava.training.files import unwritable, write_whole

NO_TERMINAL = 1_000
"""Letters of a line where the table goes to a file or a pipe: as many as it needs."""

RUN_FILES = ("run.json", "metrics.jsonl", "evaluation.json", "classification.json")
"""What a run's folder holds, one or the other."""


def is_suite(places: Sequence[Path]) -> bool:
    """Whether these are results of the suite: not one folder alone that is a run's."""
    if len(places) != 1 or places[0].is_file() or places[0].suffix == Path(FILE).suffix:
        return True
    is_run = any((places[0] / name).exists() for name in RUN_FILES)
    return (places[0] / FILE).is_file() and not is_run


def report_suite(places: Sequence[Path], paper: str, output: Path | None = None) -> None:
    """Print the table; with ``output`` write table.md, table.csv and table.html into it.

    Raises:
        FileNotFoundError, ValueError: as `read_all` and `make_table`.
        OSError: the files could not be written.
    """
    table = make_table(read_all(places), paper)
    console = Console()
    console.print(drawn(table), width=None if console.is_terminal else NO_TERMINAL)
    if output is None:
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(output, error) from error
    write_whole(output / "table.md", markdown(table).encode(errors="replace"))
    write_whole(output / "table.csv", comma_separated(table).encode(errors="replace"))
    write_whole(output / "table.html", html(table, output).encode(errors="replace"))
    print(f"written: {output}/table.md, table.csv and table.html")
