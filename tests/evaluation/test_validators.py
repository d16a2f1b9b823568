"""Validators of pretraining: the same figure wherever the images lie, whoever computes it."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image

from flava.core.distributed import rank
from flava.core.precision import Precision
from flava.data.decoding import ORIENTATION
from flava.data.errors import SampleError
from flava.data.imagenet import WNIDS, validation_images
from flava.data.tokenizers import ClipTokenizer, Tokenizer
from flava.evaluation.prompts import Prompts, classify_with_prompts
from flava.evaluation.shared_features import image_features
from flava.evaluation.validators import (
    imagenet_validator,
    read_validation_pairs,
    retrieval_validator,
)
from flava.inference.features import FeatureExtractor
from flava.models import Clip, Flava
from tests.commands import Command, in_this_process
from tests.data.shard_files import encoded, picture, write_tar
from tests.suite.vision.models import tiny_clip, tiny_flava
from tests.training.ranks import run_phases

IDS = WNIDS.read_text().split()
SHOWN = (0, 3, 17, 388, 999)
"""Classes of the images in these tests."""
EACH = 3


@pytest.fixture
def flava(capsys) -> Command:
    return in_this_process(capsys)


def folder_of(root: Path) -> Path:
    """torchvision's folder: some classes with three images each, one of them to be turned."""
    for place, number in enumerate(SHOWN):
        inside = root / IDS[number]
        inside.mkdir(parents=True)
        for n in range(EACH):
            exif = Image.Exif()
            exif[ORIENTATION] = 6 if n == 1 else 1
            image = picture(EACH * place + n, 40 + n, 30 + 2 * place)
            image.save(inside / f"ILSVRC2012_val_{EACH * place + n:08d}.JPEG", "JPEG", exif=exif)
    return root


def parquet_of(folder: Path, path: Path) -> Path:
    """As `datasets` writes ImageNet-1k: the file's bytes, and the number of its class."""
    files = sorted(folder.glob("*/*.JPEG"))
    path.parent.mkdir(parents=True)
    table = pa.table(
        {
            "image": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
            "label": [IDS.index(file.parent.name) for file in files],
        }
    )
    pq.write_table(table, path, row_group_size=4)
    return path


def test_the_classes_are_those_that_others_have_in_this_order() -> None:
    info = Path(timm.__file__).parent / "data" / "_info" / "imagenet_synsets.txt"
    assert info.read_text().split() == IDS == sorted(set(IDS))
    assert len(IDS) == 1000


def test_the_images_are_found_in_every_form(tmp_path: Path, flava: Command) -> None:
    """Each form is put where it is looked for, the one that is looked for last first."""
    folder = folder_of(tmp_path / "elsewhere")
    files = sorted(folder.glob("*/*.JPEG"))
    expected = [(file.read_bytes(), IDS.index(file.parent.name)) for file in files]
    root = tmp_path / "data"

    def found(*given: str) -> list[tuple[bytes, int]]:
        images = validation_images(given, str(root))
        assert len(images) == len(expected)
        return [(images[n], int(label)) for n, label in enumerate(images.labels)]

    parquet_of(folder, root / "imagenet" / "data" / "validation-00000-of-00001.parquet")
    assert found() == expected
    folder_of(root / "imagenet" / "val")
    assert found() == expected
    built = root / "imagenet-1k-val"
    ended = flava("data", "build", "imagenet-1k", "--annotations", folder, "--output", built)
    assert ended.status == 0, ended.error
    assert sorted(found()) == sorted(expected)  # a build writes them in a random order
    assert validation_images((), str(root)).source.endswith("imagenet-1k-val/*.tar")
    # WebDataset's own way of labels.
    stored = {}
    for n, (data, label) in enumerate(expected):
        stored |= {f"{n:04d}.jpg": data, f"{n:04d}.cls": str(label).encode()}
    assert found(str(write_tar(tmp_path / "wds.tar", stored))) == expected
    assert found(str(folder)) == expected


def test_images_that_are_not_there_or_of_no_class_are_named(tmp_path: Path) -> None:
    root = str(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match=r"imagenet-1k-val/\*\.tar, .*/imagenet/val"):
        validation_images((), root)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tar"):
        validation_images(("nowhere.tar",), root)
    with pytest.raises(ValueError, match="URL: copy them"):
        validation_images((), "s3://bucket/data")
    (tmp_path / "cats" / "tabby").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"cats/tabby: 'tabby' is no class.*n01440764"):
        validation_images((str(tmp_path / "cats"),), root)
    picture(0).save(tmp_path / "cats" / "a.png")
    with pytest.raises(ValueError, match=r"cats/a\.png is in no class's folder"):
        validation_images((str(tmp_path / "cats"),), root)
    bare = write_tar(tmp_path / "bare.tar", {"x.png": encoded(picture(0))})
    with pytest.raises(ValueError, match=r"bare\.tar, sample x: None is no class"):
        validation_images((str(bare),), root)
    (tmp_path / "cut.tar").write_bytes(bare.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"cut\.tar cannot be read as a tar"):
        validation_images((str(tmp_path / "cut.tar"),), root)
    pq.write_table(pa.table({"image": [b""], "label": [1000]}), tmp_path / "many.parquet")
    with pytest.raises(ValueError, match=r"many\.parquet, row 0 .*1000 is no class"):
        validation_images((str(tmp_path / "many.parquet"),), root)
    pq.write_table(pa.table({"picture": [b""]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="no column image and no column label"):
        validation_images((str(tmp_path / "other.parquet"),), root)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"broken\.parquet cannot be read as Parquet"):
        validation_images((str(tmp_path / "broken.parquet"),), root)


def few_prompts() -> Prompts:
    """All classes, in two templates; the first has two names."""
    return Prompts(
        (
            ("thing 0", "object 0"),
            *((f"thing {n}",) for n in range(1, 1000)),
        ),
        ("a photo of a {}.", "{}"),
    )


EXACT: dict[str, Any] = {"precision": Precision.FP32, "batch_size": 4}
"""How the validators of these tests compute."""


@pytest.mark.parametrize("make", [tiny_flava, tiny_clip])
def test_the_accuracy_is_what_one_gets_image_by_image(
    tmp_path: Path, make: Callable[[], Flava | Clip]
) -> None:
    """Independently: each image and prompt encoded alone; images are not turned, one is broken."""
    folder = folder_of(tmp_path / "val")
    (folder / IDS[SHOWN[0]] / "zbroken.JPEG").write_bytes(b"no image")
    model = make().train()
    images = validation_images((str(folder),), "nowhere")
    validate = imagenet_validator(images, **EXACT, threads=2, prompts=few_prompts())
    figures = validate(model, 3)
    assert list(figures) == ["imagenet_zero_shot_accuracy"]
    assert model.training

    tokenizer = ClipTokenizer() if isinstance(model, Clip) else Tokenizer()

    def text(words: str) -> np.ndarray:
        ids, attention_mask = tokenizer.batch([words], model.config.text.max_length)
        return model.encode_text(ids, attention_mask)[0].detach().numpy()

    model.eval()
    prompts = few_prompts()
    classes = []
    for each in prompts.classes:
        mean = np.mean([text(t.format(n)) for n in each for t in prompts.templates], axis=0)
        classes.append(mean / np.linalg.norm(mean))
    size = model.config.image.image_size
    hits = []
    for file in sorted(folder.glob("*/ILSVRC*")):
        image = Image.open(file).convert("RGB")
        if isinstance(model, Clip):
            scale = size / min(image.size)
            width, height = (int(side * scale) for side in image.size)
            left, top = (width - size) // 2, (height - size) // 2
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            image = image.crop((left, top, left + size, top + size))
        else:
            image = image.resize((size, size), Image.Resampling.BICUBIC)
        levels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
        vector = model.encode_image(((levels - mean) / std)[None])[0].detach().numpy()
        hits.append(int(np.argmax(np.array(classes) @ vector)) == IDS.index(file.parent.name))
    assert figures["imagenet_zero_shot_accuracy"] == pytest.approx(sum(hits) / (len(hits) + 1))


def few_are_right(folder: Path) -> None:
    """Each rank writes what it finds; labels are the model's own answers for some of the images."""
    model = tiny_flava()
    images = validation_images((str(folder / "val"),), "nowhere")
    labels = json.loads((folder / "labels.json").read_text())
    images = replace(images, labels=np.array(labels))
    pairs = read_validation_pairs([str(folder / "pairs.tar")])
    found = imagenet_validator(images, **EXACT, threads=1, prompts=few_prompts())(model, 0)
    found |= retrieval_validator(pairs, **EXACT, threads=1)(model, 0)
    name = f"found-{torch.distributed.get_world_size()}-{rank()}.json"
    (folder / name).write_text(json.dumps(found))


def test_the_figures_are_the_same_on_any_number_of_ranks(tmp_path: Path) -> None:
    """Of fifteen images in batches of four: with three ranks two of them have one batch less."""
    folder_of(tmp_path / "val")
    pairs = {}
    for n in range(11):
        pairs[f"{n:03d}.png"] = encoded(picture(n // 2))  # two captions for most images
        pairs[f"{n:03d}.txt"] = f"picture number {n}".encode()
    write_tar(tmp_path / "pairs.tar", pairs)
    images = validation_images((str(tmp_path / "val"),), "nowhere")
    extractor = FeatureExtractor(tiny_flava(), **EXACT)
    features = image_features(extractor, images).values
    predicted = classify_with_prompts(extractor, features, few_prompts()).tolist()
    labels = [label if n % 2 else (label + 1) % 1000 for n, label in enumerate(predicted)]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    run_phases([(ranks, few_are_right) for ranks in (1, 2, 3)], tmp_path)
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("found-*.json"))]
    assert len(found) == 6
    assert all(each == found[0] for each in found)
    assert found[0]["imagenet_zero_shot_accuracy"] == 7 / 15
    assert 0 < found[0]["held_out_r@5"] < 1


def test_held_out_pairs_that_cannot_be_used_are_counted(tmp_path: Path, caplog) -> None:
    files = {"b.png": b"broken", "b.txt": b"two", "c.png": encoded(picture(2))}
    for n in range(6):
        files |= {f"{n}.png": encoded(picture(n)), f"{n}.txt": f"number {n}".encode()}
    pairs = read_validation_pairs([str(write_tar(tmp_path / "pairs.tar", files))])
    assert pairs.captions == [f"number {n}" for n in range(6)]
    assert "2 pairs are left out, first pairs.tar, b: image cannot be decoded" in caplog.text
    with pytest.raises(ValueError, match=r"no usable pair in .*none\.tar"):
        read_validation_pairs(
            [str(write_tar(tmp_path / "none.tar", {"b.png": b"", "b.txt": b"x"}))]
        )


def test_a_handful_of_held_out_images_tells_nothing(tmp_path: Path) -> None:
    """Among five the right one is always among the first five."""
    files = {}
    for n in range(8):
        files |= {f"{n}.png": encoded(picture(n % 5)), f"{n}.txt": f"number {n}".encode()}
    with pytest.raises(ValueError, match=r"few\.tar holds 8 pairs of 5 images.*more than 5 images"):
        read_validation_pairs([str(write_tar(tmp_path / "few.tar", files))])


def test_held_out_pairs_are_seen_upright_as_in_training(tmp_path: Path) -> None:
    plain, turned = {}, {}
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for n in range(7):
        upright = picture(n, 30, 20)
        plain |= {f"{n}.png": encoded(upright), f"{n}.txt": f"number {n}".encode()}
        stream = io.BytesIO()
        upright.transpose(Image.Transpose.ROTATE_90).save(stream, "PNG", exif=exif)
        turned |= {f"{n}.png": stream.getvalue(), f"{n}.txt": f"number {n}".encode()}
    model, seen = tiny_flava(), []
    project = FeatureExtractor.project_images
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            FeatureExtractor,
            "project_images",
            lambda self, f: (seen.append(f), project(self, f))[1],
        )
        for files in (plain, turned):
            pairs = read_validation_pairs([str(write_tar(tmp_path / "pairs.tar", files))])
            retrieval_validator(pairs, **EXACT, threads=1)(model, 0)
    np.testing.assert_array_equal(*seen)


def test_no_sample_of_a_tar_is_lost_without_a_word(tmp_path: Path) -> None:
    """Names with folders and dots, and tars that are damaged where `tarfile` just ends."""

    def tar(name: str, names: list[str]) -> Path:
        files = {}
        for n, each in enumerate(names):
            files |= {f"{each}.png": encoded(picture(n)), f"{each}.cls": b"7"}
        return write_tar(tmp_path / name, files)

    for folder in ("./", "val.v1/"):
        path = tar("dots.tar", [f"{folder}{n:04d}" for n in range(6)])
        assert len(validation_images([str(path)], "nowhere")) == 6
    with pytest.raises(ValueError, match=r"two images have one name up to the first dot, ILSVRC"):
        validation_images([str(tar("same.tar", [f"ILSVRC.val.{n}" for n in range(6)]))], "nowhere")
    whole = tar("whole.tar", [f"{n:04d}" for n in range(6)]).read_bytes()
    header = whole.index(b"0003.png")
    for name, content in (
        ("between.tar", whole[:header]),
        ("within.tar", whole[: header + 600]),
        ("garbage.tar", whole[:header] + b"x" * 512 + whole[header + 512 :]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a tar"):
            validation_images([str(tmp_path / name)], "nowhere")
    twice = validation_images([str(tmp_path / "whole.tar"), str(tmp_path / "who*.tar")], "nowhere")
    assert len(twice) == 6


def test_a_build_that_did_not_end_is_refused(tmp_path: Path, flava: Command) -> None:
    root = tmp_path / "data"
    built = root / "imagenet-1k-val"
    folder = folder_of(tmp_path / "elsewhere")
    command = ("data", "build", "imagenet-1k", "--annotations", folder, "--output", built)
    assert flava(*command, "--rows-per-shard", 4).status == 0
    (built / ".unfinished").mkdir()
    with pytest.raises(ValueError, match="is a build that did not end: run the same"):
        validation_images((), str(root))
    (built / ".unfinished").rmdir()
    next(iter(built.glob("*.tar"))).unlink()
    with pytest.raises(ValueError, match="lacks 1 shards, first imagenet-1k-000000"):
        validation_images((), str(root))


def test_images_that_can_never_be_read_stop_the_start(tmp_path: Path) -> None:
    for values, said in ((["a", "b"], "holds string"), ([1, 2], "holds int64")):
        pq.write_table(pa.table({"image": values, "label": [0, 1]}), tmp_path / "val.parquet")
        with pytest.raises(ValueError, match=f"the column image {said}, not the bytes of files"):
            validation_images((str(tmp_path / "val.parquet"),), "nowhere")
    cells = [{"bytes": None, "path": "a.jpg"}, {"bytes": b"x", "path": "b.jpg"}]
    pq.write_table(pa.table({"image": cells, "label": [0, 1]}), tmp_path / "val.parquet")
    images = validation_images((str(tmp_path / "val.parquet"),), "nowhere")
    with pytest.raises(ValueError, match="no image can be read, of 2 images of 2 classes"):
        imagenet_validator(images, **EXACT, threads=1, prompts=few_prompts())


def test_an_image_that_is_gone_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "val")
    images = validation_images((str(folder),), "nowhere")
    next(iter(sorted(folder.glob("*/*")))).unlink()
    with pytest.raises(SampleError, match="image cannot be read"):
        images[0]
