"""Near-duplicates left out of whole builds."""

from pathlib import Path

import pytest

from flava.data.manifest import read_manifest
from flava.prepare.build_config import CleaningConfig
from flava.prepare.build_manifest import EVALUATION, NEAR
from tests.data.shard_files import encoded, picture, write_tar
from tests.prepare.made import built, captions, photo, write_coco


def test_near_duplicates_go_but_not_the_other_captions_of_an_image(tmp_path: Path) -> None:
    first = photo(1)
    images = {
        "first.png": encoded(first),
        "again.jpg": encoded(first.resize((90, 75)), "JPEG"),
        "other.png": encoded(photo(2)),
    }
    pairs = [("first.png", "one"), ("again.jpg", "two"), ("first.png", "three"), ("other.png", "4")]
    config = write_coco(tmp_path, images, [*pairs, ("again.jpg", "five")])
    done = built(config)
    assert captions(config.output) == ["one", "three", "4"]
    assert (done["left_out"], done["images"]) == ({NEAR: 2}, 2)
    named = [f"captions_train2014.json:{number}: {NEAR}" for number in (2, 5)]
    assert done["examples"] == {NEAR: named}
    assert built(config, output=tmp_path / "pieces", rows_per_shard=2)["examples"] == {NEAR: named}
    kept = CleaningConfig(short_side=64, near_duplicates=None)
    done = built(config, cleaning=kept, output=tmp_path / "all")
    assert captions(tmp_path / "all") == ["one", "two", "three", "4", "five"]
    assert done["left_out"] == {}


@pytest.mark.parametrize("kind", ["folder", "tar", "table"])
def test_pairs_that_look_like_an_evaluation_set_go(kind: str, tmp_path: Path) -> None:
    images = {f"{n}.png": encoded(photo(n)) for n in range(6)}
    config = write_coco(tmp_path, images, [(name, f"the {name}") for name in images])
    held_out = tmp_path / "evaluation"
    (held_out / "dogs").mkdir(parents=True)
    files = {
        "dogs/a.jpg": encoded(photo(4).resize((200, 170)), "JPEG"),
        "dogs/b.jpg": encoded(picture(77, 50, 50), "JPEG"),
        "dogs/broken.jpg": b"no image",
    }
    if kind == "tar":
        write_tar(held_out / "dogs" / "all.tar", files)
    else:
        for name, data in files.items():
            (held_out / name).write_bytes(data)
    given = held_out
    if kind == "table":  # only those that it lists
        (held_out / "dogs" / "c.jpg").write_bytes(images["5.png"])
        given = held_out / "test.csv"
        given.write_text("\n".join(["image", *files]))
    done = built(config, against=(given,))
    assert captions(config.output) == [f"the {n}.png" for n in range(6) if n != 4]
    assert done["left_out"] == {EVALUATION: 1}
    assert done["against_unread"]["images"] == 1


def test_pairs_that_look_like_those_of_shards_built_before_go(tmp_path: Path) -> None:
    """Two folders of shards, one given itself, the other by the folder that it is in."""
    for name, numbers in {"coco": (0, 1), "sbu": (2,), "new": range(5)}.items():
        (tmp_path / name).mkdir()
        images = {f"{n}.png": encoded(photo(n)) for n in numbers}
        config = write_coco(tmp_path / name, images, [(image, f"the {image}") for image in images])
        against = (tmp_path / "coco" / "shards", tmp_path / "sbu") if name == "new" else ()
        built(config, against=against)
    assert captions(tmp_path / "new" / "shards") == ["the 3.png", "the 4.png"]
    assert read_manifest(tmp_path / "new" / "shards")["left_out"] == {EVALUATION: 3}
