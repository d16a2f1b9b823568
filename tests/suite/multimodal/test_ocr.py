from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image, ImageDraw, ImageFont

from flava.suite.multimodal import hateful_memes
from tests.suite.multimodal.data import save_image


class Engine:
    """RapidOCR's boundary: an image to an object with `txts`, None where nothing was found."""

    def __init__(self, params: dict[str, object]) -> None:
        self.params = params
        self.seen: list[tuple[int, int]] = []

    def __call__(self, image: Image.Image) -> SimpleNamespace:
        self.seen.append(image.size)
        width = image.size[0]
        return SimpleNamespace(txts=("TOP", f"bottom {width}") if width > 20 else None)


@pytest.fixture
def engines(monkeypatch) -> list[Engine]:
    made: list[Engine] = []

    def make(params: dict[str, object]) -> Engine:
        made.append(Engine(params))
        return made[-1]

    monkeypatch.setattr(hateful_memes, "import_module", lambda _: SimpleNamespace(RapidOCR=make))
    monkeypatch.setattr(metadata, "version", lambda _: "1.2.3")
    return made


def images(folder: Path, widths: Sequence[int]) -> list[Path]:
    paths = [folder / f"{i}-{width}.png" for i, width in enumerate(widths)]
    for path, width in zip(paths, widths, strict=True):
        save_image(path, "white", size=(width, 30))
    return paths


def test_each_image_is_read_once(engines: list[Engine], tmp_path: Path) -> None:
    paths = images(tmp_path / "img", [30, 10, 40, 30])
    texts = hateful_memes._texts_in(paths, tmp_path)
    assert texts == ["TOP bottom 30", "", "TOP bottom 40", "TOP bottom 30"]
    (engine,) = engines
    # The fourth has the first one's content.
    assert engine.seen == [(30, 30), (10, 30), (40, 30)]
    assert hateful_memes._texts_in(paths, tmp_path) == texts
    assert len(engines) == 1


def test_what_was_read_before_a_stop_is_kept(engines: list[Engine], tmp_path: Path) -> None:
    paths = images(tmp_path / "img", [30, 40, 50])
    hateful_memes._texts_in(paths[:2], tmp_path)
    (kept,) = (tmp_path / "ocr").iterdir()
    assert kept.name == "rapidocr-1.2.3.jsonl"
    kept.write_bytes(kept.read_bytes()[:-20])  # killed while it wrote the second
    assert hateful_memes._texts_in(paths, tmp_path) == [
        f"TOP bottom {width}" for width in (30, 40, 50)
    ]
    assert engines[1].seen == [(40, 30), (50, 30)]
    hateful_memes._texts_in(paths, tmp_path)
    assert len(engines) == 2


def test_images_that_cannot_be_read_are_one_error(engines: list[Engine], tmp_path: Path) -> None:
    paths = images(tmp_path / "img", [30, 40])
    paths[0].write_bytes(b"none")
    with pytest.raises(ValueError, match=r"0-30.png \(image cannot be decoded.*gone.png"):
        hateful_memes._texts_in([*paths, tmp_path / "gone.png"], tmp_path)
    assert engines[0].seen == [(40, 30)]


def test_a_missing_library_is_said(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(hateful_memes, "LIBRARY", "no_such_library")
    with pytest.raises(ValueError, match=r"pip install 'flava\[ocr\]'"):
        hateful_memes._texts_in(images(tmp_path, [30]), tmp_path)


def test_the_library_reads_real_letters(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    pytest.importorskip("onnxruntime")
    assert import_module(hateful_memes.LIBRARY).RapidOCR
    image = Image.new("RGB", (320, 120), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=36)
    draw.text((20, 10), "HELLO WORLD", fill="black", font=font)
    draw.text((20, 65), "second line", fill="black", font=font)
    image.save(tmp_path / "meme.png")
    (text,) = hateful_memes._texts_in([tmp_path / "meme.png"], tmp_path)
    assert text.lower().replace(" ", "") == "helloworldsecondline"
