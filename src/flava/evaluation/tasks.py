"""What is evaluated, as rows: splits of the embedded corpus, and tasks on them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flava.evaluation import masked, measures
from flava.evaluation.held_out import Split
from flava.evaluation.metrics import Outcome
from flava.evaluation.subject import BOTH

TRAINED_STYLES = "{noto,noto-v1,fluent-emoji-flat,fxemoji,emojione,emojione-v1}"

SPLITS = {
    split.name: split
    for split in (
        Split(
            name="unseen_style",
            title="unseen style (Twemoji), seen concepts",
            shards=("embedded:pairs/twemoji-train.tar",),
        ),
        Split(
            name="unseen_style_hard",
            title="second unseen style (OpenMoji), seen concepts",
            shards=("embedded:pairs/openmoji-train.tar",),
        ),
        Split(
            name="unseen_concepts",
            title="unseen concepts, seen style (Noto)",
            shards=("embedded:pairs/noto-test.tar",),
        ),
        Split(
            name="unseen_concepts_all",
            title="unseen concepts in all six seen styles",
            shards=(f"embedded:pairs/{TRAINED_STYLES}-test.tar",),
        ),
        Split(
            name="unseen_both",
            title="unseen concepts in the unseen style (Twemoji)",
            shards=("embedded:pairs/twemoji-test.tar",),
        ),
        Split(
            name=measures.VALIDATION,
            title="validation concepts in all six seen styles",
            shards=(f"embedded:pairs/{TRAINED_STYLES}-val.tar",),
        ),
        Split(
            name=measures.PROBE_TRAIN,
            title="training concepts in all six seen styles",
            shards=(f"embedded:pairs/{TRAINED_STYLES}-train.tar",),
            limit=3000,
        ),
        Split(
            name="digits",
            title="MNIST's digits",
            shards=("embedded:images/mnist-test.tar",),
        ),
        Split(
            name="digits_train",
            title="MNIST's training digits",
            shards=("embedded:images/mnist-train.tar",),
            limit=2000,
        ),
        Split(
            name="digits_validation",
            title="others of MNIST's training digits",
            shards=("embedded:images/mnist-train.tar",),
            limit=2000,
            after="digits_train",
        ),
        Split(
            name="wordnet_train",
            title="WordNet glosses and examples, also trained on without labels",
            shards=("embedded:text/wordnet-train.jsonl",),
            limit=3000,
        ),
        Split(
            name="wordnet_validation",
            title="validation WordNet glosses and examples",
            shards=("embedded:text/wordnet-val.jsonl",),
            limit=1000,
        ),
        Split(
            name="wordnet",
            title="unseen WordNet glosses and examples",
            shards=("embedded:text/wordnet-test.jsonl",),
            limit=1000,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A row: what is measured on which split. Every figure gets the untrained model's beside it."""

    name: str
    split: str
    measure: Callable[[Any, str], Outcome]
    """Of a `Subject`."""
    needs: tuple[str, ...] = ()
    """Parts of the model that not every checkpoint holds: without them the row is left out."""
    pca: str | None = None
    """The split on whose pixels the principal components are fitted that can stand in for the
    model's features."""


def rows(
    name: str,
    measure: Callable[[Any, str], Outcome],
    splits: str,
    *,
    needs: tuple[str, ...] = (),
    pca: str | None = None,
) -> tuple[Task, ...]:
    """The same task on several splits."""
    return tuple(
        Task(name=name, split=split, measure=measure, needs=needs, pca=pca)
        for split in splits.split()
    )


IMAGE, TEXT = ("image_encoder",), ("text_encoder",)
CODES = ("codebook.encoder",)

GROUPS = measures.Probe(name="groups", labelled=measures.image_groups)
DIGITS = measures.Probe(
    name="digits",
    labelled=measures.digits,
    train="digits_train",
    validation="digits_validation",
)
CAPTION_GROUPS = measures.Probe(name="caption groups", labelled=measures.caption_groups)
PARTS_OF_SPEECH = measures.Probe(
    name="parts of speech",
    labelled=measures.parts_of_speech,
    train="wordnet_train",
    validation="wordnet_validation",
)

TASKS = (
    *rows(
        "retrieval",
        measures.retrieval,
        "unseen_style unseen_style_hard unseen_concepts unseen_both",
        needs=BOTH,
    ),
    *rows(
        "zero_shot",
        measures.zero_shot,
        "unseen_style unseen_style_hard unseen_concepts_all unseen_both",
        needs=BOTH,
    ),
    *rows(
        "linear_probe",
        GROUPS,
        "unseen_concepts_all unseen_both",
        needs=IMAGE,
        pca=GROUPS.train,
    ),
    *rows("digits", DIGITS, "digits", needs=IMAGE, pca=DIGITS.train),
    *rows("caption_groups", CAPTION_GROUPS, "unseen_concepts", needs=TEXT),
    *rows("parts_of_speech", PARTS_OF_SPEECH, "wordnet", needs=TEXT),
    *rows("itm", masked.itm, "unseen_style unseen_concepts", needs=("itm_head",)),
    *rows("mmm_text", masked.mmm_text, "unseen_style unseen_concepts", needs=("mmm_text_head",)),
    *rows("mlm_captions", masked.mlm_captions, "unseen_style unseen_concepts", needs=("mlm_head",)),
    *rows("mlm", masked.mlm, "wordnet", needs=("mlm_head",)),
    *rows(
        "mmm_image",
        masked.mmm_image,
        "unseen_style unseen_concepts",
        needs=("mmm_image_head", *CODES),
    ),
    *rows("mim", masked.mim, "unseen_style unseen_concepts", needs=("mim_head", *CODES)),
)
