import gzip
import json
import logging

import numpy as np
import pytest

from flava.data.errors import SampleError, SkippedSample
from flava.data.samples import caption_of, image_of, read_samples, text_of
from flava.data.shards import RawSample, read_shard, resolve_all
from tests.data.shard_files import encoded, pair_files, picture, write_lines, write_tar


def raw(**files: bytes) -> RawSample:
    return RawSample(shard="a.tar", key="k", files=files)


def caption(**files: bytes) -> str:
    return caption_of(raw(**files), np.random.default_rng(0))


def text(item: RawSample) -> str:
    return text_of(item, np.random.default_rng(0))


def reports(path) -> list[str]:
    """What a shard's reader skipped; every other item is a sample."""
    return [item.reason for item in read_shard(path) if isinstance(item, SkippedSample)]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "A.TAR"])
def test_a_tars_samples_come_in_order(tmp_path, name):
    files = pair_files(range(5), prefix="noto/")
    shard = write_tar(tmp_path / name, files)
    samples = list(read_shard(shard))
    assert [s.key for s in samples if isinstance(s, RawSample)] == [
        f"noto/{i:05d}" for i in range(5)
    ]
    for sample in samples:
        assert isinstance(sample, RawSample)
        expected = {suffix: files[f"{sample.key}.{suffix}"] for suffix in ("png", "json")}
        assert sample.files == expected


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_images_are_found_by_their_suffix(tmp_path, file_format):
    suffix = {"PNG": "png", "JPEG": "JPG", "WEBP": "webp"}[file_format]
    data = encoded(picture(1), file_format)
    shard = write_tar(tmp_path / "a.tar", {f"x.{suffix}": data, "x.json": b"{}"})
    (sample,) = read_shard(shard)
    assert isinstance(sample, RawSample)
    assert image_of(sample).size == (20, 16)


def test_a_folder_of_images_is_read_with_its_subfolders(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    for name, seed in (
        ("b.v2.png", 1),
        ("a.jpg", 2),
        ("sub/c.webp", 3),
        (".hidden.png", 4),
        (".git/x.png", 5),
    ):
        file_format = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name.rsplit(".", 1)[1]]
        (tmp_path / name).write_bytes(encoded(picture(seed), file_format))
    samples = read_samples([str(tmp_path)])
    assert [sample.key for sample in samples] == ["a", "b.v2", "sub/c"]
    assert samples[1].image is not None
    assert samples[1].image.tobytes() == picture(1).tobytes()


@pytest.mark.parametrize("zipped", [False, True])
def test_lines_are_samples(tmp_path, zipped):
    suffix, write = (".gz", gzip.compress) if zipped else ("", bytes)
    lines = tmp_path / f"a.jsonl{suffix}"
    lines.write_bytes(write(b'{"text": "one", "key": 1}\n\n{"text": "two \xc3\xa9"}'))
    plain = tmp_path / f"b.txt{suffix}"
    plain.write_bytes(write("\ufeffone\r\n \ntwo é".encode()))
    for path in (lines, plain):
        items = list(read_shard(path))
        assert [i.key for i in items if isinstance(i, RawSample)] == [
            f"{path.name}:1",
            f"{path.name}:3",
        ]
        assert [text(i).strip() for i in items if isinstance(i, RawSample)] == ["one", "two é"]
    samples = read_samples([str(lines), str(plain)])
    assert [s.meta["text"].strip() for s in samples] == ["one", "two é", "one", "two é"]
    assert samples[0].image is None


def test_samples_for_evaluation_keep_image_and_meta(tmp_path):
    shard = write_tar(tmp_path / "a.tar", pair_files(range(3)))
    samples = read_samples([str(shard)])
    assert [sample.key for sample in samples] == ["00000", "00001", "00002"]
    for number, sample in enumerate(samples):
        assert sample.image is not None
        assert sample.image.tobytes() == picture(number).tobytes()
        assert sample.meta["captions"][0] == f"picture number {number}"


def test_corrupt_samples_are_left_out_by_name(tmp_path, caplog):
    files = pair_files(range(4))
    files["00001.png"] = files["00001.png"][:60]
    files["00002.json"] = b"{not json"
    shard = write_tar(tmp_path / "a.tar", files)
    with caplog.at_level(logging.WARNING):
        samples = read_samples([str(shard)])
    assert [sample.key for sample in samples] == ["00000", "00003"]
    assert "a.tar: 00001: image cannot be decoded" in caplog.text
    assert "a.tar: 00002: json cannot be decoded" in caplog.text


def test_no_usable_sample_is_an_error_with_the_reasons(tmp_path):
    shard = write_tar(tmp_path / "a.tar", {"x.png": b"nothing"})
    with pytest.raises(ValueError, match=r"no usable sample in .*a\.tar: .*x: image cannot be"):
        read_samples([str(shard)])


def test_an_unreadable_file_of_a_folder_is_reported(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(picture(1)))
    (tmp_path / "b.png").write_bytes(encoded(picture(2)))
    (tmp_path / "a.png").rename(tmp_path / "c.png")
    (tmp_path / "a.png").mkdir()  # a folder that looks like an image is no sample
    assert [sample.key for sample in read_samples([str(tmp_path)])] == ["b", "c"]


# Captions and texts


def test_one_of_many_captions_is_drawn():
    data = json.dumps({"captions": ["a", "b", "c"], "label": "a"}).encode()
    rng = np.random.default_rng(0)
    drawn = [caption_of(raw(json=data), rng) for _ in range(300)]
    assert {drawn.count(c) // 40 for c in "abc"} <= {1, 2, 3}
    assert set(drawn) == set("abc")


def test_a_single_caption_or_a_text_file_will_do():
    assert caption(json=b'{"caption": "a skunk"}') == "a skunk"
    assert caption(txt="a skünk".encode()) == "a skünk"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "sample has no caption"),
        ({"json": b"{}"}, "sample has no caption"),
        ({"json": b'{"captions": []}'}, "sample has no caption"),
        ({"json": b'{"captions": "abc", "caption": "x"}'}, None),
        ({"json": b'{"captions": [3]}'}, "sample has no caption"),
        ({"json": b'{"caption": null}'}, "sample has no caption"),
        ({"json": b'{"caption": " "}'}, "caption is empty"),
        ({"json": b'{"caption": "\\ud800"}'}, "caption is not valid Unicode"),
        ({"json": b'{"caption": '}, "json cannot be decoded"),
        ({"json": b"[" * 100_000}, "json cannot be decoded"),
        ({"json": b'{"caption": ' + b"9" * 5000 + b"}"}, "json cannot be decoded"),
        ({"json": b"[1]"}, "json is not an object"),
        ({"json": b'{"caption": "\xff"}'}, "text is not UTF-8"),
        ({"txt": b"\xff\xfe"}, "text is not UTF-8"),
        ({"txt": b""}, "caption is empty"),
    ],
)
def test_a_bad_caption_is_an_error_of_its_sample(files, reason):
    if reason is None:
        assert caption(**files) == "abc"
        return
    with pytest.raises(SampleError) as error:
        caption(**files)
    assert error.value.reason == reason


@pytest.mark.parametrize("line", [b"{}", b'{"text": 3}', b'{"text": ""}', b"nothing", b"\xff"])
def test_a_bad_line_is_an_error_of_its_sample(line):
    with pytest.raises(SampleError):
        text(raw(json=line))


def test_a_sample_without_an_image_is_an_error():
    with pytest.raises(SampleError, match="sample has no image: files: json"):
        image_of(raw(json=b"{}"))


# Shards that cannot be read


@pytest.mark.parametrize("blocks", [1, 2, 3, 5, 6, 9, 12, 13])
@pytest.mark.parametrize("extra", [0, 20])
def test_a_truncated_tar_gives_what_it_holds_and_a_report(tmp_path, blocks, extra):
    whole = write_tar(tmp_path / "a.tar", pair_files(range(6)))
    cut = tmp_path / "b.tar"
    cut.write_bytes(whole.read_bytes()[: 512 * blocks + extra])
    keys = [item.key for item in read_shard(cut) if isinstance(item, RawSample)]
    assert keys == [f"{number:05d}" for number in range(len(keys))]
    assert keys or blocks < 3
    assert set(reports(cut)) == {"shard is damaged"}


def test_a_truncated_gzip_is_reported(tmp_path):
    whole = write_tar(tmp_path / "a.tar.gz", pair_files(range(30)))
    cut = tmp_path / "b.tar.gz"
    cut.write_bytes(whole.read_bytes()[:-3000])
    assert len(list(read_shard(cut))) > 5
    assert reports(cut)
    lines = tmp_path / "c.jsonl.gz"
    lines.write_bytes(gzip.compress(b'{"text": "a"}\n' * 5)[:-9])
    assert reports(lines) == ["shard cannot be read"]


def test_what_is_no_tar_is_reported(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"nothing of the kind" * 100)
    assert reports(path) == ["shard is damaged"]


def test_a_doubled_file_is_reported(tmp_path):
    shard = tmp_path / "a.tar"
    write_tar(shard, {"x.png": b"1", "x.PNG": b"2", "y.png": b"3"})
    items = list(read_shard(shard))
    assert [item.key for item in items if isinstance(item, RawSample)] == ["x", "y"]
    assert reports(shard) == ["shard is damaged"]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.jsonl", "a.txt.gz", "folder"])
def test_an_empty_shard_is_named(tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif ".tar" in name:
        write_tar(path, {})
    else:
        path.write_bytes(gzip.compress(b"\n\n") if name.endswith("gz") else b"\n")
    (item,) = read_shard(path)
    assert isinstance(item, SkippedSample)
    assert item.reason == "shard is empty"
    assert str(path) in str(item)


def test_paths_are_resolved_in_order(tmp_path):
    for name in ("a.txt", "b.jsonl", "c.tar"):
        (tmp_path / name).write_bytes(b"")
    paths = resolve_all([f"{tmp_path}/{{c.tar,a.txt}}", f"{tmp_path}/*.jsonl", str(tmp_path)])
    assert [path.name for path in paths] == ["c.tar", "a.txt", "b.jsonl", tmp_path.name]


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tar"):
        resolve_all([f"{tmp_path}/nowhere.tar"])


def test_an_unknown_kind_of_shard_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.parquet is of an unknown kind.*\.tar"):
        resolve_all([str(path)])


def test_an_unreadable_shard_is_named(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "a.jsonl", ["a"])

    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", deny)  # root reads anything, whatever the mode says
    with pytest.raises(ValueError, match=r"a\.jsonl cannot be opened \(Permission denied\)"):
        resolve_all([str(path)])


def test_gzip_with_damaged_content_is_reported(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"")[:10] + b"\xff" * 20)
    (report,) = read_shard(path)
    assert isinstance(report, SkippedSample)
    assert report.reason == "shard cannot be read"
