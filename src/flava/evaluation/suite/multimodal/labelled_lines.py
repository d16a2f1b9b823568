"""Labelled pairs that stand in JSON lines, an object each: SNLI-VE's and Hateful Memes' files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flava.data import labelled
from flava.data.labelled import Row
from flava.evaluation.suite.multimodal.files import read_json_lines
from flava.evaluation.suite.multimodal.mistakes import absent, refuse, repeated


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the fields of an object are called."""

    id: str
    image: tuple[str, ...]
    """The image file's name: the first of these that is there."""
    suffix: str
    """What the name ends in; some releases leave it out."""
    text: str
    label: str
    classes: Mapping[Any, str]
    """What stands in the field `label` -> the class."""


def read_pairs(path: Path, images: Path, layout: Layout) -> list[Row]:
    """The pairs of one split in the file's order, with their classes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: lines are no objects or lack a field, a label is none of the classes, a class
            has no pair, an id stands there twice, or images are missing; all mistakes in one error.
    """
    lines = read_json_lines(path)
    fields = (layout.id, " or ".join(layout.image), layout.text, layout.label)
    whole = [cells for _, cells in lines if well_formed(cells, layout)]
    classes = [class_of(each, layout) for each in whole]
    rows = [
        Row(
            shard=path.name,
            key=str(each[layout.id]),
            image=images / image_name(each, layout),
            text=each[layout.text],
            label=found,
        )
        for each, found in zip(whole, classes, strict=True)
    ]
    refuse(
        path,
        {
            f"lines without {', '.join(fields)}": [
                name for name, cells in lines if not well_formed(cells, layout)
            ],
            f"labels other than {', '.join(map(str, layout.classes))}": [
                f"{each[layout.label]!r} of {each[layout.id]}"
                for each, found in zip(whole, classes, strict=True)
                if found is None
            ],
            "classes of which there is none": [
                name for name in layout.classes.values() if name not in classes
            ],
            "ids that stand there twice": repeated(row.key for row in rows),
            f"images that are missing in {images}": absent(
                row.image for row in rows if isinstance(row.image, Path)
            ),
        },
        "Fetch what is missing, and the file anew if it is at fault.",
    )
    return rows


def well_formed(cells: Mapping[str, Any], layout: Layout) -> bool:
    """Whether all fields are there, and hold a text or a whole number."""
    fields = (layout.id, image_field(cells, layout), layout.text, layout.label)
    return all(type(cells.get(each)) in (str, int) for each in fields) and isinstance(
        cells[layout.text], str
    )


def image_field(cells: Mapping[str, Any], layout: Layout) -> str:
    return next((each for each in layout.image if each in cells), layout.image[0])


def image_name(cells: Mapping[str, Any], layout: Layout) -> str:
    name = str(cells[image_field(cells, layout)])
    return name.removesuffix(layout.suffix) + layout.suffix


def class_of(cells: Mapping[str, Any], layout: Layout) -> str | None:
    return layout.classes.get(cells[layout.label])


def few_of_each(rows: Sequence[Row], few: int | None, seed: int) -> list[Row]:
    """About ``few`` of the rows, of each class its share, drawn by the seed; all if not set."""
    if few is None or few >= len(rows):
        return list(rows)
    return [rows[place] for place in sorted(labelled.drawn(rows, few / len(rows), seed))]
