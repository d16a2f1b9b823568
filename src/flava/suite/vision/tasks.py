"""The vision tasks: a linear probe of each data set, and zero-shot classification."""

from functools import partial

import numpy as np
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch import nn

from flava.evaluation import probe_search
from flava.evaluation.linear_probe import LabelledFeatures
from flava.evaluation.prompts import PROMPTS, Prompts, classify_with_prompts
from flava.evaluation.record import Figure
from flava.inference.features import CONTRASTIVE_PARTS, FeatureExtractor
from flava.models import EncoderModel
from flava.suite.task import Settings, SuiteTask
from flava.suite.vision.collection import Collection, PreparedFold, prepare
from flava.suite.vision.datasets import DATA_SETS, DataSet
from flava.suite.vision.feature_cache import FeatureCache

TEST = "test"


def _linear_probe(data: DataSet, model: nn.Module, settings: Settings) -> list[Figure]:
    """The figure of the data set by CLIP's protocol; of several folds the mean.

    Raises:
        FileNotFoundError, ValueError: the data set is not whole, or does not hold.
        ValueError: the model sees no images, or its features are not finite.
    """
    extractor = _extractor_of(model, settings, "image_encoder")
    collection = data.open(settings.data_root, settings.seed)
    folds = prepare(collection, data.name, settings.seed, settings.few)
    fitted = np.concatenate([part for fold in folds for part in (fold.train, fold.validation)])
    tested = np.concatenate([fold.test for fold in folds])
    fit_samples, test_samples = (
        FeaturesOfPlaces(extractor, settings, data, collection, np.unique(places))
        for places in (fitted, tested)
    )
    pairs = [_probed(data, fold, fit_samples, test_samples) for fold in folds]
    return [_figure(data, data.name, pairs)]


class FeaturesOfPlaces:
    """The features and labels of some places of a data set."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        settings: Settings,
        data: DataSet,
        collection: Collection,
        places: np.ndarray,
    ) -> None:
        folder = settings.data_root / data.folder
        cache = FeatureCache(extractor, settings.cache)
        self.places, self.labels = places, collection.samples.labels
        self.features = cache.features(data.name, folder, collection.samples.images, places)

    def at(self, places: np.ndarray) -> LabelledFeatures:
        """Those of some of the places."""
        rows = np.searchsorted(self.places, places)
        return LabelledFeatures(self.features[rows], self.labels[places])


def _probed(
    data: DataSet, fold: PreparedFold, fit_samples: FeaturesOfPlaces, test_samples: FeaturesOfPlaces
) -> tuple[np.ndarray, np.ndarray]:
    """The labels of the fold's test part, and what the probe takes them for."""
    test = test_samples.at(fold.test)
    predicted, _ = probe_search.predictions(
        fit_samples.at(fold.train),
        fit_samples.at(fold.validation),
        test.features,
        _metric_of(data),
        title=f"{data.name}: probes",
    )
    return test.labels, predicted


def _zero_shot(
    data: DataSet, prompts: Prompts, model: nn.Module, settings: Settings
) -> list[Figure]:
    """The same metric on the same test part, with the classes' names for a classifier.

    Raises:
        FileNotFoundError, ValueError: as `_linear_probe`.
    """
    extractor = _extractor_of(model, settings, *CONTRASTIVE_PARTS)
    collection = data.open(settings.data_root, settings.seed)
    folds = prepare(collection, data.name, settings.seed, settings.few)
    places = np.unique(np.concatenate([fold.test for fold in folds]))
    tested = FeaturesOfPlaces(extractor, settings, data, collection, places)
    predicted = classify_with_prompts(extractor, tested.features, prompts, title="classes")
    pairs = []
    # STL10's ten folds have one test part, which is predicted once.
    for test in {fold.test.tobytes(): fold.test for fold in folds}.values():
        rows = np.searchsorted(tested.places, test)
        pairs.append((tested.labels[test], predicted[rows]))
    return [_figure(data, f"zero_shot_{data.name}", pairs)]


def _figure(data: DataSet, task: str, pairs: list[tuple[np.ndarray, np.ndarray]]) -> Figure:
    """The mean over the folds of the metric of (truth, predicted), beside the commonest class."""
    metric = _metric_of(data)
    constant = [np.full_like(truth, np.bincount(truth).argmax()) for truth, _ in pairs]
    return Figure(
        task=task,
        split=TEST,
        metric=data.metric,
        value=float(np.mean([metric(truth, predicted) for truth, predicted in pairs])),
        n=sum(len(truth) for truth, _ in pairs),
        baselines={
            "majority": float(
                np.mean([metric(t, c) for (t, _), c in zip(pairs, constant, strict=True)])
            )
        },
    )


def _metric_of(data: DataSet) -> probe_search.Metric:
    """Accuracy, or the mean of the accuracies of the classes that there are samples of."""
    return balanced_accuracy_score if data.mean_per_class else accuracy_score


def _extractor_of(model: nn.Module, settings: Settings, *needed: str) -> FeatureExtractor:
    """Raises ValueError: the model has not all these parts, or has them at initial values only."""
    if not isinstance(model, EncoderModel):
        raise ValueError(f"an encoder of images can be probed, not a {type(model).__name__}")
    if missing := sorted(model.missing_parts.intersection(needed)):
        kind, parts = type(model).__name__, ", ".join(missing)
        raise ValueError(f"this {kind} has no trained {parts}: give a FLAVA or a CLIP")
    return FeatureExtractor(model, settings.precision, settings.batch_size)


VISION = tuple(
    SuiteTask(
        name=data.name,
        group="vision",
        rows=((data.row, data.metric),),
        folder=data.folder,
        source=data.source,
        licence=data.licence,
        missing=data.missing,
        measure=partial(_linear_probe, data),
    )
    for data in DATA_SETS
)
"""The 22 linear probes."""

ZERO_SHOT = tuple(
    SuiteTask(
        name=f"zero_shot_{data.name}",
        group="vision",
        rows=(),
        folder=data.folder,
        source=data.source,
        licence=data.licence,
        missing=data.missing,
        measure=partial(_zero_shot, data, PROMPTS[data.name]),
    )
    for data in DATA_SETS
)
"""Zero-shot classification of the same data sets: CLIP publishes prompts for all of them."""
