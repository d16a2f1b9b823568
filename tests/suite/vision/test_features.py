"""Features equal those computed by hand, and are computed once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flava.core.precision import Precision
from flava.data.transforms import normalise
from flava.inference.features import FeatureExtractor
from flava.models import Clip, Flava
from flava.suite.task import Settings
from flava.suite.vision.feature_cache import FeatureCache
from tests.suite.vision.models import tiny_clip, tiny_flava


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_root=tmp_path / "data",
        cache=tmp_path / "cache",
        precision=Precision.FP32,
        batch_size=4,
    )


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Ten wide images of noise."""
    folder = tmp_path / "data" / "noise"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    paths = [folder / f"{n}.png" for n in range(10)]
    for path in paths:
        Image.fromarray(rng.integers(256, size=(48, 96, 3), dtype=np.uint8)).save(path)
    return paths


def cached(model: Flava | Clip, settings: Settings) -> FeatureCache:
    extractor = FeatureExtractor(model, settings.precision, settings.batch_size)
    return FeatureCache(extractor, settings.cache)


@contextmanager
def counting(model: Flava | Clip) -> Iterator[list[int]]:
    """The batches that the image encoder has seen."""
    seen: list[int] = []
    hook = model.image_encoder.register_forward_hook(lambda _m, args, _o: seen.append(len(args[0])))
    yield seen
    hook.remove()


@pytest.mark.parametrize("make", [tiny_flava, tiny_clip])
def test_features_are_the_normed_cls_of_what_the_model_should_see(
    make: type, settings: Settings, images: list[Path]
) -> None:
    model = make().train()
    places = np.array([1, 2, 3, 5, 8, 9])
    features = cached(model, settings).features("noise", images[0].parent, images, places)
    for place, feature in zip(places, features, strict=True):
        image = Image.open(images[place])
        if isinstance(model, Clip):  # the shorter side to 24, then the middle
            seen = image.resize((48, 24), Image.Resampling.BICUBIC).crop((12, 0, 36, 24))
        else:
            seen = image.resize((24, 24), Image.Resampling.BICUBIC)
        with torch.no_grad():
            hidden = model.image_encoder(normalise(np.array(seen)[None]))
            wanted = model.image_encoder.norm(hidden)[0, 0].numpy()
        np.testing.assert_allclose(feature, wanted, atol=1e-4)  # batches of other sizes
    assert model.training


def test_what_is_known_is_not_computed_again(settings: Settings, images: list[Path]) -> None:
    model, places, folder = tiny_flava(), np.arange(10), images[0].parent
    cache = cached(model, settings)
    with counting(model) as seen:
        first = cache.features("noise", folder, images, places)
        assert seen == [4, 4, 2]
        again = cached(model, replace(settings, batch_size=3)).features(
            "noise", folder, images, places
        )
        assert seen == [4, 4, 2]
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("change", ["weights", "precision", "view", "file", "places", "model"])
def test_what_has_changed_is_computed_anew(
    change: str, settings: Settings, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, places, folder = tiny_flava(), np.arange(10), images[0].parent
    cached(model, settings).features("noise", folder, images, places)
    match change:
        case "weights":
            with torch.no_grad():
                model.image_encoder.norm.bias[3] += 1e-3
        case "precision":
            settings = replace(settings, precision=Precision.BF16)
        case "view":
            view = cached(model, settings).extractor.view
            wide = replace(view, resample=Image.Resampling.NEAREST)
            monkeypatch.setattr(FeatureExtractor, "view", wide)
        case "file":
            images[4].write_bytes(images[5].read_bytes())
        case "places":
            places = np.arange(9)
        case "model":
            model = tiny_clip()
    with counting(model) as seen:
        cached(model, settings).features("noise", folder, images, places)
    assert sum(seen) == len(places)


def test_other_weights_outside_the_image_encoder_change_nothing(
    settings: Settings, images: list[Path]
) -> None:
    model, places, folder = tiny_flava(), np.arange(10), images[0].parent
    cached(model, settings).features("noise", folder, images, places)
    with torch.no_grad():
        model.image_projection.bias.add_(1)
    with counting(model) as seen:
        cached(model, settings).features("noise", folder, images, places)
    assert seen == []


def test_images_that_cannot_be_decoded_are_listed_together(
    settings: Settings, images: list[Path]
) -> None:
    images[2].write_bytes(b"no image")
    images[7].write_bytes(images[7].read_bytes()[:200])
    folder = images[0].parent
    with pytest.raises(ValueError, match="some images cannot be used") as caught:
        cached(tiny_flava(), settings).features("noise", folder, images, np.arange(10))
    assert str(images[2]) in str(caught.value)
    assert str(images[7]) in str(caught.value)
    assert not list(settings.cache.rglob("*.npy"))
