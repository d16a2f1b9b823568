import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pytest
from PIL import Image

from flava.prepare.build_config import CleaningConfig
from flava.prepare.build_manifest import EXACT
from flava.prepare.images import _perceptual_hash
from flava.prepare.inspection import check
from tests.data.shard_files import encoded, picture
from tests.prepare.made import (
    bomb,
    built,
    captions,
    opened,
    samples,
    write_coco,
    write_fetched,
    write_pairs,
)


def test_every_pair_is_in_one_shard(tmp_path: Path) -> None:
    config = write_pairs(tmp_path, 30)
    done = built(config)
    assert captions(config.output) == [f"picture number {n}" for n in range(30)]
    assert [shard["samples"] for shard in done["shards"]] == [6, 6, 6, 6, 6]
    assert (done["rows"], done["kept"], done["images"], done["left_out"]) == (30, 30, 30, {})
    keys = [key for key, _, _ in samples(config.output)]
    assert len(set(keys)) == 30
    for shard in done["shards"]:
        data = (config.output / shard["name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
        assert len(data) == shard["bytes"]
    assert sorted(path.name for path in config.output.iterdir()) == [
        *(f"cc12m-{n:06d}.tar" for n in range(5)),
        "manifest.json",
    ]
    assert check(config.output) == []


def test_images_are_made_smaller_only_if_they_are_larger(tmp_path: Path) -> None:
    small, large = encoded(picture(1, 90, 64), "JPEG"), encoded(picture(2, 300, 128))
    tall = encoded(picture(3, 65, 130), "WEBP")
    gif = encoded(picture(4, 30, 30), "GIF")
    images = {"small.jpg": small, "large.png": large, "tall.webp": tall, "old.gif": gif}
    config = write_coco(tmp_path, images, [(name, f"the {name}") for name in images])
    built(config)
    written = {fields["caption"]: data for _, fields, data in samples(config.output)}
    assert written["the small.jpg"] == small
    for name, size in (("large.png", (150, 64)), ("tall.webp", (64, 128)), ("old.gif", (30, 30))):
        data = written[f"the {name}"]
        assert data is not None
        assert (opened(data).format, opened(data).size) == ("JPEG", size)
    original = np.asarray(picture(2, 300, 128).resize((150, 64)), float)
    large_data = written["the large.png"]
    assert large_data is not None
    assert abs(np.asarray(opened(large_data), float) - original).mean() < 4  # JPEG's loss


def test_what_is_written_says_where_it_is_from(tmp_path: Path) -> None:
    config = write_coco(tmp_path, {"a.jpg": encoded(picture(1, 40, 30), "JPEG")}, [("a.jpg", "x")])
    done = built(config)
    ((_, fields, _),) = samples(config.output)
    assert fields == {
        "caption": "x",
        "width": 40,
        "height": 30,
        "licence": "http://licence.example/by",
    }
    assert done["licences"] == {"http://licence.example/by": 1}
    (annotations,) = config.annotations
    digest = hashlib.sha256(annotations.read_bytes()).hexdigest()
    assert done["annotations"] == [
        {"name": annotations.name, "bytes": annotations.stat().st_size, "sha256": digest}
    ]
    assert done["config"]["cleaning"]["short_side"] == 64
    assert done["code"]["flava"]
    assert "CC BY 4.0" in done["licence"]


def test_each_step_of_cleaning_is_counted_and_named(tmp_path: Path) -> None:
    good = encoded(picture(1, 40, 40))
    images = {
        "good.png": good,
        "tiny.png": encoded(picture(2, 40, 12)),
        "broken.jpg": encoded(picture(3, 40, 40), "JPEG")[:300],
        "page.jpg": b"<html>404</html>",
        "bomb.png": bomb(),
        "empty.jpg": b"",
    }
    (tmp_path / "secret.png").write_bytes(good)
    pairs: list[tuple[str, Any]] = [(name, f"the {name}") for name in images]
    pairs += [
        ("good.png", ""),
        ("good.png", "<br>"),
        ("good.png", None),
        ("good.png", "the good.png"),
    ]
    pairs += [("../secret.png", "leaves"), ("link.png", "link"), ("gone.png", "gone")]
    config = write_coco(tmp_path, images, pairs)
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    done = built(config)
    assert captions(config.output) == ["the good.png"]
    assert done["left_out"] == {
        EXACT: 1,
        "caption is empty": 1,
        "caption is markup or signs alone": 1,
        "caption is missing": 1,
        "image cannot be decoded": 3,
        "image is not there": 1,
        "image is tiny": 1,
        "image is too large": 1,
        "link leads out of the folder": 1,
        "path leaves the folder": 1,
    }
    assert done["rows"] == done["kept"] + sum(done["left_out"].values()) == 13
    (example,) = done["examples"]["image is too large"]
    assert example.startswith("captions_train2014.json:5: image is too large: ")


def test_what_img2dataset_could_not_fetch_is_counted_by_its_status(tmp_path: Path) -> None:
    config = write_pairs(tmp_path, 12)
    assert config.images is not None
    failed = {3: "failed_to_download", 4: "failed_to_resize", 5: "failed_to_download"}
    good = {n: encoded(picture(n, 40, 32), "JPEG") for n in range(6) if n not in failed}
    write_fetched(config.images / "00000", good, failed)
    with config.annotations[0].open("a") as tsv:
        tsv.write("http://images.example/other.jpg\tit was not tried\n")
    done = built(config)
    assert captions(config.output) == [f"picture number {n}" for n in range(12) if n not in failed]
    assert done["left_out"] == {
        "image was not fetched: failed_to_download": 2,
        "image was not fetched: failed_to_resize": 1,
        "image was not fetched: not tried": 1,
    }


def test_the_perceptual_hash_is_phash_in_its_published_order() -> None:
    for seed in range(20):
        image = picture(seed, 70, 50)
        assert f"{_perceptual_hash(image):016x}" == str(imagehash.phash(image))
    solid = Image.new("RGB", (40, 40))
    assert _perceptual_hash(solid) == int(str(imagehash.phash(solid)), 16)


def test_all_mistakes_of_a_command_are_told_at_once(tmp_path: Path) -> None:
    config = write_pairs(tmp_path, 4)
    wrong = replace(
        config,
        annotations=(tmp_path / "gone.tsv",),
        images=config.annotations[0],
        rows_per_shard=0,
        cleaning=CleaningConfig(min_side=0, near_duplicates=20),
    )
    with pytest.raises(ValueError, match="the data cannot be built") as error:
        built(wrong)
    for said in ("gone.tsv: there is no such file", "is no folder", "--rows-per-shard is 0"):
        assert said in str(error.value)
    for said in ("--cleaning.min-side is 0", "near-duplicates is 20: use 0 to 8 bits"):
        assert said in str(error.value)
    with pytest.raises(ValueError, match="no source 'laion': choose one of coco, sbu"):
        built(config, source="laion")


def test_a_build_that_keeps_nothing_says_why(tmp_path: Path) -> None:
    config = write_pairs(tmp_path, 4)
    with pytest.raises(ValueError, match=r"none of the 4 rows.*4 times: caption is too short"):
        built(config, cleaning=CleaningConfig(min_words=9))


@pytest.mark.parametrize("damage", ["byte", "missing", "extra", "manifest"])
def test_check_finds_damage(damage: str, tmp_path: Path) -> None:
    config = write_pairs(tmp_path, 10)
    built(config)
    shard = config.output / "cc12m-000001.tar"
    if damage == "byte":
        content = bytearray(shard.read_bytes())
        content[600] ^= 1
        shard.write_bytes(content)
        expected = [f"{shard}: sha256 is "]
    elif damage == "missing":
        shard.unlink()
        expected = [f"{shard}: is missing"]
    elif damage == "extra":
        (config.output / "more.tar").write_bytes(shard.read_bytes())
        expected = ["more.tar: is not in the manifest"]
    else:
        manifest = config.output / "manifest.json"
        told = json.loads(manifest.read_bytes())
        told["shards"][1]["samples"] += 1
        manifest.write_text(json.dumps(told))
        expected = ["samples in the manifest's shards", f"{shard}: 5 samples, and 6"]
    found = check(config.output)
    for each in expected:
        assert any(each in mistake for mistake in found), found


def test_check_refuses_a_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no manifest\.json"):
        check(tmp_path)


def test_a_build_imports_no_torch(tmp_path: Path) -> None:
    """In a process of its own: there it is a tenth of the time and of the memory."""
    config = write_coco(tmp_path, {"a.png": encoded(picture(1, 40, 30))}, [("a.png", "a word")])
    arguments = ["data", "build", "coco", "--annotations", str(config.annotations[0])]
    arguments += ["--images", str(config.images), "--output", str(config.output)]
    code = (
        "import sys; from flava.cli import main\n"
        f"assert main({[*arguments, '--processes', '1']}) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert captions(config.output) == ["a word"]
