"""The files that data sets of pairs come in, with all mistakes in one error.

``dataset_flickr30k.json`` and ``dataset_coco.json`` of "Deep visual-semantic alignments"
(Karpathy and Fei-Fei 2015): {"images": [{"imgid", "filename", "filepath" (COCO's alone), "split",
"sentences": [{"raw", ...}, ...]}, ...]}.
"""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flava.data.labelled import LabelledRow
from flava.data.tables import Record, read_table

Item = TypeVar("Item")

SHOWN = 10
"""Names that are written out of each kind of mistake; the others are counted."""


def refuse(source: Path, found: Mapping[str, Iterable[object]], remedy: str) -> None:
    """Nothing if there are no mistakes.

    Args:
        source: The file or folder that they are in.
        found: A kind of mistake -> the names of all that have it.
        remedy: What to do about it.

    Raises:
        ValueError: there are some: a line for each kind, with their number and the first names.
    """
    lines = [f"{what}: {listed(names)}" for what, each in found.items() if (names := list(each))]
    if lines:
        raise ValueError(f"{source} cannot be used:\n  " + "\n  ".join(lines) + f"\n{remedy}")


def read_all(*reads: Callable[[], Item]) -> list[Item]:
    """What each of them returns.

    Raises:
        FileNotFoundError: of some of them there is no file, and nothing else is wrong.
        ValueError: some of them fail, with all their errors in one.
    """
    found: list[Item] = []
    errors: list[Exception] = []
    for read in reads:
        try:
            found.append(read())
        except (ValueError, FileNotFoundError) as error:
            errors.append(error)
    if errors:
        missing = all(isinstance(each, FileNotFoundError) for each in errors)
        kind = FileNotFoundError if missing else ValueError
        raise kind("\n".join(str(each) for each in errors)) from errors[0]
    return found


def listed(names: Sequence[object]) -> str:
    """The first of them, and how many more there are."""
    shown = ", ".join(map(str, names[:SHOWN]))
    more = len(names) - SHOWN
    return shown if more <= 0 else f"{shown} and {more:,} more"


def repeated(ids: Iterable[Hashable]) -> list[Hashable]:
    """Those that stand there more than once."""
    return [each for each, count in Counter(ids).items() if count > 1]


def absent(paths: Iterable[Path]) -> list[str]:
    """The names of the files that are not there, each once."""
    return [path.name for path in dict.fromkeys(paths) if not path.is_file()]


def missing_of(paths: Iterable[Path]) -> list[str]:
    """A line for each file or folder that is not there."""
    return [f"{path} is missing" for path in paths if not path.exists()]


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


TEST = "test"
"""The split that the paper measures: 1,000 images of Flickr30K, 5,000 of COCO."""


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """An image with all its captions; ``name`` is its file's, from the folder of the images."""

    name: str
    image: Path
    captions: tuple[str, ...]


def read_split(path: Path, images: Path, split: str = TEST) -> list[Captioned]:
    """The images of one split, in the file's order.

    Args:
        path: Karpathy's JSON.
        images: The folder that ``filename``, or ``filepath``/``filename``, is below.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of that form, names an image twice, an image file is missing or has
            no caption, or no image is of that split; all mistakes in one error.
    """
    wanted = [each for each in entries_of(path) if each["split"] == split]
    found = [
        Captioned(
            name=str(Path(each.get("filepath", "")) / each["filename"]),
            image=images / each.get("filepath", "") / each["filename"],
            captions=tuple(sentence["raw"].strip() for sentence in each["sentences"]),
        )
        for each in wanted
    ]
    refuse(
        path,
        {
            f"images of the split {split!r}": [] if found else ["none"],
            "images that stand there twice": repeated(each.name for each in found),
            "images without a caption, or with an empty one": [
                each.name for each in found if not each.captions or not all(each.captions)
            ],
            f"images that are missing below {images}": absent(each.image for each in found),
        },
        "Fetch what is missing, and the JSON anew if it is at fault.",
    )
    return found


def entries_of(path: Path) -> list[dict[str, Any]]:
    """All images; raises ValueError if fields are missing or of another type."""
    whole = read_json(path)
    images = whole.get("images") if isinstance(whole, dict) else None
    if not isinstance(images, list):
        raise ValueError(f'{path} has no list "images": it is not one of Karpathy\'s files')
    malformed = [place for place, each in enumerate(images) if not well_formed(each)]
    refuse(
        path,
        {'images without "filename", "split" or "sentences" with "raw", by place': malformed},
        "Fetch it anew.",
    )
    return images


def well_formed(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("sentences"), list):
        return False
    texts = [entry.get("filename"), entry.get("split"), entry.get("filepath", "")]
    texts += [s.get("raw") if isinstance(s, dict) else None for s in entry["sentences"]]
    return all(isinstance(each, str) for each in texts)


def rows_of(
    captioned: Sequence[Captioned], source: str
) -> tuple[list[LabelledRow], list[LabelledRow], list[int]]:
    """A row for each image, a row for each caption, and the caption's image by its place."""
    images = [LabelledRow(shard=source, key=each.name, image=each.image) for each in captioned]
    captions, owners = [], []
    for place, each in enumerate(captioned):
        for number, caption in enumerate(each.captions):
            captions.append(LabelledRow(shard=source, key=f"{each.name}#{number}", text=caption))
            owners.append(place)
    return images, captions, owners
