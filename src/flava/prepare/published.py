"""Readers of PMD's nine sources, from the files as they are published to rows of pairs.

Columns and fields are those of the published files; ``sources`` names the publishers' pages.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit

from flava.data.errors import SampleError, SkippedSample
from flava.prepare.rows import (
    AnnotationRow,
    Entries,
    RowOrSkipped,
    json_items,
    json_lines,
    quoted_rows,
    rows_of,
    tab_rows,
    text_lines,
)

SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
"""As in ``data.full_sentences``, without new lines."""

WIT_COLUMNS = (
    "language",
    "image_url",
    "caption_reference_description",
    "caption_attribution_description",
    "caption_alt_text_description",
    "attribution_passes_lang_id",
)
"""The columns that are read, of 17."""

YFCC_WIDTH, YFCC_HASHED_WIDTH = 23, 25
"""Columns of ``yfcc100m_dataset-N`` (2014), and of ``yfcc100m_dataset`` (2016), which has a line
number before the photo's id and a hash behind it."""


def coco(paths: Sequence[Path]) -> Iterator[RowOrSkipped]:
    """COCO's captions JSON, whose "images" list the image files."""
    for path in paths:
        split = path.name.split(".")[0].rpartition("_")[2]  # captions_train2014.json
        licences = {each["id"]: each["url"] for each in _readable_objects(path, "licenses.item")}
        images = {
            each["id"]: (each["file_name"], each.get("license"), each.get("coco_url"))
            for each in _readable_objects(path, "images.item")
        }

        def make(
            entry: Any,
            location: str,
            images: dict[Any, Any] = images,
            licences: dict[Any, Any] = licences,
            split: str = split,
        ) -> Iterable[AnnotationRow]:
            if entry["image_id"] not in images:
                raise SampleError("image is not listed", f"image_id {entry['image_id']}")
            name, licence, url = images[entry["image_id"]]
            yield AnnotationRow(
                location=location,
                captions=(entry["caption"],),
                names=(f"{split}/{name}", name),
                url=url,
                licence=licences.get(licence),
            )

        yield from rows_of(path, json_items(path, "annotations.item"), make)


def _readable_objects(path: Path, prefix: str) -> Iterator[dict[str, Any]]:
    """The items that can be read; a damaged file is reported where its annotations are read."""
    for entry in json_items(path, prefix):
        if not isinstance(entry, SkippedSample) and isinstance(entry[1], dict):
            yield entry[1]


def sbu(paths: Sequence[Path]) -> Iterator[RowOrSkipped]:
    """``sbu-captions-all.json``, or the two text files of URLs and of captions.

    Raises:
        ValueError: the files are neither.
    """
    texts = [path for path in paths if ".txt" in path.name]
    for path in paths:
        if path not in texts:
            both = (json_items(path, f"{name}.item") for name in ("image_urls", "captions"))
            yield from rows_of(path, _zip_entries(*both), _sbu_row)
    if texts:
        parts = [[path for path in texts if word in path.name] for word in ("urls", "captions")]
        if [len(part) for part in parts] != [1, 1]:
            raise ValueError(
                f"--annotations {' '.join(map(str, texts))}: give the file of URLs and the one of "
                "captions, SBU_captioned_photo_dataset_urls.txt and ..._captions.txt"
            )
        (urls,), (captions,) = parts
        yield from rows_of(captions, _zip_entries(text_lines(urls), text_lines(captions)), _sbu_row)


def _zip_entries(*parts: Entries) -> Entries:
    """The entries of several files that have the same number, as tuples."""
    for number, entries in enumerate(zip_longest(*parts), 1):
        bad = [each for each in entries if isinstance(each, SkippedSample)]
        yield from bad
        if not bad:
            # A file that ends early gives None, and so the tuple has too few cells.
            yield number, tuple(each[1] for each in entries if isinstance(each, tuple))


def _sbu_row(entry: Any, location: str) -> Iterable[AnnotationRow]:
    if len(entry) < 2:
        raise SampleError("field is missing", "there are more URLs than captions, or fewer")
    url, caption = entry
    yield AnnotationRow(location=location, captions=(caption,), names=(_file_name(url),), url=url)


def localized_narratives(paths: Sequence[Path]) -> Iterator[RowOrSkipped]:
    """JSON lines of Open Images, Flickr30K, COCO and ADE20K; each sentence makes a pair.

    The paper counts 1.9 million pairs, and there are 0.87 million narratives; the loader that was
    published with PMD (``facebook/pmd``) divides them at full stops.
    """
    for path in paths:
        yield from rows_of(path, json_lines(path), _narrative_rows)


def _narrative_rows(entry: Any, location: str) -> Iterable[AnnotationRow]:
    names = _narrative_names(entry["dataset_id"], str(entry["image_id"]))
    for sentence in SENTENCE_END.split(entry["caption"].strip()):
        yield AnnotationRow(location=location, captions=(sentence,), names=names)


def _narrative_names(dataset: str, image: str) -> tuple[str, ...]:
    """Paths at which the image may lie, as in the archive of its data set's publisher."""
    kind, split = dataset.lower(), dataset.lower().rpartition("_")[2]
    if "coco" in kind:
        name = f"{int(image):012d}.jpg"
        return f"{split}/{name}", name
    name = f"{image.removesuffix('.jpg')}.jpg"
    if "flickr" in kind:
        return f"flickr30k-images/{name}", name
    if "ade20k" in kind:
        return f"images/{'validation' if split.startswith('val') else 'training'}/{name}", name
    return f"{split}/{name}", name


def cc3m(paths: Sequence[Path]) -> Iterator[RowOrSkipped]:
    """Conceptual Captions: caption, URL."""
    for path in paths:
        yield from rows_of(path, tab_rows(path, (2,)), lambda e, at: _web_row(e[1], e[0], at))


def cc12m(paths: Sequence[Path]) -> Iterator[RowOrSkipped]:
    """Conceptual Captions 12M: URL, caption."""
    for path in paths:
        yield from rows_of(path, tab_rows(path, (2,)), lambda e, at: _web_row(e[0], e[1], at))


def _web_row(url: str, caption: str, location: str) -> Iterable[AnnotationRow]:
    name = f"{hashlib.md5(url.encode(errors='surrogateescape')).hexdigest()}.jpg"
    yield AnnotationRow(location=location, captions=(caption,), names=(name,), url=url)


def visual_genome(paths: Sequence[Path]) -> Iterator[RowOrSkipped]:
    """``region_descriptions.json``; each region is cut out and makes an image.

    The paper's 70 million pairs have 68 million images (the data set's card). With the whole images
    instead, which are 108,000 for these 5.4 million pairs, there would be less than 65 million.
    """
    for path in paths:
        yield from rows_of(path, json_items(path, "item"), _region_rows)


def _region_rows(entry: Any, location: str) -> Iterable[AnnotationRow]:
    image = entry["id"] if "id" in entry else entry["image_id"]
    for region in entry["regions"]:
        left, top = int(region["x"]), int(region["y"])
        yield AnnotationRow(
            location=f"{location} (region {region['region_id']})",
            captions=(region["phrase"],),
            names=(f"VG_100K/{image}.jpg", f"VG_100K_2/{image}.jpg", f"{image}.jpg"),
            box=(left, top, int(region["width"]), int(region["height"])),
        )


def wit(paths: Sequence[Path]) -> Iterator[RowOrSkipped]:
    """Wikipedia Image Text, its English rows.

    The caption is the text below the image in the article (reference), else the alternative text,
    else the text on the image's page (attribution), if that is in the row's language.
    """
    for path in paths:
        yield from rows_of(path, quoted_rows(path, WIT_COLUMNS), _wit_row)


def _wit_row(entry: Any, location: str) -> Iterable[AnnotationRow]:
    if entry["language"] != "en":
        raise SampleError("text is not English", entry["language"])
    texts = [entry["caption_reference_description"], entry["caption_alt_text_description"]]
    if entry["attribution_passes_lang_id"].lower() == "true":
        texts.append(entry["caption_attribution_description"])
    url = entry["image_url"]
    yield AnnotationRow(location=location, captions=tuple(texts), names=(_file_name(url),), url=url)


def redcaps(paths: Sequence[Path]) -> Iterator[RowOrSkipped]:
    """A JSON for each subreddit and year; the caption is "caption", cleaned by its authors."""
    for path in paths:
        yield from rows_of(path, json_items(path, "annotations.item"), _redcaps_row)


def _redcaps_row(entry: Any, location: str) -> Iterable[AnnotationRow]:
    name = f"{entry['subreddit']}/{entry['image_id']}.jpg"
    yield AnnotationRow(
        location=location, captions=(entry["caption"],), names=(name,), url=entry["url"]
    )


def yfcc100m(paths: Sequence[Path]) -> Iterator[RowOrSkipped]:
    """The metadata, tab-separated, in 23 or 25 columns; the caption is description, else title."""
    for path in paths:
        yield from rows_of(path, tab_rows(path, (YFCC_WIDTH, YFCC_HASHED_WIDTH)), _yfcc_row)


def _yfcc_row(entry: Any, location: str) -> Iterable[AnnotationRow]:
    hashed = len(entry) == YFCC_HASHED_WIDTH
    photo, digest = (entry[1], entry[2]) if hashed else (entry[0], "")
    cells = entry[2:] if hashed else entry  # from column 6 on both files have the same columns
    if cells[22] == "1":
        raise SampleError("row is a video", photo)
    names = [f"{photo}.{cells[21] or 'jpg'}"]
    if digest:  # as the Multimedia Commons keep them
        names.append(f"{digest[:3]}/{digest[3:6]}/{digest}.{cells[21] or 'jpg'}")
    yield AnnotationRow(
        location=location,
        captions=(unquote_plus(cells[7]), unquote_plus(cells[6])),
        names=tuple(names),
        url=cells[14],
        licence=cells[16],
    )


def _file_name(url: Any) -> str:
    """The last part of a URL's path, as the file that a browser saves."""
    if not isinstance(url, str):
        raise SampleError("URL is missing", type(url).__name__)
    return PurePosixPath(unquote(urlsplit(url).path)).name
