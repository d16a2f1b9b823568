"""What a task of GLUE is, and the eight of Table C.1: rows of data."""

from dataclasses import dataclass
from typing import Literal

GlueMetric = Literal["accuracy", "f1", "matthews", "pearson", "spearman"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """RoBERTa's fine-tuning of one task.

    Learning rate, batch size, updates and warm-up are those that RoBERTa's authors give for each
    task (fairseq, examples/roberta/README.glue.md), which the paper takes over without further
    sweeps; ``rows`` are the training rows that they are for.
    """

    lr: float
    batch_size: int
    updates: int
    warmup: int
    rows: int
    seeds: int = 5
    """Runs whose median is reported: Liu et al. 2019, section 5.1, report the median over five
    random initialisations."""


@dataclass(frozen=True, kw_only=True)
class GlueSplit:
    """Some rows of a task, under the names that its files have."""

    name: str
    """In a figure."""
    official: str
    """The file of GLUE's own folder, without its ending."""
    hub: str
    """The files that `datasets` keeps, without shard and ending."""
    submission: str = ""
    """The file that the GLUE server takes, of a test split."""


@dataclass(frozen=True, kw_only=True)
class GlueColumns:
    """Where texts, target and id of a row stand: names, or places in a file without a head."""

    texts: tuple[str | int, ...]
    label: str | int
    id: str | int | None
    """None: rows are counted."""
    test_texts: tuple[str | int, ...] | None = None
    """In a test split, if they stand elsewhere there."""
    head: bool = True
    """Whether the first line names the columns; it always does in a test split."""


@dataclass(frozen=True, kw_only=True)
class Glue:
    """One task."""

    name: str
    """As `datasets` calls it."""
    row: str
    """As Table C.1 calls it."""
    folder: str
    """Below the data's root; its last part is as GLUE calls the task."""
    classes: tuple[str, ...]
    """As GLUE's files and its server write them, in the order of the numbers that `datasets` has in
    their place; none where a score in [0, 5] is predicted."""
    official: GlueColumns
    hub: GlueColumns
    metrics: tuple[GlueMetric, ...]
    """The first of them fills the row."""
    recipe: Recipe
    licence: str
    drops: bool = False
    """Whether lines with too few or too many cells are passed over, as all do for QQP."""
    train: GlueSplit = GlueSplit(name="train", official="train", hub="train")
    validation: tuple[GlueSplit, ...] = (
        GlueSplit(name="validation", official="dev", hub="validation"),
    )
    """The first of them chooses the checkpoint and fills the row."""
    test: tuple[GlueSplit, ...] = ()


def test_split(submission: str) -> tuple[GlueSplit, ...]:
    return (GlueSplit(name="test", official="test", hub="test", submission=submission),)


MATCHED, MISMATCHED = (
    GlueSplit(name="validation", official="dev_matched", hub="validation_matched"),
    GlueSplit(name="validation_mismatched", official="dev_mismatched", hub="validation_mismatched"),
)

TWO = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")

MNLI = Glue(
    name="mnli",
    row="MNLI",
    folder="glue/MNLI",
    classes=("entailment", "neutral", "contradiction"),
    official=GlueColumns(texts=("sentence1", "sentence2"), label="gold_label", id="index"),
    hub=GlueColumns(texts=("premise", "hypothesis"), label="label", id="idx"),
    metrics=("accuracy",),
    recipe=Recipe(lr=1e-5, batch_size=32, updates=123_873, warmup=7_432, rows=392_702),
    licence="the OANC's; fiction: CC BY 3.0, CC BY-SA 3.0 and public domain",
    validation=(MATCHED, MISMATCHED),
    test=(
        GlueSplit(
            name="test", official="test_matched", hub="test_matched", submission="MNLI-m.tsv"
        ),
        GlueSplit(
            name="test_mismatched",
            official="test_mismatched",
            hub="test_mismatched",
            submission="MNLI-mm.tsv",
        ),
    ),
)

COLA = Glue(
    name="cola",
    row="COLA",
    folder="glue/CoLA",
    classes=TWO,
    official=GlueColumns(texts=(3,), label=1, id=None, test_texts=("sentence",), head=False),
    hub=GlueColumns(texts=("sentence",), label="label", id="idx"),
    metrics=("matthews", "accuracy"),
    recipe=Recipe(lr=1e-5, batch_size=16, updates=5_336, warmup=320, rows=8_551),
    licence="none stated: sentences out of published works, for research",
    test=test_split("CoLA.tsv"),
)

MRPC = Glue(
    name="mrpc",
    row="MRPC",
    folder="glue/MRPC",
    classes=TWO,
    official=GlueColumns(texts=("#1 String", "#2 String"), label="Quality", id=None),
    hub=GlueColumns(texts=("sentence1", "sentence2"), label="label", id="idx"),
    metrics=("f1", "accuracy"),
    recipe=Recipe(lr=1e-5, batch_size=16, updates=2_296, warmup=137, rows=3_668),
    licence="Microsoft Research's, for research",
    test=test_split("MRPC.tsv"),
)

QQP = Glue(
    name="qqp",
    row="QQP",
    folder="glue/QQP",
    classes=TWO,
    official=GlueColumns(texts=("question1", "question2"), label="is_duplicate", id="id"),
    hub=GlueColumns(texts=("question1", "question2"), label="label", id="idx"),
    metrics=("f1", "accuracy"),
    recipe=Recipe(lr=1e-5, batch_size=32, updates=113_272, warmup=28_318, rows=363_846),
    licence="Quora's terms of service: not for commerce",
    drops=True,
    test=test_split("QQP.tsv"),
)

SST2 = Glue(
    name="sst2",
    row="SST-2",
    folder="glue/SST-2",
    classes=TWO,
    official=GlueColumns(texts=("sentence",), label="label", id=None),
    hub=GlueColumns(texts=("sentence",), label="label", id="idx"),
    metrics=("accuracy",),
    recipe=Recipe(lr=1e-5, batch_size=32, updates=20_935, warmup=1_256, rows=67_349),
    licence="none stated: Rotten Tomatoes' reviews, labelled at Stanford",
    test=test_split("SST-2.tsv"),
)

QNLI = Glue(
    name="qnli",
    row="QNLI",
    folder="glue/QNLI",
    classes=ENTAILMENT,
    official=GlueColumns(texts=("question", "sentence"), label="label", id="index"),
    hub=GlueColumns(texts=("question", "sentence"), label="label", id="idx"),
    metrics=("accuracy",),
    recipe=Recipe(lr=1e-5, batch_size=32, updates=33_112, warmup=1_986, rows=104_743),
    licence="CC BY-SA 4.0 (SQuAD)",
    test=test_split("QNLI.tsv"),
)

RTE = Glue(
    name="rte",
    row="RTE",
    folder="glue/RTE",
    classes=ENTAILMENT,
    official=GlueColumns(texts=("sentence1", "sentence2"), label="label", id="index"),
    hub=GlueColumns(texts=("sentence1", "sentence2"), label="label", id="idx"),
    metrics=("accuracy",),
    recipe=Recipe(lr=2e-5, batch_size=16, updates=2_036, warmup=122, rows=2_490),
    licence="none stated: the RTE challenges', for research",
    test=test_split("RTE.tsv"),
)

STSB = Glue(
    name="stsb",
    row="STS-B",
    folder="glue/STS-B",
    classes=(),
    official=GlueColumns(texts=("sentence1", "sentence2"), label="score", id="index"),
    hub=GlueColumns(texts=("sentence1", "sentence2"), label="label", id="idx"),
    metrics=("pearson", "spearman"),
    recipe=Recipe(lr=2e-5, batch_size=16, updates=3_598, warmup=214, rows=5_749),
    licence="several, in the LICENSE.txt of the STS Benchmark",
    test=test_split("STS-B.tsv"),
)

GLUE = (MNLI, COLA, MRPC, QQP, SST2, QNLI, RTE, STSB)
"""In Table C.1's order."""

HIGHEST_SCORE = 5.0
"""STS-B's scores are between 0 and this."""
