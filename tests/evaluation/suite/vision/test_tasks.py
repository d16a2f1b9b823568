"""The tasks whole: on real digits, in torchvision's files, with tiny models that are not trained."""

import gzip
import io
import struct
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from flava.data.embedded import resolve
from flava.evaluation.suite.task import Settings
from flava.evaluation.suite.vision import VISION, ZERO_SHOT, tasks
from flava.evaluation.suite.vision.collection import prepare
from flava.evaluation.suite.vision.datasets import DATA_SETS
from flava.evaluation.suite.vision.features import Extractor
from flava.model import Clip, Flava
from flava.training.run import Precision
from tests.evaluation.suite.vision.disk import WRITERS
from tests.evaluation.suite.vision.models import tiny_clip, tiny_flava

BY_NAME = {data.name: data for data in DATA_SETS}
PROBES = {task.name: task for task in VISION}
ZEROS = {task.name: task for task in ZERO_SHOT}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_root=tmp_path,
        cache=tmp_path / "cache",
        precision=Precision.FP32,
        batch_size=64,
    )


def write_digits(folder: Path) -> None:
    """The package's MNIST digits as torchvision has them: its training tars train."""
    for name, shards in (("train", "embedded:images/mnist-train*.tar"), ("t10k", HELD_OUT)):
        digits, labels = [], []
        for path in resolve(shards):
            with tarfile.open(path) as tar:
                for member in tar:
                    content = tar.extractfile(member)
                    assert content is not None
                    digits.append(content.read())
    raise NotImplementedError
