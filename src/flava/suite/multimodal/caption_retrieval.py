"""Retrieval on Flickr30K and COCO, by embeddings and by the matching head.

The paper's protocol: Karpathy's test splits, cosine similarity in the contrastive space. Each image
has five captions, some of COCO's more, all of which are candidates and queries; for an image any of
its own is right.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flava.core.batch import ImageInputs, Inputs, TextInputs
from flava.core.progress import counted
from flava.core.randomness import subsample
from flava.data.labelled import LabelledRow
from flava.data.labelled_loader import ImageReader, Pixels, RowReader, row_image
from flava.data.views import clip_view
from flava.evaluation.record import Figure
from flava.evaluation.retrieval import RANKS, chance_recall, nearest, ranks, recall, rerank
from flava.inference.features import FeatureExtractor
from flava.inference.row_outputs import PAIR_MAX_LENGTH, row_outputs, text_reader
from flava.models import Clip, Flava
from flava.suite.data_mistakes import raise_mistakes_by_kind
from flava.suite.multimodal.dataset_files import (
    FLICKR_IMAGES,
    TEST,
    missing_paths,
    read_split,
    rows_of,
)
from flava.suite.task import Settings, SuiteTask


@dataclass(frozen=True, kw_only=True)
class MiddleReader(ImageReader):
    """The middle of an image, its shorter side resized: what CLIP sees."""

    def read(self, row: LabelledRow, rng: np.random.Generator | None) -> Pixels:  # noqa: ARG002
        return clip_view(self.size).transform(row_image(row, upright=self.upright))


def _image_reader(model: Flava | Clip) -> ImageReader:
    """How `flava.load` shows images to the model if no file says otherwise: FLAVA sees all of one,
    squared, and CLIP its middle; but they are not turned as their EXIF says."""
    kind = MiddleReader if isinstance(model, Clip) else ImageReader
    return kind(size=model.config.image.image_size, crop_scale=(1.0, 1.0), upright=False)


def _embed_images(
    extractor: FeatureExtractor, rows: Sequence[LabelledRow], data_root: Path
) -> Float[np.ndarray, "images projection"]:
    """Unit vectors; raises ValueError if images cannot be decoded, and names them."""

    def compute(inputs: Inputs) -> Float[Tensor, "batch projection"]:
        assert isinstance(inputs, ImageInputs)
        return extractor.image_embeddings(inputs.pixels)

    return embed(extractor, rows, _image_reader(extractor.model), compute, data_root, "images")


def _embed_texts(
    extractor: FeatureExtractor, rows: Sequence[LabelledRow], data_root: Path
) -> Float[np.ndarray, "texts projection"]:
    """Unit vectors; raises ValueError if texts cannot be encoded, and names them."""

    def compute(inputs: Inputs) -> Float[Tensor, "batch projection"]:
        assert isinstance(inputs, TextInputs)
        return extractor.text_embeddings(inputs.input_ids, inputs.attention_mask)

    reader = text_reader(extractor.model.config.text, PAIR_MAX_LENGTH)
    return embed(extractor, rows, reader, compute, data_root, "texts")


def embed(
    extractor: FeatureExtractor,
    rows: Sequence[LabelledRow],
    reader: RowReader,
    compute: Callable[[Inputs], Tensor],
    data_root: Path,
    what: str,
) -> Float[np.ndarray, "rows projection"]:
    outputs = row_outputs(extractor, rows, reader, compute, title=what)
    unreadable = [f"{each.key} ({each.message})" for each in outputs.skipped]
    raise_mistakes_by_kind(
        data_root, {f"{what} that cannot be read": unreadable}, "Fetch them anew."
    )
    return outputs.values.numpy()


PairIndices = Int[np.ndarray, "pairs 2"]
"""Of each pair the image's row, then the text's."""


def _score_pairs(
    extractor: FeatureExtractor,
    images: Sequence[LabelledRow],
    texts: Sequence[LabelledRow],
    pairs: PairIndices,
) -> Float[np.ndarray, " pairs"]:
    """The matching head's logit of "matched" over "mismatched" for each pair.

    Image by image, each read and encoded once: only one image's states are in memory. Texts are
    encoded for each image anew, which takes less than joining them with it.
    """
    model = extractor.model
    scores = np.zeros(len(pairs), dtype=np.float32)
    batches = counted(_one_image(pairs, extractor.batch_size), len, len(pairs), "matching")
    image_rows, text_rows = _image_reader(model), text_reader(model.config.text, PAIR_MAX_LENGTH)
    encoded, image_states = -1, torch.empty(0)
    with extractor.computing():
        for batch in batches:
            image = int(pairs[batch[0], 0])
            if image != encoded:
                pixels = image_rows.batch([image_rows.read(images[image], None)]).pixels
                encoded, image_states = image, extractor.image_states(pixels)
            text = text_rows.batch(
                [text_rows.read(texts[row], None) for row in pairs[batch, 1].tolist()]
            )
            text_states = extractor.text_states(text.input_ids, text.attention_mask)
            joint = extractor.joint_states(
                image_states.expand(len(batch), -1, -1), text_states, text.attention_mask
            )
            scores[batch] = extractor.matching_scores(joint).float().cpu().numpy()
    return scores


def _one_image(pairs: PairIndices, size: int) -> Iterator[Int[np.ndarray, " batch"]]:
    """The indices of the pairs in batches of one image each, of no more than ``size``."""
    order = np.argsort(pairs[:, 0], kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(pairs[order, 0])) + 1):
        for start in range(0, len(same), size):
            yield same[start : start + size]


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
class RetrievalSide:
    """Images or texts; those of one id belong together."""

    vectors: Float[np.ndarray, "side projection"]
    ids: Int[np.ndarray, " side"]


def _measure(
    model: nn.Module, settings: Settings, *, benchmark: Benchmark, reranked: bool = False
) -> list[Figure]:
    """R@k both ways on the test split; with ``reranked``, of the first candidates in the order of
    the matching head.

    Raises:
        FileNotFoundError, ValueError: the data does not hold; or the model has no contrastive
            space, or is to rank again and has no matching head.
    """
    _check_model(model, reranked=reranked)
    extractor = FeatureExtractor(model, settings.precision, settings.batch_size)
    folder = settings.data_root / benchmark.name
    captioned = read_split(folder / benchmark.splits, folder / benchmark.images)
    few = subsample(captioned, settings.few, settings.seed, benchmark.name)
    images, captions, owners = rows_of(few, str(folder))
    sides = (
        RetrievalSide(_embed_images(extractor, images, settings.data_root), np.arange(len(images))),
        RetrievalSide(_embed_texts(extractor, captions, settings.data_root), np.array(owners)),
    )
    measured: list[Figure] = []
    for way, (queries, gallery) in zip(WAYS, (sides, sides[::-1]), strict=True):
        inputs = queries.vectors, gallery.vectors, queries.ids, gallery.ids
        right_ranks = ranks(*inputs)
        if reranked:
            first = nearest(*inputs, benchmark.rerank)
            pairs = np.stack([np.indices(first.shape)[0].ravel(), first.ravel()], axis=1)
            pairs = pairs if way == WAYS[0] else pairs[:, ::-1]
            scores = _score_pairs(extractor, images, captions, pairs).reshape(first.shape)
            right_ranks = rerank(right_ranks, first, scores, queries.ids, gallery.ids)
        name = f"{benchmark.name}_reranked" if reranked else benchmark.name
        measured += _figures(name, way, right_ranks, queries.ids, gallery.ids)
    return measured


def _check_model(model: nn.Module, *, reranked: bool) -> None:
    """Raises ValueError: the model cannot be measured so."""
    if not isinstance(model, Flava | Clip):
        raise ValueError(
            f"a {type(model).__name__} has no contrastive space: give a whole FLAVA or CLIP"
        )
    if reranked and not isinstance(model, Flava):
        raise ValueError("a CLIP has no matching head: leave the re-ranked tasks out")
    if reranked and isinstance(model, Flava):
        model.require("itm_head")


def _figures(
    task: str,
    way: str,
    right_ranks: Int[np.ndarray, " queries"],
    query_ids: Int[np.ndarray, " queries"],
    gallery_ids: Int[np.ndarray, " candidates"],
) -> list[Figure]:
    return [
        Figure(
            task=task,
            split=TEST,
            metric=f"{way}_r@{k}",
            value=recall(right_ranks, k),
            n=len(right_ranks),
            baselines={"chance": chance_recall(query_ids, gallery_ids, k)},
        )
        for k in RANKS
    ]


def _missing(folder: Path, *, benchmark: Benchmark) -> list[str]:
    """Of the files and folders that are read; single images are looked for when it is measured."""
    return missing_paths([folder / each for each in (benchmark.splits, *benchmark.folders)])


def _task_of(benchmark: Benchmark, *, reranked: bool) -> SuiteTask:
    """The task; it fills rows of Table C.1 unless it is ranked again, which the paper does not."""
    table = [(w, short, k) for w, short in zip(WAYS, ("TR", "IR"), strict=True) for k in (1, 5)]
    return SuiteTask(
        name=f"{benchmark.name}_reranked" if reranked else benchmark.name,
        group="multimodal",
        rows=()
        if reranked
        else tuple((f"{benchmark.title} {short} R@{k}", f"{way}_r@{k}") for way, short, k in table),
        folder=benchmark.name,
        source=benchmark.source,
        licence=benchmark.licence,
        missing=partial(_missing, benchmark=benchmark),
        measure=partial(_measure, benchmark=benchmark, reranked=reranked),
    )


RETRIEVAL = tuple(_task_of(each, reranked=False) for each in (FLICKR30K, COCO))

RERANKED = tuple(_task_of(each, reranked=True) for each in (FLICKR30K, COCO))
"""The same ranked again by the matching head; asked for by name, and no row of the table."""
