import io
import json
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flava.core.randomness import random_generator
from flava.data.data_config import DataConfig, SourceConfig
from flava.data.errors import SkippedSample
from flava.data.samples import text_of
from flava.data.shards import RawSample, read_shard
from flava.prepare.build_config import BuildConfig, CleaningConfig
from flava.prepare.texts import _token_count, packed_lines
from tests.data.shard_files import encoded, picture, write_tar
from tests.prepare.made import built, captions, samples


def config(source: str, annotations: Path, folder: Path, **changes: Any) -> BuildConfig:
    return BuildConfig(
        source=source, annotations=(annotations,), output=folder / "shards", **changes
    )


def test_imagenet_in_torchvision_s_folder_keeps_its_classes(tmp_path: Path) -> None:
    train = tmp_path / "train"
    for number, name in enumerate(("n01440764", "n02119789", "n01440764")):
        (train / name).mkdir(parents=True, exist_ok=True)
        (train / name / f"{name}_{number}.JPEG").write_bytes(encoded(picture(number), "JPEG"))
    (train / "LOC_synset_mapping.csv").write_text("a,b\n1,2\n")
    done = built(config("imagenet-1k", train, tmp_path))
    found = [fields["class"] for _, fields, _ in samples(tmp_path / "shards")]
    assert found == ["n01440764", "n01440764", "n02119789"]
    assert done["kept"] == 3
    shards = (str(tmp_path / "shards" / "*.tar"),)
    source = SourceConfig(shards=shards, weight=1.0, batch_size=2)
    assert DataConfig(images=source).problems() == []


def test_imagenet_in_parquet_keeps_its_labels(tmp_path: Path) -> None:
    folder = tmp_path / "imagenet-1k" / "data"
    folder.mkdir(parents=True)
    for shard in range(2):
        images = [
            {"bytes": encoded(picture(10 * shard + n), "JPEG"), "path": f"{n}.JPEG"}
            for n in range(3)
        ]
        table = pa.table({"image": images, "label": [7 + shard, 8 + shard, 9 + shard]})
        pq.write_table(table, folder / f"train-{shard:05d}-of-00002.parquet")
    built(config("imagenet-1k", folder.parent, tmp_path))
    assert [f["label"] for _, f, _ in samples(tmp_path / "shards")] == [7, 8, 9, 8, 9, 10]


def test_pairs_of_one_s_own_come_from_every_kind_of_table(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(encoded(picture(number)))
    rows = [{"image": f"{number}.png", "caption": f"the {number} th one"} for number in range(2)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.csv").write_text("path,text\n0.png,the 0 th one\n1.png,the 1 th one\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        output = tmp_path / f"of-{name}"
        built(BuildConfig(source="pairs", annotations=(tmp_path / name,), output=output))
        assert captions(output) == ["the 0 th one", "the 1 th one"], name


def test_several_captions_are_several_pairs(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(encoded(picture(0)))
    table = tmp_path / "a.jsonl"
    table.write_text(json.dumps({"image": "0.png", "captions": ["one", "two"]}) + "\n")
    done = built(config("pairs", table, tmp_path))
    assert captions(tmp_path / "shards") == ["one", "two"]
    assert done["images"] == 1


def test_a_tar_of_one_s_own_and_what_is_wrong_in_it(tmp_path: Path) -> None:
    files = {"a.png": encoded(picture(0)), "a.txt": b"the first", "b.txt": b"no image"}
    tar = write_tar(tmp_path / "mine.tar", files)
    with tarfile.open(tar, "a") as opened:
        link = tarfile.TarInfo("c.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(link)
        link.name, link.type = "only.png", tarfile.LNKTYPE
        opened.addfile(link)
        for name, data in (("c.txt", b"a link"), ("../../d.png", files["a.png"])):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            opened.addfile(entry, io.BytesIO(data))
        for name, data in (("a.png", encoded(picture(5))), ("a.txt", b"the first again")):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            opened.addfile(entry, io.BytesIO(data))
    done = built(config("pairs", tar, tmp_path))
    assert captions(tmp_path / "shards") == ["the first"]
    assert done["left_out"] == {
        "link in a tar": 2,
        "path leaves the folder": 1,
        "sample has no image": 1,
        "two samples have one key": 1,
    }
    assert done["examples"]["link in a tar"] == [
        "mine.tar/c: link in a tar: c.png",
        "mine.tar: link in a tar: only.png",
    ]
    assert not (tmp_path.parent / "d.png").exists()


def lines(folder: Path) -> list[str]:
    """As training reads them, sorted: the order of shards is random."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        for raw in read_shard(path):
            assert isinstance(raw, RawSample | SkippedSample)
            if isinstance(raw, RawSample):
                found.append(text_of(raw, random_generator(0, 0, raw.key)))
    return sorted(found)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_news_are_cut_into_sentences_and_packed_by_document(form: str, tmp_path: Path) -> None:
    documents = [
        "A first sentence. A second one!\nA third, of a new paragraph",
        "Another document? Yes.",
        "",
        "A first sentence. A second one!\nA third, of a new paragraph",
    ]
    path = tmp_path / f"news.{form}"
    if form == "jsonl":
        path.write_text(
            "".join(json.dumps({"text": text, "title": "x"}) + "\n" for text in documents)
        )
    else:
        pq.write_table(pa.table({"text": documents, "title": ["x"] * 4}), path)
    done = built(config("ccnews", path, tmp_path, cleaning=CleaningConfig(text_tokens=11)))
    assert lines(tmp_path / "shards") == [
        "A first sentence. A second one!",
        "A third, of a new paragraph",
        "Another document? Yes.",
    ]
    assert done["left_out"] == {"duplicate of an earlier sample": 2, "text is empty": 1}


def test_books_are_packed_over_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "books_large_p1.txt"
    path.write_text("".join(f"this is line {word} .\n" for word in ("one", "two", "six", "ten")))
    built(config("bookcorpus", path, tmp_path, cleaning=CleaningConfig(text_tokens=12)))
    assert lines(tmp_path / "shards") == [
        "this is line one . this is line two .",
        "this is line six . this is line ten .",
    ]


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "dog", "antidisestablishment"]), min_size=1), max_size=9
    ),
    st.integers(3, 40),
)
def test_packing_loses_no_word_and_keeps_the_length(words: list[list[str]], tokens: int) -> None:
    sentences = [" ".join(each) for each in words]
    found = list(packed_lines(sentences, tokens))
    assert " ".join(found).split() == " ".join(sentences).split()
    for line in found:
        assert _token_count(line) <= tokens - 2 or len(line.split()) == 1
    for line, following in pairwise(found):  # none could hold another word
        assert _token_count(line) + _token_count(following) > tokens - 2


def test_documents_stay_whole_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("One. Two. Three.\nFour. Five.\n")
    built(config("texts", path, tmp_path, cleaning=CleaningConfig(text_tokens=0)))
    assert lines(tmp_path / "shards") == ["Four. Five.", "One. Two. Three."]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.docx"
    path.write_bytes(b"x")
    for source in ("pairs", "texts"):
        with pytest.raises(ValueError, match=r"mine\.docx is of an unknown kind"):
            built(config(source, path, tmp_path))
