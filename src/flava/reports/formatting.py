"""Numbers as the reports print them, and tables as Markdown and CSV text."""

import csv
import io
from collections.abc import Iterable, Sequence

DASH = "\N{EN DASH}"
"""Stands where nothing was measured."""

MINUS = "\N{MINUS SIGN}"


def number(value: float) -> str:
    """Three decimals, and a fourth for values that three would show as almost nothing."""
    return f"{value:.4f}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def signed(value: float, decimals: int = 3) -> str:
    """A difference with its sign; zero is positive."""
    return f"{value:+z.{decimals}f}".replace("-", MINUS)


def thousands(count: int) -> str:
    """A whole number with a comma between every three digits."""
    return f"{count:,}"


def readable_bytes(count: int) -> str:
    """Three significant digits, in the unit that leaves at most three before the point."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A pipe table, without a line break at its end. All columns but the first align right.

    Characters that would end a cell or open an HTML element are escaped.
    """
    cells = ([_escape_markdown(cell) for cell in row] for row in (head, *rows))
    first, *others = (f"| {' | '.join(row)} |" for row in cells)
    return "\n".join([first, "| --- |" + " ---: |" * (len(head) - 1), *others])


def _escape_markdown(cell: str) -> str:
    escaped = cell.replace("\\", "\\\\").replace("|", "\\|")
    return escaped.replace("<", "&lt;").replace("\n", " ")


def csv_text(rows: Iterable[Sequence[str]]) -> str:
    """The rows as CSV, the first of them the header."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
