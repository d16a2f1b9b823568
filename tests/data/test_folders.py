"""The walk below a folder, compared with the sorted list of all paths."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flava.data.errors import SkippedSample
from flava.data.paths import walk_images


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


PART = st.text("ab-./ é".replace("/", ""), min_size=1, max_size=3).filter(
    lambda name: not name.startswith(".")
)


@given(st.lists(st.lists(PART, min_size=1, max_size=3), max_size=8))
def test_paths_come_in_the_order_of_their_sorted_list(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("walk")
    wanted = {"/".join(parts) + ".png" for parts in names}
    touch(folder, *wanted)
    assert list(walk_images(folder)) == sorted(wanted)


def test_hidden_files_and_other_endings_are_passed_over(tmp_path):
    touch(tmp_path, "b.JPG", "a.txt", ".c.png", ".hidden/d.png", "e/f.webp", "e/g")
    assert list(walk_images(tmp_path)) == ["b.JPG", "e/f.webp"]


def test_links_are_followed_and_a_circle_of_them_is_reported(tmp_path):
    touch(tmp_path, "in/a.png", "elsewhere/b.png")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    first, second, circle = walk_images(tmp_path / "in")
    assert [first, second] == ["a.png", "link/b.png"]
    assert isinstance(circle, SkippedSample)
    assert (circle.key, circle.reason) == ("round/", "link leads in a circle")


def test_what_is_no_file_or_has_no_unicode_name_is_reported(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "c.png")
    (tmp_path / os.fsdecode(b"d\xff.png")).touch()
    found = list(walk_images(tmp_path))
    assert found[0] == "a.png"
    assert [(each.key, each.reason) for each in found[1:] if isinstance(each, SkippedSample)] == [
        ("b.png", "not a file"),
        ("c.png", "not a file"),
        ("d\ufffd.png", "name is not UTF-8"),
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes nobody, which only root can")
def test_a_folder_that_may_not_be_read_is_reported(tmp_path):
    touch(tmp_path, "a.png", "b/c.png")
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o755)
    (tmp_path / "b").chmod(0)
    os.seteuid(65534)
    try:
        first, second = walk_images(tmp_path)
    finally:
        os.seteuid(0)
    assert first == "a.png"
    assert isinstance(second, SkippedSample)
    assert str(second) == f"{tmp_path}: b/: folder cannot be read: Permission denied"
