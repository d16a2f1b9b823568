"""Karpathy's splits of Flickr30K and COCO: images with their captions, from his JSON.

``dataset_flickr30k.json`` and ``dataset_coco.json`` of "Deep visual-semantic alignments"
(Karpathy and Fei-Fei 2015): {"images": [{"imgid", "filename", "filepath" (COCO's alone), "split",
"sentences": [{"raw", ...}, ...]}, ...]}.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flava.data.labelled import Row
from flava.evaluation.suite.multimodal.files import read_json
from flava.evaluation.suite.multimodal.mistakes import absent, refuse, repeated

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


def rows_of(captioned: Sequence[Captioned], source: str) -> tuple[list[Row], list[Row], list[int]]:
    """A row for each image, a row for each caption, and the caption's image by its place."""
    images = [Row(shard=source, key=each.name, image=each.image) for each in captioned]
    captions, owners = [], []
    for place, each in enumerate(captioned):
        for number, caption in enumerate(each.captions):
            captions.append(Row(shard=source, key=f"{each.name}#{number}", text=caption))
            owners.append(place)
    return images, captions, owners
