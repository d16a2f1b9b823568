"""What the tests of the probe and of its search share: hard features, and a count of the cost."""

from typing import Any

import numpy as np
import pytest

from flava.evaluation.regularisation_path import RegularisationPath


def samples(seed: int, count: int, classes: int, width: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Features as an encoder's are: far from zero, and of very unequal variance."""
    rng = np.random.default_rng(0)
    falling = np.arange(1, width + 1)[:, None] ** -1.0
    mixing = np.linalg.qr(rng.normal(size=(width, width)))[0] * 10 * falling
    centres = rng.normal(size=(classes, width)) * falling.T**0.5
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count) * 3 + 1  # not 0, 1, 2
    features = (centres[labels // 3] + rng.normal(size=(count, width))) @ mixing + 5
    return features.astype(np.float32), labels


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by an entry with each pass of a fit of the search over the data."""
    made: list[int] = []
    loss = RegularisationPath.loss

    def counted(self: RegularisationPath, *given: Any) -> tuple[float, np.ndarray]:
        made.append(1)
        return loss(self, *given)

    monkeypatch.setattr(RegularisationPath, "loss", counted)
    return made
