"""Statistics of the columns of Table C.1 as measured here: rows, averages and differences.

Every figure has a standard error: that of its test items, and with several seeds that of the seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from flava.evaluation.record import Evaluation, Figure
from flava.suite import paper
from flava.suite.paper import group_average
from flava.suite.task import Group

MeasuredColumns = Mapping[str, Sequence[Evaluation]]
"""Column -> its evaluations, one for each seed."""

MIN_STANDARD_ERRORS = 2.0
"""A smaller difference is called noise: where there is none, 5 % of differences are larger."""

PAPER_ROUNDING = 0.0005
"""A smaller difference in the paper counts as none: its tables show it as 0 when rounded to a tenth
of a percentage point."""


@dataclass(frozen=True)
class ComparisonRow:
    """A figure of the embedded corpus' evaluation as a row of the table."""

    group: Group
    title: str
    task: str
    split: str
    metric: str

    def figure(self, evaluation: Evaluation) -> Figure | None:
        return evaluation.figure(self.task, self.split, self.metric)


def _rows(group: Group, *rows: tuple[str, str, str, str]) -> tuple[ComparisonRow, ...]:
    return tuple(ComparisonRow(group, *row) for row in rows)


ROWS = (
    *_rows(
        "vision",
        ("Groups, unseen concepts", "linear_probe", "unseen_concepts_all", "accuracy"),
        ("Groups, unseen style and concepts", "linear_probe", "unseen_both", "accuracy"),
        ("MNIST", "digits", "digits", "accuracy"),
    ),
    *_rows(
        "nlp",
        ("Groups of captions", "caption_groups", "unseen_concepts", "accuracy"),
        ("Parts of speech", "parts_of_speech", "wordnet", "accuracy"),
    ),
    *_rows(
        "multimodal",
        ("Zero-shot, unseen style", "zero_shot", "unseen_style", "accuracy"),
        ("Zero-shot, unseen concepts", "zero_shot", "unseen_concepts_all", "accuracy"),
        ("Unseen style TR R@1", "retrieval", "unseen_style", "image_to_text_r@1"),
        ("Unseen style TR R@5", "retrieval", "unseen_style", "image_to_text_r@5"),
        ("Unseen style IR R@1", "retrieval", "unseen_style", "text_to_image_r@1"),
        ("Unseen style IR R@5", "retrieval", "unseen_style", "text_to_image_r@5"),
        ("Unseen concepts TR R@5", "retrieval", "unseen_concepts", "image_to_text_r@5"),
        ("Unseen concepts IR R@5", "retrieval", "unseen_concepts", "text_to_image_r@5"),
    ),
)
"""The groups of Table C.1: linear probes of images, of texts, and tasks that need both encoders."""

HEAD_ROWS = (
    *_rows("multimodal", ("Matching, unseen style", "itm", "unseen_style", "accuracy")),
    *_rows("multimodal", ("Masked words with image", "mmm_text", "unseen_style", "accuracy")),
    *_rows("nlp", ("Masked words of a dictionary", "mlm", "wordnet", "accuracy")),
    *_rows("vision", ("Masked patches", "mim", "unseen_style", "foreground_accuracy")),
)
"""Tasks that need a pretraining head, which not every column has. They are in no average."""


@dataclass(frozen=True)
class Estimate:
    """A figure, or a difference of two: one value for each seed, and its sampling error."""

    seeds: tuple[float, ...]
    sampling_error: float
    """The standard error that comes from the number of test items."""

    @property
    def value(self) -> float:
        """The mean over seeds."""
        return sum(self.seeds) / len(self.seeds)

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds; None if there is only one."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else None

    @property
    def error(self) -> float:
        """The standard error of the value: sampling error and, if known, that of the seeds."""
        return math.hypot(self.sampling_error, (self.spread or 0.0) / math.sqrt(len(self.seeds)))

    @property
    def is_noise(self) -> bool:
        """Whether a difference is too small to tell it from zero."""
        return abs(self.value) <= MIN_STANDARD_ERRORS * self.error

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference, seed by seed.

        Its sampling error is that of two separate test sets. Both columns see the same test items,
        so the true error is smaller.
        """
        differences = tuple(a - b for a, b in zip(self.seeds, other.seeds, strict=True))
        return Estimate(differences, math.hypot(self.sampling_error, other.sampling_error))


def row_estimate(row: ComparisonRow, evaluations: Sequence[Evaluation]) -> Estimate | None:
    """A row's figure, a share of right answers; None if a seed's evaluation lacks it."""
    figures = [figure for each in evaluations if (figure := row.figure(each)) is not None]
    if not figures or len(figures) < len(evaluations):
        return None
    values = tuple(figure.value for figure in figures)
    mean = sum(values) / len(values)
    return Estimate(values, math.sqrt(mean * (1 - mean) / figures[0].n))


def group_estimate(group: Group, evaluations: Sequence[Evaluation]) -> Estimate | None:
    """The mean of a group's rows; None if one of them is missing."""
    return _mean([row_estimate(row, evaluations) for row in ROWS if row.group == group])


def macro_estimate(groups: Sequence[Group], evaluations: Sequence[Evaluation]) -> Estimate | None:
    """The mean of some groups' averages; None if one of them is missing."""
    return _mean([group_estimate(group, evaluations) for group in groups])


def _mean(estimates: Sequence[Estimate | None]) -> Estimate | None:
    """The mean of the estimates; None if one of them is missing.

    They may share test items and then err alike, so the mean's error is the mean of their errors.
    """
    known = [each for each in estimates if each is not None]
    if len(known) < len(estimates):
        return None
    seeds = np.mean([each.seeds for each in known], axis=0)
    return Estimate(tuple(seeds.tolist()), sum(each.sampling_error for each in known) / len(known))


@dataclass(frozen=True)
class Ablation:
    """What the paper varies, and the pairs of columns that differ in it."""

    title: str
    pairs: tuple[tuple[str, str], ...]
    """(column, the column that it is compared with)."""


def _each_initialization(column: str, baseline: str) -> tuple[tuple[str, str], ...]:
    """The pair from scratch, from BEiT and from DINO."""
    return tuple((f"{column}{start}", f"{baseline}{start}") for start in ("", "-beit", "-dino"))


_METHODS = ("flava-c", "flava-mm", "flava")

ABLATIONS = (
    Ablation("Global against local contrast", (("flava-c", "flava-c-local"),)),
    Ablation("Masked losses added", _each_initialization("flava-mm", "flava-c")),
    Ablation("Unimodal data added", _each_initialization("flava", "flava-mm")),
    Ablation("DINO against BEiT", tuple((f"{name}-dino", f"{name}-beit") for name in _METHODS)),
    Ablation("Unimodal encoders to start from", tuple((f"{name}-dino", name) for name in _METHODS)),
    Ablation("FLAVA's encoders against CLIP's", (("flava-c-local", "clip-pmd"),)),
)
"""The ablations of the paper's section 4 and supplement C and D."""


@dataclass(frozen=True)
class Difference:
    """A column's group averages minus another's, here and in the paper, as shares in [-1, 1]."""

    column: str
    baseline: str
    measured: dict[Group, Estimate]
    published: dict[Group, float]

    def agrees(self, group: Group) -> bool | None:
        """Whether it has the sign of the paper's difference.

        None where it is noise, or where the paper has no difference.
        """
        measured, published = self.measured.get(group), self.published.get(group, 0.0)
        if measured is None or measured.is_noise or abs(published) < PAPER_ROUNDING:
            return None
        return (measured.value > 0) == (published > 0)


def differences(ablation: Ablation, columns: MeasuredColumns) -> list[Difference]:
    """The differences of an ablation's pairs, if both columns were measured."""
    return [
        Difference(
            column,
            baseline,
            measured={
                group: first - second
                for group in paper.GROUPS
                if (first := group_estimate(group, columns[column])) is not None
                and (second := group_estimate(group, columns[baseline])) is not None
            },
            published={
                group: first - second
                for group in paper.GROUPS
                if (first := paper_average(group, column)) is not None
                and (second := paper_average(group, baseline)) is not None
            },
        )
        for column, baseline in ablation.pairs
        if column in columns and baseline in columns
    ]


def paper_average(group: Group, column: str) -> float | None:
    """The mean of a group's rows in Table C.1, in [0, 1]; None if the paper lacks some."""
    average = group_average(group, paper.values(column))
    return average.value / 100 if average.value is not None and average.is_complete else None


def rank_correlation(group: Group, columns: MeasuredColumns) -> tuple[float, int] | None:
    """Spearman's rank correlation of a group's averages with the paper's.

    Returns:
        (Correlation, number of columns that have both averages), or None if fewer than three have
        both, or if all averages of one side are equal.
    """
    pairs = [
        (measured.value, published)
        for column, evaluations in columns.items()
        if (measured := group_estimate(group, evaluations)) is not None
        and column in paper.columns()
        and (published := paper_average(group, column)) is not None
    ]
    sides = np.array(pairs).T
    if len(pairs) < 3 or (np.ptp(sides, axis=1) == 0).any():
        return None
    return float(np.corrcoef(rankdata(sides, axis=1))[0, 1]), len(pairs)
