"""Retrieval on Flickr30K and COCO, by embeddings and by the matching head.

The paper's protocol: Karpathy's test splits, cosine similarity in the contrastive space. Each image
has five captions, some of COCO's more, all of which are candidates and queries; for an image any of
its own is right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flava.core.batch import ImageInputs, Inputs, TextInputs, to_device
from flava.core.randomness import subsample
from flava.data.labelled import LabelledRow
from flava.data.labelled_loader import ImageReader, Pixels, RowReader, row_image
from flava.data.views import clip_view
from flava.evaluation.features import (
    PAIR_MAX_LENGTH,
    Settings,
    counted,
    evaluating,
    outputs_of,
    text_reader,
)
from flava.evaluation.record import Figure
from flava.evaluation.retrieval import RANKS, chance_recall, nearest, ranks, recall
from flava.inference.fill import matching_scores
from flava.models import Clip, Flava
from flava.suite.data_mistakes import raise_mistakes_by_kind
from flava.suite.multimodal.dataset_files import (
    FLICKR_IMAGES,
    TEST,
    missing_paths,
    read_split,
    rows_of,
)
from flava.suite.task import SuiteTask


@dataclass(frozen=True, kw_only=True)
class MiddleReader(ImageReader):
    """The middle of an image, its shorter side resized: what CLIP sees."""

    def read(self, row: LabelledRow, rng: np.random.Generator | None) -> Pixels:  # noqa: ARG002
        return clip_view(self.size).transform(row_image(row, upright=self.upright))


def image_reader(model: Flava | Clip) -> ImageReader:
    """How `flava.load` shows images to the model if no file says otherwise: FLAVA sees all of one,
    squared, and CLIP its middle; but they are not turned as their EXIF says."""
    kind = MiddleReader if isinstance(model, Clip) else ImageReader
    return kind(size=model.config.image.image_size, crop_scale=(1.0, 1.0), upright=False)


class ImageEmbedding(nn.Module):
    """Images -> unit vectors of the contrastive space."""

    def __init__(self, model: Flava | Clip) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch projection"]:
        assert isinstance(inputs, ImageInputs)
        return self.model.encode_image(inputs.pixels)


class TextEmbedding(nn.Module):
    """Texts -> unit vectors of the contrastive space."""

    def __init__(self, model: Flava | Clip) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch projection"]:
        assert isinstance(inputs, TextInputs)
        return self.model.encode_text(inputs.input_ids, inputs.attention_mask)


def embed_images(
    model: Flava | Clip, rows: Sequence[LabelledRow], settings: Settings
) -> Float[np.ndarray, "images projection"]:
    """Unit vectors; raises ValueError if images cannot be decoded, and names them."""
    return embed(ImageEmbedding(model), rows, image_reader(model), settings, "images")


def embed_texts(
    model: Flava | Clip, rows: Sequence[LabelledRow], settings: Settings
) -> Float[np.ndarray, "texts projection"]:
    """Unit vectors; raises ValueError if texts cannot be encoded, and names them."""
    reader = text_reader(model.config.text, PAIR_MAX_LENGTH)
    return embed(TextEmbedding(model), rows, reader, settings, "texts")


def embed(
    embedding: nn.Module,
    rows: Sequence[LabelledRow],
    reader: RowReader,
    settings: Settings,
    what: str,
) -> Float[np.ndarray, "rows projection"]:
    found = outputs_of(
        embedding,
        rows,
        reader,
        settings.precision,
        batch_size=settings.batch_size,
        shown_as=what,
    )
    raise_mistakes_by_kind(
        settings.data_root,
        {f"{what} that cannot be read": [f"{each.key} ({each.message})" for each in found.skipped]},
        "Fetch them anew.",
    )
    return found.values.numpy()


Pairs = Int[np.ndarray, "pairs 2"]
"""Of each pair the image's row, then the text's."""


def score_pairs(
    model: Flava,
    images: Sequence[LabelledRow],
    texts: Sequence[LabelledRow],
    pairs: Pairs,
    settings: Settings,
) -> Float[np.ndarray, " pairs"]:
    """The matching head's logit of "matched" over "mismatched" for each pair.

    Image by image, each read and encoded once: only one image's states are in memory. Texts are
    encoded for each image anew, which takes less than joining them with it.
    """
    scores = np.zeros(len(pairs), dtype=np.float32)
    batches = counted(one_image(pairs, settings.batch_size), len, len(pairs), "matching")
    see, read = image_reader(model), text_reader(model.config.text, PAIR_MAX_LENGTH)
    device = next(model.parameters()).device
    shown, hidden = -1, torch.empty(0)
    with evaluating(model, settings.precision):
        for batch in batches:
            image = int(pairs[batch[0], 0])
            if image != shown:
                pixels = see.batch([see.read(images[image], None)]).pixels
                shown, hidden = image, model.image_encoder(pixels.to(device))
            inputs = read.batch([read.read(texts[row], None) for row in pairs[batch, 1].tolist()])
            text = to_device(inputs, device)
            states = model.text_encoder(text.input_ids, text.attention_mask)
            joint = model.multimodal(hidden.expand(len(batch), -1, -1), states, text.attention_mask)
            scores[batch] = matching_scores(model, joint).float().cpu().numpy()
    return scores


def one_image(pairs: Pairs, size: int) -> Iterator[Int[np.ndarray, " batch"]]:
    """The pairs' places in batches of one image each, of no more than ``size``."""
    order = np.argsort(pairs[:, 0], kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(pairs[order, 0])) + 1):
        for start in range(0, len(same), size):
            yield same[start : start + size]


def ranks_again(
    places: Int[np.ndarray, " queries"],
    candidates: Int[np.ndarray, "queries k"],
    scores: Float[np.ndarray, "queries k"],
    query_ids: Int[np.ndarray, " queries"],
    gallery_ids: Int[np.ndarray, " gallery"],
) -> Int[np.ndarray, " queries"]:
    """The place, from 0, of the best right one when the first k are put in the order of scores.

    Where none of them is right it stays at its place among all, ``places``. A wrong candidate with
    exactly the same score counts as better, as in `flava.evaluation.retrieval.ranks`.
    """
    right = gallery_ids[candidates] == query_ids[:, None]
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    again = ((scores >= best) & ~right).sum(axis=1)
    return np.where(right.any(axis=1), again, places)


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
    few = subsample(captioned, settings.few, settings.seed, benchmark.name)
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
    return missing_paths([folder / each for each in (benchmark.splits, *benchmark.folders)])


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
