"""The eight GLUE tasks of Table C.1 as data: their files, columns, metrics and recipes."""

from dataclasses import dataclass
from typing import Literal

GlueMetric = Literal["accuracy", "f1", "matthews", "pearson", "spearman"]


@dataclass(frozen=True, kw_only=True)
class GlueRecipe:
    """RoBERTa's fine-tuning of one task.

    RoBERTa's authors give learning rate, batch size, steps and warm-up for each task (fairseq,
    examples/roberta/README.glue.md), and the paper takes them over without further sweeps.
    """

    lr: float
    batch_size: int
    max_steps: int
    warmup_steps: int
    train_rows: int
    """The training rows that ``max_steps`` and ``warmup_steps`` are for."""
    seeds: int = 5
    """Runs whose median is reported: Liu et al. 2019, section 5.1, report the median over five
    random initialisations."""


@dataclass(frozen=True, kw_only=True)
class GlueSplit:
    """A part of a task's rows, and the names of its files."""

    name: str
    """Its name in results."""
    official: str
    """Name of GLUE's own file, without its ending."""
    hub: str
    """Name of the files of `datasets`, without shard and ending."""
    submission: str = ""
    """For a test split, the name of the file of predictions that GLUE's server takes."""


@dataclass(frozen=True, kw_only=True)
class GlueColumns:
    """The columns of texts, target and id: names, or places in a file without a head."""

    texts: tuple[str | int, ...]
    label: str | int
    id: str | int | None
    """None where rows have no id, and are numbered."""
    test_texts: tuple[str | int, ...] | None = None
    """Those of a test split, if they differ."""
    head: bool = True
    """Whether the first line names the columns; it always does in a test split."""

    def texts_of(self, *, is_test: bool) -> tuple[str | int, ...]:
        """The columns of the texts in a test split, or in another."""
        return self.test_texts if is_test and self.test_texts else self.texts


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """One task."""

    name: str
    """Its name in `datasets`."""
    row: str
    """Its name in Table C.1."""
    folder: str
    """Below the data's root; the last part is GLUE's name of the task."""
    classes: tuple[str, ...]
    """The words of GLUE's files and its server, in the order of the numbers that `datasets` has
    instead; none where a score in [0, 5] is predicted."""
    official: GlueColumns
    hub: GlueColumns
    metrics: tuple[GlueMetric, ...]
    """The first one fills the row of Table C.1."""
    recipe: GlueRecipe
    licence: str
    drops_broken_lines: bool = False
    """Whether lines with too few or too many cells are skipped, as everybody does for QQP."""
    train: GlueSplit = GlueSplit(name="train", official="train", hub="train")
    validation: tuple[GlueSplit, ...] = (
        GlueSplit(name="validation", official="dev", hub="validation"),
    )
    """The first one chooses the checkpoint and fills the row of Table C.1."""
    test: tuple[GlueSplit, ...] = ()


def _test_split(submission: str) -> tuple[GlueSplit, ...]:
    return (GlueSplit(name="test", official="test", hub="test", submission=submission),)


MATCHED, MISMATCHED = (
    GlueSplit(name="validation", official="dev_matched", hub="validation_matched"),
    GlueSplit(name="validation_mismatched", official="dev_mismatched", hub="validation_mismatched"),
)

TWO = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")

MNLI = GlueTask(
    name="mnli",
    row="MNLI",
    folder="glue/MNLI",
    classes=("entailment", "neutral", "contradiction"),
    official=GlueColumns(texts=("sentence1", "sentence2"), label="gold_label", id="index"),
    hub=GlueColumns(texts=("premise", "hypothesis"), label="label", id="idx"),
    metrics=("accuracy",),
    recipe=GlueRecipe(
        lr=1e-5, batch_size=32, max_steps=123_873, warmup_steps=7_432, train_rows=392_702
    ),
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

COLA = GlueTask(
    name="cola",
    row="COLA",
    folder="glue/CoLA",
    classes=TWO,
    official=GlueColumns(texts=(3,), label=1, id=None, test_texts=("sentence",), head=False),
    hub=GlueColumns(texts=("sentence",), label="label", id="idx"),
    metrics=("matthews", "accuracy"),
    recipe=GlueRecipe(lr=1e-5, batch_size=16, max_steps=5_336, warmup_steps=320, train_rows=8_551),
    licence="none stated: sentences out of published works, for research",
    test=_test_split("CoLA.tsv"),
)

MRPC = GlueTask(
    name="mrpc",
    row="MRPC",
    folder="glue/MRPC",
    classes=TWO,
    official=GlueColumns(texts=("#1 String", "#2 String"), label="Quality", id=None),
    hub=GlueColumns(texts=("sentence1", "sentence2"), label="label", id="idx"),
    metrics=("f1", "accuracy"),
    recipe=GlueRecipe(lr=1e-5, batch_size=16, max_steps=2_296, warmup_steps=137, train_rows=3_668),
    licence="Microsoft Research's, for research",
    test=_test_split("MRPC.tsv"),
)

QQP = GlueTask(
    name="qqp",
    row="QQP",
    folder="glue/QQP",
    classes=TWO,
    official=GlueColumns(texts=("question1", "question2"), label="is_duplicate", id="id"),
    hub=GlueColumns(texts=("question1", "question2"), label="label", id="idx"),
    metrics=("f1", "accuracy"),
    recipe=GlueRecipe(
        lr=1e-5, batch_size=32, max_steps=113_272, warmup_steps=28_318, train_rows=363_846
    ),
    licence="Quora's terms of service: not for commerce",
    drops_broken_lines=True,
    test=_test_split("QQP.tsv"),
)

SST2 = GlueTask(
    name="sst2",
    row="SST-2",
    folder="glue/SST-2",
    classes=TWO,
    official=GlueColumns(texts=("sentence",), label="label", id=None),
    hub=GlueColumns(texts=("sentence",), label="label", id="idx"),
    metrics=("accuracy",),
    recipe=GlueRecipe(
        lr=1e-5, batch_size=32, max_steps=20_935, warmup_steps=1_256, train_rows=67_349
    ),
    licence="none stated: Rotten Tomatoes' reviews, labelled at Stanford",
    test=_test_split("SST-2.tsv"),
)

QNLI = GlueTask(
    name="qnli",
    row="QNLI",
    folder="glue/QNLI",
    classes=ENTAILMENT,
    official=GlueColumns(texts=("question", "sentence"), label="label", id="index"),
    hub=GlueColumns(texts=("question", "sentence"), label="label", id="idx"),
    metrics=("accuracy",),
    recipe=GlueRecipe(
        lr=1e-5, batch_size=32, max_steps=33_112, warmup_steps=1_986, train_rows=104_743
    ),
    licence="CC BY-SA 4.0 (SQuAD)",
    test=_test_split("QNLI.tsv"),
)

RTE = GlueTask(
    name="rte",
    row="RTE",
    folder="glue/RTE",
    classes=ENTAILMENT,
    official=GlueColumns(texts=("sentence1", "sentence2"), label="label", id="index"),
    hub=GlueColumns(texts=("sentence1", "sentence2"), label="label", id="idx"),
    metrics=("accuracy",),
    recipe=GlueRecipe(lr=2e-5, batch_size=16, max_steps=2_036, warmup_steps=122, train_rows=2_490),
    licence="none stated: the RTE challenges', for research",
    test=_test_split("RTE.tsv"),
)

STSB = GlueTask(
    name="stsb",
    row="STS-B",
    folder="glue/STS-B",
    classes=(),
    official=GlueColumns(texts=("sentence1", "sentence2"), label="score", id="index"),
    hub=GlueColumns(texts=("sentence1", "sentence2"), label="label", id="idx"),
    metrics=("pearson", "spearman"),
    recipe=GlueRecipe(lr=2e-5, batch_size=16, max_steps=3_598, warmup_steps=214, train_rows=5_749),
    licence="several, in the LICENSE.txt of the STS Benchmark",
    test=_test_split("STS-B.tsv"),
)

GLUE = (MNLI, COLA, MRPC, QQP, SST2, QNLI, RTE, STSB)
"""In Table C.1's order."""

HIGHEST_SCORE = 5.0
"""STS-B's scores are between 0 and this."""
