"""Shard specifications, against a shell's brace expansion and files made for it."""

import itertools
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flava.data.paths import CORPUS, expand_braces, resolve

SPECS = [
    "plain.tar",
    "{a,b}.tar",
    "x-{000..003}.tar",
    "x-{3..1}-{a,b}.tar",
    "{8..11}",
    "{08..11}",
    "{a,b{c,d}}-{1..2}.tar",
    "a{,-extra}.tar",
    "{alone}/{1..1}.tar",
    "{a,{1..2}}",
    "{a..c}{0..8..4}",
    "{-1..1}.tar",
    "{{a,b}}",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b-000.tar", "b-001.tar", "a-000.tar", "odd [1].tar", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.tar").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("spec", SPECS)
def test_braces_are_a_shells(spec):
    told = subprocess.run(["bash", "-c", f"printf '%s\\n' {spec}"], capture_output=True, text=True)
    assert expand_braces(spec) == told.stdout.splitlines()


def test_a_backslash_is_a_character_of_the_name():
    """A shell would take it away, and object stores have it in names."""
    assert expand_braces("a\\b-{1..2}.tar") == ["a\\b-1.tar", "a\\b-2.tar"]


@given(st.lists(st.lists(st.text("abc-", max_size=3), min_size=2, max_size=3), max_size=3))
def test_braces_are_a_product(lists):
    spec = "".join("{" + ",".join(choices) + "}" for choices in lists)
    assert expand_braces(spec) == ["".join(pick) for pick in itertools.product(*lists)]


@pytest.mark.parametrize("spec", ["a{b", "a}b", "{a,b}}", "{{a,b}", "}{", ""])
def test_a_malformed_specification_is_named(spec):
    with pytest.raises(ValueError, match="shard spec") as raised:
        resolve(spec)
    assert repr(spec) in str(raised.value)


@pytest.mark.parametrize("root", ["", "absolute"])
def test_paths_globs_and_braces(folder, root):
    base = f"{folder}/" if root else ""
    names = [
        Path(path).relative_to(base or ".").as_posix()
        for path in resolve(f"{base}{{b-*,a-000,inner/?,a-*}}.tar")
    ]
    assert names == ["b-000.tar", "b-001.tar", "a-000.tar", "inner/c.tar"]


@pytest.mark.usefixtures("folder")
def test_a_name_that_looks_like_a_glob_is_found_as_it_is():
    assert resolve("odd [1].tar") == [Path("odd [1].tar")]


def test_a_folder_is_a_source(folder):
    assert resolve(str(folder / "inner")) == [folder / "inner"]


def test_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert resolve("~/a-*.tar") == [folder / "a-000.tar"]


@pytest.mark.usefixtures("folder")
def test_every_alternative_must_exist():
    with pytest.raises(FileNotFoundError) as raised:
        resolve("{a-000,b-007}.tar")
    told = str(raised.value)
    assert "'b-007.tar'" in told
    assert "{a-000,b-007}.tar" in told
    assert "b-001.tar" in told
    assert "inner/" in told


def test_a_missing_folder_names_the_nearest_there_is(folder):
    with pytest.raises(FileNotFoundError, match=r"no/where/x.tar.*notes.txt"):
        resolve(str(folder / "no" / "where" / "x.tar"))


def test_an_empty_folder_is_said_to_be_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds nothing"):
        resolve(str(tmp_path / "*.tar"))


def test_a_long_folder_is_cut(tmp_path):
    for number in range(100):
        (tmp_path / f"{number:03d}.tar").touch()
    with pytest.raises(FileNotFoundError, match=r"039.tar and 60 more$"):
        resolve(str(tmp_path / "x.tar"))


@pytest.mark.parametrize(
    "spec",
    ["pairs/{noto,noto-v1}-train.tar", "pairs/noto*-train.tar", "pairs/noto{,-v1}-train.tar.gz"],
)
def test_embedded_shards_with_or_without_gz(spec):
    found = resolve(f"embedded:{spec}")
    assert [path.name.removesuffix(".gz") for path in found] == [
        "noto-train.tar",
        "noto-v1-train.tar",
    ]
    assert all(path.is_file() and path.is_relative_to(CORPUS) for path in found)


def test_embedded_texts():
    (found,) = resolve("embedded:text/wordnet-val.jsonl")
    assert found == CORPUS / "text" / "wordnet-val.jsonl.gz"


def test_a_missing_embedded_shard_lists_the_corpus():
    with pytest.raises(FileNotFoundError) as raised:
        resolve("embedded:pairs/{noto,notto}-train.tar")
    told = str(raised.value)
    assert "'pairs/notto-train.tar'" in told
    for path in CORPUS.glob("*/*.gz"):
        assert path.relative_to(CORPUS).as_posix() in told


@pytest.mark.usefixtures("folder")
def test_an_embedded_name_is_not_looked_for_elsewhere():
    with pytest.raises(FileNotFoundError, match="in the embedded corpus"):
        resolve("embedded:a-000.tar")
    with pytest.raises(ValueError, match="empty shard specification"):
        resolve("embedded:")
