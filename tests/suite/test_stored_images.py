"""The suite sees images as they are stored, like torchvision's readers, whatever EXIF says."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import pil_loader

from flava.data.decoding import ORIENTATION
from flava.training.checkpoint import save_checkpoint
from tests.commands import Command, in_this_process
from tests.data.shard_files import picture
from tests.suite.multimodal.data import flickr30k
from tests.suite.vision.models import tiny_clip, tiny_flava

TURNED = 6


@pytest.fixture
def flava(capsys) -> Command:
    return in_this_process(capsys)


def turn(path: Path) -> None:
    """Write into a JPEG that it is to be turned, and change nothing else of it."""
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    content, data = exif.tobytes(), path.read_bytes()
    marker = b"\xff\xe1" + (len(content) + 2).to_bytes(2)
    path.write_bytes(data[:2] + marker + content + data[2:])


def write(root: Path, *, turned: bool) -> None:
    """Rendered SST-2 and Flickr30K in small."""
    for number, part in enumerate(("train", "valid", "test")):
        for label, name in enumerate(("negative", "positive")):
            (root / "rendered-sst2" / part / name).mkdir(parents=True)
            for n in range(3):
                image = picture(10 * number + 100 * label + n, 60, 30)
                image.save(root / "rendered-sst2" / part / name / f"{n}.jpg", quality=95)
    flickr30k(root, [[f"number {n}", f"the {n} th"] for n in range(6)])
    files = sorted(root.rglob("*.jpg"))
    for path in files if turned else []:
        before = np.asarray(pil_loader(path))
        turn(path)
        assert np.array_equal(np.asarray(pil_loader(path)), before)
        assert Image.open(path).getexif()[ORIENTATION] == TURNED


@pytest.mark.parametrize("make", [tiny_flava, tiny_clip])
def test_figures_and_features_do_not_depend_on_exif(
    flava: Command, tmp_path: Path, make: type
) -> None:
    model = save_checkpoint(tmp_path, "model", make())
    found, kept = [], []
    for name in ("plain", "turned"):
        write(tmp_path / name, turned=name == "turned")
        ended = flava(
            "evaluate",
            model,
            "--tasks=rendered_sst2,flickr30k",
            f"--data-root={tmp_path / name}",
            f"--output-dir={tmp_path / name / 'results'}",
            "--precision=fp32",
        )
        assert ended.status == 0, ended.error
        lines = (tmp_path / name / "results" / "results.jsonl").read_text().splitlines()
        found.append(
            [(each["task"], each["metric"], each["value"]) for each in map(json.loads, lines)]
        )
        features = [np.load(path) for path in (tmp_path / name).rglob("*.npy")]
        kept.append(sorted(features, key=len))
    assert found[0] == found[1]
    assert len(kept[0]) == 2
    for plain, turned in zip(*kept, strict=True):
        np.testing.assert_array_equal(plain, turned)
