"""The tasks whole, with tiny models that are not trained; some on real digits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from flava.core.precision import Precision
from flava.data.tokenizers import ClipTokenizer, Tokenizer
from flava.data.transforms import normalise
from flava.evaluation import probe_search
from flava.evaluation.prompts import PROMPTS
from flava.models import (
    Clip,
    Flava,
    MaskedImageConfig,
    MaskedImageModel,
    MaskedTextConfig,
    MaskedTextModel,
)
from flava.suite.task import Settings
from flava.suite.vision import VISION, ZERO_SHOT
from flava.suite.vision.datasets import DATA_SETS
from flava.suite.vision.tasks import _figure
from tests.evaluation.digits import write_digits
from tests.suite.vision.disk import WRITERS
from tests.suite.vision.models import tiny_clip, tiny_flava

BY_NAME = {data.name: data for data in DATA_SETS}
PROBES = {task.name: task for task in VISION}
ZEROS = {task.name: task for task in ZERO_SHOT}

Make = Callable[[], Flava | Clip]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_root=tmp_path,
        cache=tmp_path / "cache",
        precision=Precision.FP32,
        batch_size=64,
    )


def raw(path: Path, head: int) -> np.ndarray:
    return np.frombuffer(path.read_bytes()[head:], np.uint8)


def by_hand(model: Flava | Clip, folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels from MNIST's files, with nothing of the suite."""
    digits = raw(folder / f"{part}-images-idx3-ubyte", 16).reshape(-1, 28, 28)
    size = (24, 24)
    seen = [
        Image.fromarray(digit).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        for digit in digits
    ]
    with torch.no_grad():
        hidden = model.image_encoder(normalise(np.stack([np.asarray(each) for each in seen])))
        features = model.image_encoder.norm(hidden[:, 0]).numpy()
    return features, raw(folder / f"{part}-labels-idx1-ubyte", 8)


@pytest.mark.parametrize("make", [tiny_flava, tiny_clip])
def test_the_figure_of_real_digits_is_scikit_learns(
    make: Make, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With lambda 1e-2, where the fit converges; the search has its own tests."""
    write_digits(tmp_path, limit=300)
    model = make()
    monkeypatch.setattr(
        probe_search, "_search", lambda score: probe_search.LambdaSearch(-16, {-16: score(-16)})
    )
    (result,) = PROBES["mnist"].measure(model, settings)
    train, labels = by_hand(model, tmp_path / "MNIST" / "raw", "train")
    test, truth = by_hand(model, tmp_path / "MNIST" / "raw", "t10k")
    alone = LogisticRegression(C=100, max_iter=1000, tol=1e-4 / len(labels))
    alone.fit(train - train.mean(axis=0), labels)
    wanted = alone.score(test - train.mean(axis=0), truth)
    assert result.value == pytest.approx(wanted, abs=1.01 / 300)  # one digit on the border
    assert (result.task, result.split, result.metric, result.n) == (
        "mnist",
        "test",
        "accuracy",
        300,
    )
    assert result.baselines == {"majority": np.bincount(truth).max() / 300}
    assert result.value > 2 * result.baselines["majority"]


def test_a_second_call_reads_no_image(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(tmp_path, limit=60)
    model = tiny_flava()
    first = PROBES["mnist"].measure(model, settings)
    monkeypatch.setattr("flava.evaluation.shared_features.open_image", None)
    assert PROBES["mnist"].measure(model, settings) == first
    ZEROS["zero_shot_mnist"].measure(model, settings)  # the same test features serve


def test_few_is_by_the_seed(settings: Settings, tmp_path: Path) -> None:
    write_digits(tmp_path)
    few = replace(settings, few=40)
    (first,) = PROBES["mnist"].measure(tiny_flava(), few)
    assert first.n == 40
    assert PROBES["mnist"].measure(tiny_flava(), few) == [first]
    files = {path.name for path in settings.cache.rglob("*.npy")}
    PROBES["mnist"].measure(tiny_flava(), replace(few, seed=1))
    assert len({path.name for path in settings.cache.rglob("*.npy")} - files) == 2


@pytest.mark.parametrize(("name", "folds", "n"), [("stl10", 10, 10), ("ucf101", 3, 101)])
def test_several_folds_are_averaged(
    name: str, folds: int, n: int, settings: Settings, tmp_path: Path
) -> None:
    WRITERS[name](tmp_path / BY_NAME[name].folder)
    (result,) = PROBES[name].measure(tiny_flava(), replace(settings, few=n))
    assert result.n == folds * n


def test_a_test_part_that_folds_share_is_classified_once(
    settings: Settings, tmp_path: Path
) -> None:
    WRITERS["stl10"](tmp_path / "stl10_binary")
    (result,) = ZEROS["zero_shot_stl10"].measure(tiny_flava(), settings)
    assert result.n == 10


def test_mean_per_class_weighs_classes_alike() -> None:
    truth, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 0])
    pairs = [(truth, predicted), (truth, truth)]
    pets, dtd = (_figure(BY_NAME[name], name, pairs) for name in ("pets", "dtd"))
    assert pets.value == pytest.approx(((3 / 4 + 1 / 2) / 2 + 1) / 2)
    assert pets.baselines["majority"] == pytest.approx(1 / 2)
    assert dtd.value == pytest.approx((4 / 6 + 1) / 2)
    assert dtd.baselines["majority"] == pytest.approx(4 / 6)
    assert (pets.metric, dtd.metric, dtd.n) == ("mean_per_class", "accuracy", 12)


@pytest.mark.parametrize("make", [tiny_flava, tiny_clip])
def test_zero_shot_is_that_computed_by_hand(make: Make, settings: Settings, tmp_path: Path) -> None:
    """Expressions have several names each: the mean is over all of them in all templates."""
    WRITERS["fer2013"](tmp_path / "fer2013")
    model = make()
    (result,) = ZEROS["zero_shot_fer2013"].measure(model, settings)
    prompts = PROMPTS["fer2013"]
    tokenizer = ClipTokenizer() if isinstance(model, Clip) else Tokenizer()
    classes = []
    for each in prompts.classes:
        texts = [t.replace("{}", name) for name in each for t in prompts.templates]
        ids = [torch.tensor([tokenizer.encode(text, 77)]) for text in texts]
        with torch.no_grad():
            units = [model.encode_text(i, torch.ones_like(i, dtype=torch.bool)) for i in ids]
        classes.append(functional.normalize(torch.cat(units).mean(dim=0), dim=0))
    right = []
    for label in range(7):
        grey = np.full((1, 24, 24, 3), label * 20 + 10, np.uint8)
        with torch.no_grad():
            image = model.encode_image(normalise(grey))[0]
        right.append(int(torch.stack([image @ c for c in classes]).argmax()) == label)
    assert result.value == pytest.approx(np.mean(right))
    assert (result.task, result.metric, result.n) == ("zero_shot_fer2013", "accuracy", 7)


def test_an_image_encoder_alone_has_the_figure_that_it_has_in_a_flava(
    settings: Settings, tmp_path: Path
) -> None:
    write_digits(tmp_path, limit=60)
    whole = tiny_flava()
    config = MaskedImageConfig(image=whole.config.image, codebook=whole.config.codebook)
    alone = MaskedImageModel(config)
    alone.image_encoder.load_state_dict(whole.image_encoder.state_dict())
    apart = replace(settings, cache=tmp_path / "apart")
    assert PROBES["mnist"].measure(alone, apart) == PROBES["mnist"].measure(whole, settings)
    with pytest.raises(ValueError, match="no trained projections, text_encoder: give a FLAVA"):
        ZEROS["zero_shot_mnist"].measure(alone, settings)


def test_a_model_without_images_is_refused(settings: Settings) -> None:
    model = MaskedTextModel(MaskedTextConfig(text=tiny_flava().config.text))
    with pytest.raises(ValueError, match="this MaskedTextModel has no trained image_encoder"):
        PROBES["mnist"].measure(model, settings)


def test_features_that_are_not_finite_are_refused(settings: Settings, tmp_path: Path) -> None:
    write_digits(tmp_path, limit=60)
    model = tiny_flava()
    with torch.no_grad():
        model.image_encoder.norm.weight[0] = float("nan")
    with pytest.raises(ValueError, match="the model has diverged"):
        PROBES["mnist"].measure(model, settings)


def test_rows_are_those_that_the_paper_prints() -> None:
    assert [task.rows[0][0] for task in VISION] == [
        *("ImageNet", "Food101", "CIFAR10", "CIFAR100", "Cars", "Aircraft", "DTD", "Pets"),
        *("Caltech101", "Flowers", "MNIST", "STL10", "EuroSAT", "GTSRB", "KITTI", "PCAM"),
        *("UCF101", "CLEVR", "FER 2013", "SUN397", "SST", "Country211"),
    ]
    assert all(task.rows[0][1] == BY_NAME[task.name].metric for task in VISION)
    assert all(task.rows == () and task.name.startswith("zero_shot_") for task in ZERO_SHOT)
