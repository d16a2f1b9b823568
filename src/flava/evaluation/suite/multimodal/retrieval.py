"""Zero-shot retrieval: Flickr30K and COCO, from images to texts and from texts to images.

The paper's protocol: Karpathy's test splits, cosine similarity in the contrastive space. Each image
has five captions, some of COCO's more, all of which are candidates and queries; for an image any of
its own is right.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import nn

from flava.evaluation.record import Figure
from flava.evaluation.retrieval import RANKS, chance_recall, nearest, ranks, recall
from flava.evaluation.suite.few import few_of
from flava.evaluation.suite.multimodal.contrastive import embed_images, embed_texts
from flava.evaluation.suite.multimodal.files import FLICKR_IMAGES
from flava.evaluation.suite.multimodal.karpathy import TEST, read_split, rows_of
from flava.evaluation.suite.multimodal.matching import ranks_again, score_pairs
from flava.evaluation.suite.multimodal.mistakes import missing_of
from flava.evaluation.suite.task import Settings, SuiteTask
from flava.model import Clip, Flava

WAYS = ("text_retrieval", "image_retrieval")
"""From an image to its texts (the paper's TR), and from a text to its image (IR)."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A data set of retrieval."""

    name: str
    title: str
    """In the rows of Table C.1."""
    splits: str
    """Karpathy's file."""
    images: str
    """The folder that his file's names are below; "" if they begin with one."""
    folders: tuple[str, ...]
    """What holds the test images."""
    rerank: int
    """Candidates that are ranked again by the matching head: those of ALBEF's configurations
    (`Retrieval_flickr.yaml`, `Retrieval_coco.yaml`: k_test)."""
    source: str
    licence: str


FLICKR30K = Benchmark(
    name="flickr30k",
    title="Flickr30K",
    splits="dataset_flickr30k.json",
    images=FLICKR_IMAGES,
    folders=(FLICKR_IMAGES,),
    rerank=128,
    source="images on request from the University of Illinois (Flickr30K, Young et al. 2014); "
    "dataset_flickr30k.json in caption_datasets.zip of Karpathy's deepimagesent page at Stanford",
    licence="images: Flickr's terms, for non-commercial research and education",
)
COCO = Benchmark(
    name="coco",
    title="COCO",
    splits="dataset_coco.json",
    images="",
    folders=("val2014",),
    rerank=256,
    source="val2014.zip of cocodataset.org; dataset_coco.json in caption_datasets.zip of "
    "Karpathy's deepimagesent page at Stanford",
    licence="annotations CC BY 4.0; images: Flickr's terms",
)


@dataclass(frozen=True)
class Side:
    """Images or texts; those of one id belong together."""

    vectors: Float[np.ndarray, "side projection"]
    ids: Int[np.ndarray, " side"]


def measure(
    model: nn.Module, settings: Settings, *, benchmark: Benchmark, rerank: bool = False
) -> list[Figure]:
    """R@k both ways on the test split; with ``rerank``, of the first candidates put in the order of
    the matching head.

    Raises:
        FileNotFoundError, ValueError: the data does not hold; or the model has no contrastive
            space, or is to rank again and has no matching head.
    """
    checked = able(model, rerank=rerank)
    folder = settings.data_root / benchmark.name
    captioned = read_split(folder / benchmark.splits, folder / benchmark.images)
    few = few_of(captioned, settings.few, settings.seed, benchmark.name)
    images, captions, owners = rows_of(few, str(folder))
    sides = (
        Side(embed_images(checked, images, settings), np.arange(len(images))),
        Side(embed_texts(checked, captions, settings), np.array(owners)),
    )
    found: list[Figure] = []
    for way, (queries, gallery) in zip(WAYS, (sides, sides[::-1]), strict=True):
        four = queries.vectors, gallery.vectors, queries.ids, gallery.ids
        places = ranks(*four)
        if rerank:
            assert isinstance(checked, Flava)
            first = nearest(*four, benchmark.rerank)
            pairs = np.stack([np.indices(first.shape)[0].ravel(), first.ravel()], axis=1)
            pairs = pairs if way == WAYS[0] else pairs[:, ::-1]
            scores = score_pairs(checked, images, captions, pairs, settings).reshape(first.shape)
            places = ranks_again(places, first, scores, queries.ids, gallery.ids)
        name = f"{benchmark.name}_reranked" if rerank else benchmark.name
        found += figures(name, way, places, queries.ids, gallery.ids)
    return found


def able(model: nn.Module, *, rerank: bool) -> Flava | Clip:
    """Raises ValueError: the model cannot be measured so."""
    if not isinstance(model, Flava | Clip):
        raise ValueError(
            f"a {type(model).__name__} has no contrastive space: give a whole FLAVA or CLIP"
        )
    if rerank and not isinstance(model, Flava):
        raise ValueError("a CLIP has no matching head: leave the re-ranked tasks out")
    if rerank and isinstance(model, Flava):
        model.require("itm_head")
    return model


def figures(
    task: str,
    way: str,
    places: Int[np.ndarray, " queries"],
    query_ids: Int[np.ndarray, " queries"],
    gallery_ids: Int[np.ndarray, " candidates"],
) -> list[Figure]:
    return [
        Figure(
            task=task,
            split=TEST,
            metric=f"{way}_r@{k}",
            value=recall(places, k),
            n=len(places),
            baselines={"chance": chance_recall(query_ids, gallery_ids, k)},
        )
        for k in RANKS
    ]


def missing(folder: Path, *, benchmark: Benchmark) -> list[str]:
    """Of the files and folders that are read; single images are looked for when it is measured."""
    return missing_of([folder / each for each in (benchmark.splits, *benchmark.folders)])


def task_of(benchmark: Benchmark, *, rerank: bool) -> SuiteTask:
    """The task; it fills rows of Table C.1 unless it is ranked again, which the paper does not."""
    table = [(w, short, k) for w, short in zip(WAYS, ("TR", "IR"), strict=True) for k in (1, 5)]
    return SuiteTask(
        name=f"{benchmark.name}_reranked" if rerank else benchmark.name,
        group="multimodal",
        rows=()
        if rerank
        else tuple((f"{benchmark.title} {short} R@{k}", f"{way}_r@{k}") for way, short, k in table),
        folder=benchmark.name,
        source=benchmark.source,
        licence=benchmark.licence,
        missing=partial(missing, benchmark=benchmark),
        measure=partial(measure, benchmark=benchmark, rerank=rerank),
    )


RETRIEVAL = tuple(task_of(each, rerank=False) for each in (FLICKR30K, COCO))

RERANKED = tuple(task_of(each, rerank=True) for each in (FLICKR30K, COCO))
"""The same ranked again by the matching head; asked for by name, and no row of the table."""
