"""The page of `flava data stats`: what shards hold, beside what the paper counts."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from flava.core.files import write_atomically
from flava.data.decoding import decode_image
from flava.prepare.inspection import LONGEST, Described, RandomSample, mean_words
from flava.prepare.sources import SOURCES
from flava.reports.charts import ACCENT, INK, MUTED, STYLE, themed_svg
from flava.reports.run_report import environment

PICTURES = 24
"""Samples of all shards together on the contact sheet."""
THUMB = 160
"""Pixels of their longer side."""
LANGUAGES = 12
"""That are named; the others are counted together."""
PAPER_WORDS = 12
"""Words of a caption on average (section 4 of the paper)."""
NOTHING = "\N{EN DASH}"
NARROWEST = 10
"""Bars that a histogram has room for at least, so that a single one looks like one."""
TEXT_SHOWN = 220
"""Characters of a sample's text."""


@dataclass(frozen=True)
class CountedValue:
    """A source's pairs beside the paper's, in the page's table."""

    title: str
    paper: float
    """Millions."""
    pairs: int | None
    images: int | None
    words: float | None
    rows: int | None

    @property
    def share(self) -> float | None:
        """Of the paper's pairs."""
        return None if self.pairs is None else self.pairs / (1e6 * self.paper)


@dataclass(frozen=True)
class Histogram:
    """A histogram with its words."""

    title: str
    words: str
    drawing: Markup


def write_page(found: Sequence[Described], path: Path) -> None:
    """Write the page.

    Raises:
        OSError: it could not be written.
    """
    page = environment(path.parent).get_template("data.html.jinja")
    html = page.render(
        name="The data",
        command="flava data stats",
        facts=facts(found),
        headlines=headlines(found),
        counts=counts(found),
        charts=charts(found),
        folders=found,
        sources=SOURCES,
        mean_words=mean_words,
        picked=[(thumb(each), each) for each in picked(found)],
        shown=TEXT_SHOWN,
    )
    write_atomically(path, html.encode(errors="replace"))


def facts(found: Sequence[Described]) -> list[tuple[str, str]]:
    """(what, value) for the page's head."""
    rows = sum(each.manifest["rows"] for each in found)
    kept = sum(each.manifest["kept"] for each in found)
    size = sum(each.manifest["bytes"] for each in found)
    return [
        ("Shards", f"{sum(len(each.manifest['shards']) for each in found):,}"),
        ("Size", readable_bytes(size)),
        ("Rows read", f"{rows:,}"),
        ("Left out", f"{rows - kept:,}" if rows >= kept else NOTHING),
    ]


def headlines(found: Sequence[Described]) -> list[tuple[str, str, str]]:
    """(what, figure, beside it)."""
    words: Counter[int] = sum((each.stats.words for each in found), Counter())
    mean = mean_words(words)
    images = sum(each.manifest["images"] for each in found)
    return [
        ("Samples", f"{sum(each.stats.samples for each in found):,}", "the paper: 70 M pairs"),
        ("Different images", f"{images:,}", "by their names, in each source"),
        (
            "Words of a text",
            NOTHING if mean is None else f"{mean:.1f}",
            f"on average; the paper: {PAPER_WORDS} of a caption",
        ),
    ]


def counts(found: Sequence[Described]) -> list[CountedValue]:
    """The nine sources, whether they are there or not."""
    lines = []
    for name, source in SOURCES.items():
        if source.pairs is None:
            continue
        there = [each for each in found if each.manifest["source"] == name]
        words: Counter[int] = sum((each.stats.words for each in there), Counter())
        lines.append(
            CountedValue(
                title=source.title,
                paper=source.pairs,
                pairs=sum(each.manifest["kept"] for each in there) if there else None,
                images=sum(each.manifest["images"] for each in there) if there else None,
                words=mean_words(words),
                rows=sum(each.manifest["rows"] for each in there) if there else None,
            )
        )
    return lines


def charts(found: Sequence[Described]) -> list[Histogram]:
    """Those for which there is something to be drawn."""
    words: Counter[int] = sum((each.stats.words for each in found), Counter())
    sides: Counter[int] = sum((each.stats.sides for each in found), Counter())
    shapes: Counter[float] = sum((each.stats.shapes for each in found), Counter())
    languages: Counter[str] = sum((each.stats.languages for each in found), Counter())
    made = []
    if words:
        about = f"Longer ones are counted at {LONGEST}. The line is the paper's mean."
        drawing = histogram("words", dict(words), mark=float(PAPER_WORDS))
        made.append(Histogram("Words of a text", about, drawing))
    if languages:
        about = "As fastText tells it of each text; of the shortest it is often wrong."
        made.append(Histogram("Languages", about, bars("languages", top(languages))))
    if sides:
        about = "Pixels of the shorter side, as written: larger images were made smaller."
        made.append(Histogram("Sizes of images", about, histogram("sides", dict(sides))))
        about = "Width by height: left of 1 upright, right of it wide."
        made.append(
            Histogram("Shapes of images", about, histogram("shapes", dict(shapes), width=0.1))
        )
    return made


def top(languages: Counter[str]) -> dict[str, int]:
    """The commonest, and the others together."""
    named = dict(languages.most_common(LANGUAGES))
    rest = languages.total() - sum(named.values())
    return {**named, "others": rest} if rest else named


def histogram(
    name: str,
    values: dict[int, int] | dict[float, int],
    *,
    width: float = 1.0,
    mark: float | None = None,
) -> Markup:
    """Samples by a number."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(3.6, 1.9), layout="constrained")
        axes = figure.add_subplot()
        # At most so many bars can be told apart.
        span = max(values) - min(values) + width
        step = width * max(1, round(span / width / 60))
        merged: Counter[float] = Counter()
        for value, count in values.items():
            merged[step * round(value / step)] += count
        middle = (max(merged) + min(merged)) / 2
        reach = max(span, NARROWEST * width) / 2
        axes.set_xlim(middle - reach, middle + reach)
        axes.bar(list(merged), list(merged.values()), 0.9 * step, color=ACCENT, zorder=2)
        if mark is not None:
            axes.axvline(mark, color=INK, linewidth=1.2, zorder=3)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(visible=False, axis="x")
        return Markup(themed_svg(figure, name))


def bars(name: str, values: dict[str, int]) -> Markup:
    """Samples by a name, from above, each bar with its share."""
    total = sum(values.values())
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(3.6, 0.4 + 0.18 * len(values)), layout="constrained")
        axes = figure.add_subplot()
        axes.barh(list(values), list(values.values()), 0.75, color=ACCENT, zorder=2)
        for place, count in enumerate(values.values()):
            axes.text(count, place, f" {100 * count / total:.1f} %", va="center", color=MUTED)
        axes.set_xlim(0, 1.2 * max(values.values()))
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        return Markup(themed_svg(figure, name))


def picked(found: Sequence[Described]) -> list[RandomSample]:
    """As many of each folder, in the folders' order."""
    each = -(-PICTURES // max(1, len(found)))
    return [sample for one in found for sample in one.stats.picked[:each]]


def thumb(sample: RandomSample) -> str | None:
    """A small picture as a data URL."""
    if sample.image is None:
        return None
    image = decode_image(sample.image)
    image.thumbnail((THUMB, THUMB), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def readable_bytes(count: int) -> str:
    """In the unit that leaves one to three digits before the point."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
