"""The page of `flava data stats --html`: the content of shards, compared with the paper's data."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from flava.core.files import write_atomically
from flava.data.decoding import decode_image
from flava.prepare.inspection import LONGEST, Described, RandomSample, mean_words
from flava.prepare.sources import SOURCES
from flava.reports.charts import Chart, histogram, share_bars
from flava.reports.formatting import DASH, readable_bytes
from flava.reports.page import image_data_uri, render_page

PICTURES = 24
"""How many samples of all shards together the page shows."""
THUMBNAIL_PIXELS = 160
"""Longest side of a sample's picture, in pixels."""
MAX_LANGUAGES = 12
"""How many languages have a bar of their own; the others share one."""
PAPER_WORDS = 12
"""Words per caption on average (section 4 of the paper)."""
MAX_TEXT_LENGTH = 220
"""Characters of a sample's text that the page shows."""


@dataclass(frozen=True)
class SourceCounts:
    """A source of PMD: the paper's number of pairs, and what was counted here.

    Counts are None if no shards of the source were given.
    """

    title: str
    paper: float
    """Pairs in the paper, in millions."""
    pairs: int | None
    images: int | None
    words: float | None
    """Words per caption on average."""
    rows: int | None
    """Rows of the published files that were read."""

    @property
    def share(self) -> float | None:
        """The pairs here as a share of the paper's."""
        return None if self.pairs is None else self.pairs / (1e6 * self.paper)


def write_data_report(folders: Sequence[Described], path: Path) -> None:
    """Write the page.

    Raises:
        OSError: it could not be written.
    """
    html = render_page(
        "data",
        name="The data",
        command="flava data stats",
        facts=_facts(folders),
        headlines=_headlines(folders),
        counts=_source_counts(folders),
        charts=_charts(folders),
        folders=folders,
        samples=[(_thumbnail(each), each) for each in _shown_samples(folders)],
        max_text_length=MAX_TEXT_LENGTH,
    )
    write_atomically(path, html.encode(errors="replace"))


def _facts(folders: Sequence[Described]) -> list[tuple[str, str]]:
    """(name, value) pairs for the head of the page."""
    rows = sum(each.manifest["rows"] for each in folders)
    kept = sum(each.manifest["kept"] for each in folders)
    size = sum(each.manifest["bytes"] for each in folders)
    return [
        ("shards", f"{sum(len(each.manifest['shards']) for each in folders):,}"),
        ("size", readable_bytes(size)),
        ("rows read", f"{rows:,}"),
        ("rows left out", f"{rows - kept:,}" if rows >= kept else DASH),
    ]


def _headlines(folders: Sequence[Described]) -> list[tuple[str, str, str]]:
    """(name, value, comparison or remark) for the largest numbers of the page."""
    words: Counter[int] = sum((each.stats.words for each in folders), Counter())
    mean = mean_words(words)
    images = sum(each.manifest["images"] for each in folders)
    return [
        (
            "Samples",
            f"{sum(each.stats.samples for each in folders):,}",
            "the paper has 70 M pairs",
        ),
        ("Different images", f"{images:,}", "by their names, within each source"),
        (
            "Words per text",
            DASH if mean is None else f"{mean:.1f}",
            f"on average; the paper has {PAPER_WORDS} per caption",
        ),
    ]


def _source_counts(folders: Sequence[Described]) -> list[SourceCounts]:
    """The paper's nine sources, whether their shards were given or not."""
    counts = []
    for name, source in SOURCES.items():
        if source.pairs is None:
            continue
        given = [each for each in folders if each.manifest["source"] == name]
        words: Counter[int] = sum((each.stats.words for each in given), Counter())
        counts.append(
            SourceCounts(
                title=source.title,
                paper=source.pairs,
                pairs=sum(each.manifest["kept"] for each in given) if given else None,
                images=sum(each.manifest["images"] for each in given) if given else None,
                words=mean_words(words),
                rows=sum(each.manifest["rows"] for each in given) if given else None,
            )
        )
    return counts


def _charts(folders: Sequence[Described]) -> list[Chart]:
    """The distributions that the samples have: shards of texts have no sizes of images."""
    words: Counter[int] = sum((each.stats.words for each in folders), Counter())
    sides: Counter[int] = sum((each.stats.sides for each in folders), Counter())
    shapes: Counter[float] = sum((each.stats.shapes for each in folders), Counter())
    languages: Counter[str] = sum((each.stats.languages for each in folders), Counter())
    charts = []
    if words:
        charts.append(
            Chart(
                title="Words per text",
                meaning=f"Texts of more than {LONGEST} words are counted as {LONGEST}. The line is "
                "the paper's mean.",
                svg=histogram("words", words, mark=float(PAPER_WORDS)),
            )
        )
    if languages:
        charts.append(
            Chart(
                title="Languages",
                meaning="As fastText recognises them. It is often wrong for very short texts.",
                svg=share_bars("languages", _commonest(languages)),
            )
        )
    if sides:
        charts.append(
            Chart(
                title="Sizes of images",
                meaning="Pixels of the shorter side in the shards, where large images were "
                "stored smaller.",
                svg=histogram("sides", sides),
            )
        )
        charts.append(
            Chart(
                title="Shapes of images",
                meaning="Width divided by height: below 1 the image is upright, above 1 wide.",
                svg=histogram("shapes", shapes, width=0.1),
            )
        )
    return charts


def _commonest(languages: Counter[str]) -> dict[str, int]:
    """The commonest languages, and the others together."""
    named = dict(languages.most_common(MAX_LANGUAGES))
    rest = languages.total() - sum(named.values())
    return {**named, "others": rest} if rest else named


def _shown_samples(folders: Sequence[Described]) -> list[RandomSample]:
    """The same number of samples from each folder."""
    from_each = -(-PICTURES // max(1, len(folders)))
    return [sample for folder in folders for sample in folder.stats.picked[:from_each]]


def _thumbnail(sample: RandomSample) -> str | None:
    """A small JPEG as a data URI; None for a sample without an image."""
    if sample.image is None:
        return None
    image = decode_image(sample.image)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return image_data_uri(stream.getvalue(), "jpeg")
