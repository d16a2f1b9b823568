"""Draw docs/architecture.svg: the folders of src/flava, their imports, and three ways through them.

    python -m scripts.draw_architecture [OUTPUT]

Everything in the picture is read from the source: the floors from the layers of import-linter's
contract in pyproject.toml, the size of each folder and the first line of its docstring, and the
imports. Nothing is imported or run. The three ways in ``WAYS`` are written by hand, and checked:
each step must be a module, and it must import the step that it comes from, or be imported by it.
"""

import ast
import math
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from textwrap import wrap
from xml.sax.saxutils import escape

from scripts.measure_house import House, Module

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "docs" / "architecture.svg"


@dataclass(frozen=True, kw_only=True)
class Way:
    """A path through the modules, drawn in a lane of its own."""

    title: str
    subtitle: str
    steps: tuple[str, ...]
    """Modules, without the package's name."""
    after: dict[str, str]
    """The earlier step that a step comes from, where that is not the one before it."""

    @property
    def joined(self) -> list[tuple[str, str]]:
        """Each step but the first, behind the one that it comes from."""
        return [(self.after.get(step, before), step) for before, step in pairwise(self.steps)]


WAYS = (
    Way(
        title="A batch in training",
        subtitle="shards to a checkpoint",
        steps=(
            "data.shards",
            "data.samples",
            "data.collate",
            "data.loader",
            "recipes.start",
            "training.trainer",
            "objectives.objective",
            "objectives.losses",
            "training.optimizer",
            "training.checkpoint",
        ),
        after={
            "training.optimizer": "training.trainer",
            "training.checkpoint": "training.trainer",
        },
    ),
    Way(
        title="flava embed",
        subtitle="files to a table of embeddings",
        steps=(
            "cli.embed",
            "inference.load",
            "checkpoints.recognise",
            "inference.row_sources",
            "inference.bulk",
            "inference.pretrained",
            "inference.processor",
            "inference.encoding",
            "inference.features",
            "models.flava",
            "inference.output_files",
        ),
        after={"inference.row_sources": "cli.embed", "inference.output_files": "inference.bulk"},
    ),
    Way(
        title="flava evaluate, flava report",
        subtitle="held-out data to a page",
        steps=(
            "cli.evaluate",
            "evaluation.evaluate",
            "checkpoints.recognise",
            "evaluation.embedded_data",
            "evaluation.embedded_features",
            "evaluation.embedded_tasks",
            "evaluation.record",
            "reports.run_report",
            "reports.training_curves",
            "reports.charts",
        ),
        after={"evaluation.embedded_data": "evaluation.evaluate"},
    ),
)

PLACES = {
    "cli": (0.2, 0.8),
    "reproduction": (0.2, 0.8),
    "recipes": (0.0, 0.46),
    "reports": (0.54, 1.0),
    "suite": (0.5, 1.0),
    "finetuning": (0.5, 1.0),
    "planning": (0.0, 0.38),
    "evaluation": (0.46, 1.0),
    "training": (0.0, 0.34),
    "prepare": (0.38, 0.64),
    "inference": (0.68, 1.0),
    "objectives": (0.0, 0.42),
    "checkpoints": (0.38, 0.8),
    "methods": (0.06, 0.6),
    "data": (0.0, 0.47),
    "models": (0.53, 1.0),
    "core": (0.2, 0.8),
}
"""Where a folder begins and ends in its row, as parts of the width, so that imports that pass
several floors have gaps to pass through. A row with a folder that is not named here is divided
equally, with gaps too."""

MARGIN = 28.0
BOXES_WIDTH = 680.0
LANES_LEFT = MARGIN + BOXES_WIDTH + 34
LANE_GAP = 26.0
TOP = 128.0
ROW_GAP = 25.0
LINE = 22.0
"""Height of a step in a lane, in pixels, as all lengths here."""
GAP_EDGE = 18.0
"""How near to a box an import may pass it."""
STEP_RIGHT = 14.0
"""How much further to the right each step is than the one before."""
DOT = 8.5
LETTER = 0.56
"""Width of a letter of the sans-serif fonts that are asked for, as a part of the font's size; an
estimate on the safe side, since the reader's font is not known."""

STYLE = """
:root { color-scheme: light dark }
svg { --page: #ffffff; --band: #f5f6f8; --box: #ffffff; --edge: #c9ced6; --text: #1c2128;
  --muted: #5d6673; --line: #8b95a3; --way0: #c2570c; --way1: #1f63d6; --way2: #7a35c9;
  font-family: system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif }
@media (prefers-color-scheme: dark) {
  svg { --page: #0f1318; --band: #171c23; --box: #1f262f; --edge: #3a4451; --text: #e8ecf1;
    --muted: #a1abb8; --line: #717d8c; --way0: #f59e5b; --way1: #74a9ff; --way2: #c79bff } }
.page { fill: var(--page) }
.band { fill: var(--band) }
.box { fill: var(--box); stroke: var(--edge) }
.import { fill: none; stroke: var(--line); stroke-linecap: round }
.head { fill: var(--line) }
text { fill: var(--text); font-size: 12px }
.title { font-size: 22px; font-weight: 650 }
.name { font-size: 15px; font-weight: 650 }
.lane { font-size: 14px; font-weight: 650 }
.muted { fill: var(--muted) }
.small { font-size: 11.5px }
.number { fill: var(--page); font-size: 10px; font-weight: 700; text-anchor: middle }
.way { fill: none; stroke-width: 2.5; stroke-linecap: round; opacity: 0.75 }
.way0 { stroke: var(--way0) } .way1 { stroke: var(--way1) } .way2 { stroke: var(--way2) }
.dot0, .lane0 { fill: var(--way0) } .dot1, .lane1 { fill: var(--way1) }
.dot2, .lane2 { fill: var(--way2) }
"""


class Architecture:
    """What the picture shows of a package, read from its source.

    Raises:
        SystemExit: a way has a step that is no module, or a step without an import to the one that
            it comes from.
    """

    def __init__(self, root: Path = ROOT, ways: Sequence[Way] = WAYS) -> None:
        self.house = House(root / "src" / "flava")
        self.rows = read_layers(root / "pyproject.toml")
        self.ways = ways
        self.imports = {name: set(self.imported_by(m)) for name, m in self.house.modules.items()}
        if problems := list(self.problems()):
            raise SystemExit("scripts/draw_architecture.py, WAYS:\n  " + "\n  ".join(problems))

    def imported_by(self, module: Module) -> Iterator[str]:
        """The package's modules that a module imports names of, through what packages pass on."""
        for _, meant, whole in module.bindings(ast.walk(module.tree)):
            for name in (whole, meant):
                if found := self.house.resolve(name):
                    yield found[0].name
            parts = whole.split(".")
            known = (".".join(parts[:n]) for n in range(len(parts), 1, -1))
            yield from [name for name in known if name in self.house.modules][:1]

    def problems(self) -> Iterator[str]:
        """What is wrong with the ways, a line each."""
        for way in self.ways:
            known = {step for step in way.steps if f"flava.{step}" in self.house.modules}
            for step in way.steps:
                if step not in known:
                    yield f"{way.title}: there is no module flava.{step}"
            for pair in way.joined:
                one, other = (f"flava.{step}" for step in pair)
                if known.issuperset(pair) and not self.is_import(one, other):
                    yield f"{way.title}: {one} and {other} do not import one another"

    def is_import(self, one: str, other: str) -> bool:
        """Whether one of two modules imports the other."""
        return other in self.imports[one] or one in self.imports[other]

    def files(self, folder: str) -> list[Module]:
        """The modules of a folder; a layer may also be a single module."""
        inside = f"flava.{folder}."
        return [m for n, m in self.house.modules.items() if f"{n}.".startswith(inside)]

    def docstring(self, folder: str) -> str:
        """The first line of what a folder says about itself."""
        module = self.house.modules[f"flava.{folder}"]
        return (ast.get_docstring(module.tree) or "").split("\n\n")[0].replace("\n", " ")

    def folder_imports(self) -> Counter[tuple[str, str]]:
        """How many modules of one folder are imported by how many of another, added up."""
        folders = {folder for row in self.rows for folder in row}
        pairs = (
            (source.split(".")[1], target.split(".")[1])
            for source, targets in self.imports.items()
            for target in targets
            if source.count(".") and target.count(".")
        )
        return Counter(pair for pair in pairs if len({*pair}) == 2 and folders.issuperset(pair))


def read_layers(project: Path) -> list[list[str]]:
    """The floors of import-linter's contract, from the uppermost, each a list of folders."""
    settings = tomllib.loads(project.read_text(encoding="utf-8"))
    (contract,) = (c for c in settings["tool"]["importlinter"]["contracts"] if "layers" in c)
    rows = [[part.strip(" ()") for part in floor.split("|")] for floor in contract["layers"]]
    source = project.parent / "src" / "flava"
    kept = [
        [p for p in row if list(source.glob(f"{p}.py")) or (source / p).is_dir()] for row in rows
    ]
    return [row for row in kept if row]


def without_implied(edges: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The edges of an acyclic graph that no longer path implies (its transitive reduction)."""
    below: dict[str, set[str]] = {}
    for source, target in edges:
        below.setdefault(source, set()).add(target)

    def reached(start: str) -> set[str]:
        nearest = below.get(start, set())
        return nearest.union(*map(reached, nearest))

    return sorted(
        (source, target)
        for source, targets in below.items()
        for target in targets
        if not any(target in reached(other) for other in targets - {target})
    )


@dataclass(frozen=True, kw_only=True)
class Box:
    """Where a folder is drawn."""

    row: int
    left: float
    right: float
    top: float
    bottom: float
    about: list[str]

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2


class Picture:
    """The drawing, as lines of SVG."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.lanes = list(self.lane_places())
        self.width = self.lanes[-1][1] + MARGIN
        self.bands: list[tuple[float, float]] = []
        self.boxes: dict[str, Box] = {}
        self.place_boxes()
        self.height = self.bands[-1][1] + 74

    def lane_places(self) -> Iterator[tuple[float, float]]:
        """Where the lane of each way begins and ends."""
        left = LANES_LEFT
        for way in self.architecture.ways:
            ends = [
                number * STEP_RIGHT + 2 * DOT + 16 + LETTER * 12 * len(step)
                for number, step in enumerate(way.steps)
            ]
            yield left, left + max(ends) + 6
            left += max(ends) + 6 + LANE_GAP

    def place_boxes(self) -> None:
        top = TOP
        for number, row in enumerate(self.architecture.rows):
            places = {folder: PLACES.get(folder) for folder in row}
            if None in places.values():
                part = 0.8 / len(row)
                places = {f: (0.14 + n * part, 0.06 + (n + 1) * part) for n, f in enumerate(row)}
            sides = {
                f: (MARGIN + BOXES_WIDTH * a, MARGIN + BOXES_WIDTH * b)
                for f, (a, b) in ((f, p) for f, p in places.items() if p)
            }
            about = {
                f: wrap(self.architecture.docstring(f), int((b - a - 24) / (LETTER * 11.5)))[:4]
                for f, (a, b) in sides.items()
            }
            own = 53 + 15.0 * max(map(len, about.values()))
            steps = max(len(list(self.steps_in(row, way))) for way in self.architecture.ways)
            height = max(own + 10, 12 + LINE * steps)
            self.bands.append((top, top + height))
            for folder, (left, right) in sides.items():
                self.boxes[folder] = Box(
                    row=number,
                    left=left,
                    right=right,
                    top=top + (height - own) / 2,
                    bottom=top + (height + own) / 2,
                    about=about[folder],
                )
            top += height + ROW_GAP

    def steps_in(self, row: Sequence[str], way: Way) -> Iterator[int]:
        """The numbers of a way's steps that are modules of a row's folders."""
        for number, step in enumerate(way.steps):
            if step.split(".")[0] in row:
                yield number

    def draw(self) -> str:
        size = f'width="{self.width:.0f}" height="{self.height:.0f}"'
        view = f'viewBox="0 0 {self.width:.0f} {self.height:.0f}"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} role="img">',
            "<title>The folders of flava, their imports, and three ways through them</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{self.width:.0f}" height="{self.height:.0f}"/>',
            *self.draw_heading(),
            *self.draw_bands(),
            *self.draw_imports(),
            *self.draw_boxes(),
            *(line for n in range(len(self.lanes)) for line in self.draw_way(n)),
            *self.draw_legend(),
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    def draw_heading(self) -> Iterator[str]:
        yield text(MARGIN, 48, "The folders of flava, and three ways through them", "title")
        about = (
            "A folder imports only folders below it. Folders side by side never import each other."
        )
        yield text(MARGIN, 74, about, "muted")
        for number, (way, (left, _)) in enumerate(
            zip(self.architecture.ways, self.lanes, strict=True)
        ):
            yield text(left, 86, way.title, f"lane lane{number}")
            yield text(left, 104, way.subtitle, "muted small")

    def draw_bands(self) -> Iterator[str]:
        for top, bottom in self.bands:
            size = f'width="{self.width - MARGIN:.1f}" height="{bottom - top:.1f}"'
            yield f'<rect class="band" x="{MARGIN / 2}" y="{top:.1f}" {size} rx="10"/>'

    def draw_boxes(self) -> Iterator[str]:
        for folder, box in self.boxes.items():
            files = self.architecture.files(folder)
            lines = max(100, round(sum(file.length for file in files), -2))
            size = f'width="{box.right - box.left:.1f}" height="{box.bottom - box.top:.1f}"'
            yield f'<rect class="box" x="{box.left:.1f}" y="{box.top:.1f}" {size} rx="7"/>'
            yield text(box.left + 12, box.top + 22, folder, "name")
            number = "1 file" if len(files) == 1 else f"{len(files)} files"
            count = f"{number}, {lines / 1000:.1f}k lines"
            yield text(box.left + 12, box.top + 38, count, "muted small")
            for number, line in enumerate(box.about):
                yield text(box.left + 12, box.top + 58 + 15 * number, line, "small")

    def draw_imports(self) -> Iterator[str]:
        """A line for each import between folders that no longer path implies."""
        counts = self.architecture.folder_imports()
        edges = without_implied(counts)
        ways = {edge: self.gaps_on_the_way(*edge) for edge in edges}
        for edge, points in self.spread(ways).items():
            width = 1 + math.log2(counts[edge]) / 2
            yield f'<path class="import" stroke-width="{width:.1f}" d="{curve(points)}"/>'
            x, y = points[-1]
            yield f'<path class="head" d="M{x - 4.5:.1f} {y - 7:.1f}h9l-4.5 7z"/>'

    def gaps_on_the_way(self, source: str, target: str) -> list[float]:
        """Where an import passes each floor from its source to its target, between the boxes."""
        start, end = self.boxes[source], self.boxes[target]
        places = [start.middle]
        for row in range(start.row + 1, end.row):
            part = 1 / (end.row - row + 1)
            straight = places[-1] + part * (end.middle - places[-1])
            free = [min(max(straight, left), right) for left, right in self.gaps(row)]
            places.append(min(free, key=lambda x: (abs(x - straight), x)))
        return [*places, end.middle]

    def gaps(self, row: int) -> Iterator[tuple[float, float]]:
        """The free places of a row, from where to where a line may pass."""
        boxes = [box for box in self.boxes.values() if box.row == row]
        lefts = [MARGIN, *sorted(box.right for box in boxes)]
        rights = [*sorted(box.left for box in boxes), MARGIN + BOXES_WIDTH]
        for left, right in zip(lefts, rights, strict=True):
            if right - left > 2 * GAP_EDGE:
                yield left + GAP_EDGE, right - GAP_EDGE
            elif right - left > GAP_EDGE:
                yield (left + right) / 2, (left + right) / 2

    def spread(
        self, ways: dict[tuple[str, str], list[float]]
    ) -> dict[tuple[str, str], list[tuple[float, float]]]:
        """Points of each import's line, those that share a box's side or a gap set apart."""
        starts: dict[str, list[tuple[str, str]]] = {}
        ends: dict[str, list[tuple[str, str]]] = {}
        gaps: dict[tuple[int, float], list[tuple[str, str]]] = {}
        for (source, target), places in sorted(ways.items(), key=lambda each: each[1]):
            starts.setdefault(source, []).append((source, target))
            ends.setdefault(target, []).append((source, target))
            for row, x in enumerate(places[1:-1], self.boxes[source].row + 1):
                gaps.setdefault((row, x), []).append((source, target))
        for edges in starts.values():
            edges.sort(key=lambda edge: ways[edge][1])
        for edges in ends.values():
            edges.sort(key=lambda edge: ways[edge][-2])
        points: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for edge, places in ways.items():
            source, target = self.boxes[edge[0]], self.boxes[edge[1]]
            points[edge] = [(port(source, starts[edge[0]], edge), source.bottom)]
            for row, x in enumerate(places[1:-1], source.row + 1):
                shared = gaps[row, x]
                shifted = x + 9 * (shared.index(edge) - (len(shared) - 1) / 2)
                points[edge] += [(shifted, y) for y in self.bands[row]]
            points[edge].append((port(target, ends[edge[1]], edge), target.top - 1))
        return points

    def step_places(self, number: int) -> list[tuple[float, float]]:
        """The middle of each step's dot."""
        way, (left, _) = self.architecture.ways[number], self.lanes[number]
        places: dict[int, tuple[float, float]] = {}
        for row, (top, bottom) in zip(self.architecture.rows, self.bands, strict=True):
            steps = list(self.steps_in(row, way))
            first = (top + bottom - LINE * (len(steps) - 1)) / 2
            for place, step in enumerate(steps):
                places[step] = (left + DOT + STEP_RIGHT * step, first + LINE * place)
        return [places[step] for step in range(len(way.steps))]

    def draw_way(self, number: int) -> Iterator[str]:
        way, places = self.architecture.ways[number], self.step_places(number)
        for before, step in way.joined:
            points = [places[way.steps.index(before)], places[way.steps.index(step)]]
            yield f'<path class="way way{number}" d="{curve(points)}"/>'
        for place, (step, (x, y)) in enumerate(zip(way.steps, places, strict=True), start=1):
            folder, _, name = step.partition(".")
            label = LETTER * 11.5 * (len(step) + 1)
            yield (
                f'<rect class="band" x="{x + DOT + 2:.1f}" y="{y - 8.5:.1f}" '
                f'width="{label + 4:.1f}" height="17" rx="4" opacity="0.9"/>'
            )
            yield f'<circle class="dot{number}" cx="{x:.1f}" cy="{y:.1f}" r="{DOT}"/>'
            yield text(x, y + 3.5, str(place), "number")
            yield (
                f'<text class="small" x="{x + DOT + 5:.1f}" y="{y + 4:.1f}">'
                f'<tspan class="muted">{escape(folder)}/</tspan>{escape(name)}</text>'
            )

    def draw_legend(self) -> Iterator[str]:
        counts = self.architecture.folder_imports()
        shown = len(without_implied(counts))
        y = self.height - 44
        yield text(
            MARGIN,
            y,
            f"Grey: a folder imports another, the thicker the more. Of {len(counts)} such pairs "
            f"{shown} are drawn: those that no longer path implies.",
            "muted",
        )
        yield text(
            MARGIN,
            y + 20,
            "Coloured: the modules of a way in their order; of two joined ones, one imports the "
            "other. Drawn from the source by `make architecture`.",
            "muted",
        )


def port(box: Box, edges: Sequence[tuple[str, str]], edge: tuple[str, str]) -> float:
    """Where a line meets the side of a box that several lines share."""
    return box.left + (box.right - box.left) * (edges.index(edge) + 1) / (len(edges) + 1)


def curve(points: Sequence[tuple[float, float]]) -> str:
    """A smooth line through points, vertical at each."""
    (x, y), *rest = points
    parts = [f"M{x:.1f} {y:.1f}"]
    for to_x, to_y in rest:
        half = (y + to_y) / 2
        parts.append(f"C{x:.1f} {half:.1f} {to_x:.1f} {half:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
    return "".join(parts)


def text(x: float, y: float, content: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(content)}</text>'


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    output = Path(given[0]) if given else OUTPUT
    output.write_text(Picture(Architecture()).draw(), encoding="utf-8")
    print(f"drawn: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
