"""The files that data sets of pairs are published in: JSON, JSON lines, and Karpathy's splits.

Karpathy's ``dataset_flickr30k.json`` and ``dataset_coco.json`` ("Deep visual-semantic alignments",
Karpathy and Fei-Fei 2015) are {"images": [{"imgid", "filename", "filepath" (of COCO only), "split",
"sentences": [{"raw", ...}, ...]}, ...]}.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flava.data.labelled import LabelledRow
from flava.data.tables import Record, read_table
from flava.suite.data_mistakes import duplicates, missing_names, raise_mistakes_by_kind


def missing_paths(paths: Iterable[Path]) -> list[str]:
    """A line for each file or folder that does not exist."""
    return [f"{path} is missing" for path in paths if not path.exists()]


FLICKR_IMAGES = "flickr30k-images"
"""The folder of Flickr30K's images, as its archive names it."""


def images_in(folder: Path, name: str, other: str) -> Path:
    """The folder ``name`` of images: in the data set's folder, or else in that of the data set
    ``other`` beside it, whose images these are."""
    here, there = folder / name, folder.parent / other / name
    return there if there.is_dir() and not here.is_dir() else here


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: fetch it")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): fetch it anew") from error


def read_json_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a file, each with its name "FILE:LINE"; empty lines are skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: some lines are no objects, or there are no lines; all mistakes in one error.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: fetch it")
    records, wrong = [], []
    for record in read_table(path, ()):
        if isinstance(record, Record):
            records.append((f"{path.name}:{record.number}", record.cells))
        else:
            wrong.append(record.message if not record.key else f"{record.key} ({record.message})")
    raise_mistakes_by_kind(path, {"lines that cannot be read": wrong}, "Fetch it anew.")
    return records


TEST = "test"
"""The split that the paper reports: 1,000 images of Flickr30K, 5,000 of COCO."""


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """An image with all its captions."""

    name: str
    """The file's path, relative to the folder of the images."""
    image: Path
    captions: tuple[str, ...]


def read_split(path: Path, images: Path, split: str = TEST) -> list[Captioned]:
    """The images of one split, in the file's order.

    Args:
        path: Karpathy's JSON.
        images: The folder that ``filename``, or ``filepath``/``filename``, is relative to.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has another form, lists an image twice, an image file is missing or has no
            caption, or no image is of that split; all mistakes in one error.
    """
    wanted = [each for each in _read_entries(path) if each["split"] == split]
    captioned = [
        Captioned(
            name=str(Path(each.get("filepath", "")) / each["filename"]),
            image=images / each.get("filepath", "") / each["filename"],
            captions=tuple(sentence["raw"].strip() for sentence in each["sentences"]),
        )
        for each in wanted
    ]
    raise_mistakes_by_kind(
        path,
        {
            f"images of the split {split!r}": [] if captioned else ["none"],
            "images that are listed twice": duplicates(each.name for each in captioned),
            "images without a caption, or with an empty one": [
                each.name for each in captioned if not each.captions or not all(each.captions)
            ],
            f"images that are missing below {images}": missing_names(
                each.image for each in captioned
            ),
        },
        "Fetch what is missing, and the JSON anew if it is at fault.",
    )
    return captioned


def _read_entries(path: Path) -> list[dict[str, Any]]:
    """All images of Karpathy's JSON; raises ValueError if fields are missing or of wrong types."""
    content = read_json(path)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f'{path} has no list "images": it is not one of Karpathy\'s files')
    kind = 'images without "filename", "split" or "sentences" with "raw", by place'
    malformed = [place for place, each in enumerate(entries) if not _well_formed(each)]
    raise_mistakes_by_kind(path, {kind: malformed}, "Fetch it anew.")
    return entries


def _well_formed(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("sentences"), list):
        return False
    texts = [entry.get("filename"), entry.get("split"), entry.get("filepath", "")]
    texts += [s.get("raw") if isinstance(s, dict) else None for s in entry["sentences"]]
    return all(isinstance(each, str) for each in texts)


def rows_of(
    captioned: Sequence[Captioned], source: str
) -> tuple[list[LabelledRow], list[LabelledRow], list[int]]:
    """Rows of the images, rows of the captions, and for each caption the index of its image."""
    images = [LabelledRow(shard=source, key=each.name, image=each.image) for each in captioned]
    captions, owners = [], []
    for place, each in enumerate(captioned):
        for number, caption in enumerate(each.captions):
            captions.append(LabelledRow(shard=source, key=f"{each.name}#{number}", text=caption))
            owners.append(place)
    return images, captions, owners
