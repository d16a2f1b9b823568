from pathlib import Path

import numpy as np
from PIL import Image

from flava.data.labelled import LabelledRow
from flava.data.labelled_loader import ImageReader


def test_whole_images_stay_whole_in_training_whatever_their_shape(tmp_path: Path) -> None:
    stripes = np.linspace(0, 255, 90, dtype=np.uint8)[None, :, None].repeat(30, 0).repeat(3, 2)
    Image.fromarray(stripes).save(tmp_path / "wide.png")
    row = LabelledRow(shard="", key="wide", image=tmp_path / "wide.png")
    whole = ImageReader(size=24, crop_scale=(1.0, 1.0))
    seen, trained = (whole.read(row, rng) for rng in (None, np.random.default_rng(0)))
    assert (seen == trained).all()
    # Three times as wide as high: a crop's ratio is 4/3 at most.
    cropped = ImageReader(size=24, crop_scale=(0.9, 1.0)).read(row, np.random.default_rng(0))
    assert int(cropped[0, 0, 0]) > int(seen[0, 0, 0]) + 30
