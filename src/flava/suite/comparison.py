"""Columns of a Table C.1 of one's own: rows, averages, and the differences the paper asks for.

Every figure has the uncertainty of its test items; with several seeds also that of the seeds.
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
"""Column -> its evaluations, one a seed."""

NOISE = 2.0
"""A difference of fewer standard errors than this is called noise: 5 % of nothing would pass."""

NOTHING = 0.0005
"""A difference of the paper's that its tables' digits, rounded to a tenth of a point, show as 0."""


@dataclass(frozen=True)
class ComparisonRow:
    """A figure of `tasks` as a row of the table."""

    group: Group
    title: str
    task: str
    split: str
    metric: str

    def of(self, evaluation: Evaluation) -> Figure | None:
        return evaluation.figure(self.task, self.split, self.metric)


ROWS = (
    ComparisonRow(
        "vision", "Groups, unseen concepts", "linear_probe", "unseen_concepts_all", "accuracy"
    ),
    ComparisonRow(
        "vision", "Groups, unseen style and concepts", "linear_probe", "unseen_both", "accuracy"
    ),
    ComparisonRow("vision", "MNIST", "digits", "digits", "accuracy"),
    ComparisonRow("nlp", "Groups of captions", "caption_groups", "unseen_concepts", "accuracy"),
    ComparisonRow("nlp", "Parts of speech", "parts_of_speech", "wordnet", "accuracy"),
    ComparisonRow("multimodal", "Zero-shot, unseen style", "zero_shot", "unseen_style", "accuracy"),
    ComparisonRow(
        "multimodal", "Zero-shot, unseen concepts", "zero_shot", "unseen_concepts_all", "accuracy"
    ),
    ComparisonRow(
        "multimodal", "Unseen style TR R@1", "retrieval", "unseen_style", "image_to_text_r@1"
    ),
    ComparisonRow(
        "multimodal", "Unseen style TR R@5", "retrieval", "unseen_style", "image_to_text_r@5"
    ),
    ComparisonRow(
        "multimodal", "Unseen style IR R@1", "retrieval", "unseen_style", "text_to_image_r@1"
    ),
    ComparisonRow(
        "multimodal", "Unseen style IR R@5", "retrieval", "unseen_style", "text_to_image_r@5"
    ),
    ComparisonRow(
        "multimodal", "Unseen concepts TR R@5", "retrieval", "unseen_concepts", "image_to_text_r@5"
    ),
    ComparisonRow(
        "multimodal", "Unseen concepts IR R@5", "retrieval", "unseen_concepts", "text_to_image_r@5"
    ),
)
"""The groups of Table C.1: linear probes of images, of texts, and what takes both encoders."""

HEADS = (
    ComparisonRow("multimodal", "Matching, unseen style", "itm", "unseen_style", "accuracy"),
    ComparisonRow("multimodal", "Masked words with image", "mmm_text", "unseen_style", "accuracy"),
    ComparisonRow("nlp", "Masked words of a dictionary", "mlm", "wordnet", "accuracy"),
    ComparisonRow("vision", "Masked patches", "mim", "unseen_style", "foreground_accuracy"),
)
"""What only columns with the head for it can do: shown below, in no average."""


@dataclass(frozen=True)
class Estimate:
    """A figure: a value a seed, and the standard error that the test items leave it."""

    seeds: tuple[float, ...]
    sampling: float

    @property
    def value(self) -> float:
        return sum(self.seeds) / len(self.seeds)

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds; None of a single one."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else None

    @property
    def error(self) -> float:
        """The standard error: of the test items, and of the mean over seeds if it is known."""
        return math.hypot(self.sampling, (self.spread or 0.0) / math.sqrt(len(self.seeds)))

    @property
    def is_noise(self) -> bool:
        """Of a difference: whether it may well be none."""
        return abs(self.value) <= NOISE * self.error

    def minus(self, other: "Estimate") -> "Estimate":
        """The difference, seed by seed.

        The test items are the same for both, which would make the error smaller than this one,
        that takes them for different ones.
        """
        differences = tuple(a - b for a, b in zip(self.seeds, other.seeds, strict=True))
        return Estimate(differences, math.hypot(self.sampling, other.sampling))


def of_row(row: ComparisonRow, evaluations: Sequence[Evaluation]) -> Estimate | None:
    """None where a seed was not measured."""
    found = [figure for each in evaluations if (figure := row.of(each)) is not None]
    if not found or len(found) < len(evaluations):
        return None
    values = [figure.value for figure in found]
    mean = sum(values) / len(values)
    return Estimate(tuple(values), math.sqrt(mean * (1 - mean) / found[0].n))


def of_group(group: Group, evaluations: Sequence[Evaluation]) -> Estimate | None:
    """The mean of a group's rows; None where one of them is missing."""
    return mean_of([of_row(row, evaluations) for row in ROWS if row.group == group])


def macro(groups: Sequence[Group], evaluations: Sequence[Evaluation]) -> Estimate | None:
    """The mean of some groups' averages; None where one of them is missing."""
    return mean_of([of_group(group, evaluations) for group in groups])


def mean_of(found: Sequence[Estimate | None]) -> Estimate | None:
    """The mean of some estimates; None where one of them is missing.

    They may share test items, so that their errors add up: these are averaged.
    """
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        return None
    seeds = np.mean([each.seeds for each in known], axis=0)
    return Estimate(tuple(seeds.tolist()), sum(each.sampling for each in known) / len(known))


@dataclass(frozen=True)
class PaperQuestion:
    """What two or more columns answer by the differences of pairs of them, (with, without)."""

    title: str
    pairs: tuple[tuple[str, str], ...]


def each_start(with_it: str, without: str) -> tuple[tuple[str, str], ...]:
    """From scratch, from BEiT and from DINO."""
    return tuple((f"{with_it}{start}", f"{without}{start}") for start in ("", "-beit", "-dino"))


QUESTIONS = (
    PaperQuestion("Global against local contrast", (("flava-c", "flava-c-local"),)),
    PaperQuestion("Masked losses added", each_start("flava-mm", "flava-c")),
    PaperQuestion("Unimodal data added", each_start("flava", "flava-mm")),
    PaperQuestion(
        "DINO against BEiT",
        tuple((f"{name}-dino", f"{name}-beit") for name in ("flava-c", "flava-mm", "flava")),
    ),
    PaperQuestion(
        "Unimodal encoders to start from",
        tuple((f"{name}-dino", name) for name in ("flava-c", "flava-mm", "flava")),
    ),
    PaperQuestion("FLAVA's encoders against CLIP's", (("flava-c-local", "clip-pmd"),)),
)
"""Those of the paper's section 4 and supplement C and D."""


@dataclass(frozen=True)
class Answer:
    """The difference of two columns in a group's average, beside the paper's, all in [-1, 1]."""

    with_it: str
    without: str
    differences: dict[Group, Estimate]
    papers: dict[Group, float]

    def agrees(self, group: Group) -> bool | None:
        """Whether it goes the paper's way; None where it is noise, or the paper sees none."""
        ours, theirs = self.differences.get(group), self.papers.get(group, 0.0)
        if ours is None or ours.is_noise or abs(theirs) < NOTHING:
            return None
        return (ours.value > 0) == (theirs > 0)


def answers(question: PaperQuestion, columns: MeasuredColumns) -> list[Answer]:
    """A question's differences, of those columns that are there."""
    return [
        Answer(
            with_it,
            without,
            {
                group: ours.minus(theirs)
                for group in paper.GROUPS
                if (ours := of_group(group, columns[with_it])) is not None
                and (theirs := of_group(group, columns[without])) is not None
            },
            {
                group: ours - theirs
                for group in paper.GROUPS
                if (ours := papers_average(group, with_it)) is not None
                and (theirs := papers_average(group, without)) is not None
            },
        )
        for with_it, without in question.pairs
        if with_it in columns and without in columns
    ]


def papers_average(group: Group, column: str) -> float | None:
    """The mean of a group's rows in Table C.1, in [0, 1]; None where the paper has none."""
    average = group_average(group, paper.values(column))
    return average.value / 100 if average.value is not None and average.whole else None


def rank_correlation(group: Group, columns: MeasuredColumns) -> tuple[float, int] | None:
    """Spearman's, of a group's averages here and in the paper, and over how many columns.

    None of fewer than three columns, or where all are alike.
    """
    pairs = [
        (ours.value, theirs)
        for column, evaluations in columns.items()
        if (ours := of_group(group, evaluations)) is not None
        and column in paper.columns()
        and (theirs := papers_average(group, column)) is not None
    ]
    sides = np.array(pairs).T
    if len(pairs) < 3 or (np.ptp(sides, axis=1) == 0).any():
        return None
    return float(np.corrcoef(rankdata(sides, axis=1))[0, 1]), len(pairs)
