"""Shared by all HTML pages: templates with their filters, and pictures as data URIs."""

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flava.evaluation import descriptions
from flava.evaluation.record import PICTURES, Confusion
from flava.reports.formatting import number, signed, thousands

TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, **values: Any) -> str:
    """The HTML of a page: one file that loads nothing from elsewhere.

    Everything that is not marked as safe is escaped.

    Args:
        template: The name of a file in ``templates/``, without its suffix ".html.jinja".
        values: What the template shows; for `parts.html.jinja`'s image also "picture".
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        strongest_baseline=descriptions.strongest_baseline,
        baseline_names=descriptions.BASELINE_NAMES,
        metric_names=descriptions.METRIC_NAMES,
        confusion_rows=_confusion_rows,
    )
    environment.filters.update(
        number=number,
        signed=signed,
        thousands=thousands,
        split_at_blanks=_split_at_blanks,
        token_text=_token_text,
    )
    return environment.get_template(f"{template}.html.jinja").render(**values)


def image_data_uri(data: bytes, image_type: str) -> str:
    """The bytes of an image file as the source of an <img>.

    Args:
        data: The file's content.
        image_type: The MIME subtype: "png", "jpeg" or "webp".
    """
    return f"data:image/{image_type};base64,{base64.b64encode(data).decode()}"


def evaluation_picture(run_folder: Path, name: str) -> str | None:
    """A picture that an evaluation wrote into the run's folder, as a data URI; None if missing.

    Names come from a file, so a name that holds a path is treated as missing.
    """
    path = run_folder / PICTURES / f"{name}.png"
    if not re.fullmatch(r"[\w-]+", name) or not path.is_file():
        return None
    return image_data_uri(path.read_bytes(), "png")


def _confusion_rows(confusion: Confusion) -> list[tuple[str, int, list[tuple[int, float]]]]:
    """For each row of the matrix: (class, its images, [(count, share of the row)])."""
    return [
        (name, sum(row), [(count, count / max(1, sum(row))) for count in row])
        for name, row in zip(confusion.classes, confusion.counts, strict=True)
    ]


def _split_at_blanks(sentence: str, blanks: Sequence[Any]) -> list[tuple[str, int]]:
    """A sentence split at each [MASK]: (text, 0), or ("", number from 1) in place of a blank."""
    parts: list[tuple[str, int]] = []
    for i, text in enumerate(sentence.split("[MASK]")):
        if 0 < i <= len(blanks):
            parts.append(("", i))
        parts.append((text, 0))
    return parts


def _token_text(token: str) -> str:
    """A token as the page shows it: "…s" for "##s", which continues a word."""
    return "…" + token.removeprefix("##") if token.startswith("##") else token
