"""What the data sets of pairs share on disk: JSON, and images that may be a neighbour's."""

import json
from pathlib import Path
from typing import Any

from flava.data.tables import Record, read_table
from flava.evaluation.suite.multimodal.mistakes import refuse

FLICKR_IMAGES = "flickr30k-images"
"""The folder of Flickr30K's images, named as in its archive."""


def images_in(folder: Path, name: str, lender: str) -> Path:
    """The folder ``name``: the data set's own, or else that of the neighbouring set ``lender``."""
    own, borrowed = folder / name, folder.parent / lender / name
    return borrowed if borrowed.is_dir() and not own.is_dir() else own


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: fetch it")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): fetch it anew") from error


def read_json_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a file, each with its name, "FILE:LINE"; empty lines are passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: some lines are no objects, or there is none; all of them in one error.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: fetch it")
    records, wrong = [], []
    for record in read_table(path, ()):
        if isinstance(record, Record):
            records.append((f"{path.name}:{record.number}", record.cells))
        else:
            wrong.append(record.message if not record.key else f"{record.key} ({record.message})")
    refuse(path, {"lines that cannot be read": wrong}, "Fetch it anew.")
    return records
