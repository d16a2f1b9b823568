import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flava.inference.bulk import BulkResult, embed_rows
from flava.inference.row_sources import InputKind, open_source
from flava.inference.search import Hit, Index, build_index, index_embeddings
from flava.reports.search_page import results_page
from tests.data.shard_files import encoded, picture, write_tar
from tests.inference.encoders import WIDTH, KnownEncoder, vector

ENCODER = KnownEncoder()


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for number in range(20):
        (root / f"{number:02d}.png").write_bytes(encoded(picture(number)))
    return root


def build(folder: Path, output: Path) -> BulkResult:
    return build_index(ENCODER, open_source(InputKind.IMAGES, str(folder)), output, model="a/b")


def index_of(vectors: np.ndarray, folder: Path, names: list[str] | None = None) -> Index:
    """An index of these vectors, by way of an embeddings file."""
    names = names or [f"name {n}" for n in range(len(vectors))]
    column = pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), vectors.shape[1])
    said = {"model": "m", "input": "i", "kind": "texts", "source": "s", "root": "/", "metric": "c"}
    table = pa.table({"text": names, "embedding": column})
    about = {f"flava.{name}": value for name, value in said.items()}
    pq.write_table(table.replace_schema_metadata(about), folder / "e.parquet", row_group_size=1500)
    index_embeddings(folder / "e.parquet", folder / "index")
    return Index(folder / "index")


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    drawn = rng.standard_normal(shape, dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


def rows(hits: list[Hit]) -> list[int]:
    return [hit.row for hit in hits]


@pytest.mark.parametrize("spread", [1.0, 0.05])
def test_what_is_found_is_what_brute_force_finds(tmp_path, spread):
    """Recall at 10 is 1, also where all vectors point nearly the same way (cosines over 0.99)."""
    rng = np.random.default_rng(0)
    middle = unit(rng, 64) if spread < 1 else np.zeros(64, np.float32)
    vectors, queries = (middle + spread * unit(rng, count, 64) for count in (5000, 50))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    index = index_of(vectors, tmp_path)
    for query in queries:
        cosines = vectors.astype(np.float64) @ query.astype(np.float64)
        expected = np.argsort(-cosines)[:10]
        hits = index.search(query, 10)
        assert set(rows(hits)) == set(expected.tolist())
        assert np.allclose([hit.cosine for hit in hits], cosines[expected], atol=1e-6)
        assert [hit.name for hit in hits] == [f"name {hit.row}" for hit in hits]
        assert [hit.place for hit in hits] == list(range(1, 11))


def test_equal_vectors_come_in_their_order_and_no_more_than_there_are(tmp_path):
    vectors = np.repeat(unit(np.random.default_rng(1), 2, 8), 3, axis=0)
    index = index_of(vectors, tmp_path)
    assert rows(index.search(vectors[4], 100)) == [3, 4, 5, 0, 1, 2]


def test_an_image_is_found_by_itself(tmp_path, folder):
    outcome = build(folder, tmp_path / "index")
    assert outcome.rows == 20
    index = Index(tmp_path / "index")
    query = ENCODER.encode_image([picture(7)])[0].numpy()
    first, second, *_ = index.search(query)
    assert (first.name, first.row) == ("07.png", 7)
    assert first.cosine == pytest.approx(1)
    assert second.cosine < 0.95


def test_texts_are_found_too(tmp_path):
    texts = [f"text number {n}, with a line\u2028 break" for n in range(9)]
    lines = "".join(json.dumps({"text": t}) + "\n" for t in texts)
    (tmp_path / "t.jsonl").write_text(lines)
    source = open_source(InputKind.TEXTS, str(tmp_path / "t.jsonl"))
    build_index(ENCODER, source, tmp_path / "index", model="a/b")
    assert Index(tmp_path / "index").search(vector(texts[4].encode()).numpy())[0].name == texts[4]


def test_an_index_says_what_made_it_and_refuses_another_model(tmp_path, folder):
    build(folder, tmp_path / "index")
    index = Index(tmp_path / "index")
    assert (index.about.model, index.about.metric) == ("model-a", "cosine")
    assert (index.about.root, index.about.rows) == (str(folder), 20)
    index.check_model("model-a", "elsewhere")
    with pytest.raises(ValueError, match="another model") as caught:
        index.check_model("model-b", "c/d")
    for expected in ("model-a (a/b)", "model-b (c/d)", "Leave out --model", "index again"):
        assert expected in str(caught.value)


def test_an_index_from_an_embeddings_file_is_the_same(tmp_path, folder):
    source = open_source(InputKind.IMAGES, str(folder))
    embed_rows(ENCODER, source, tmp_path / "e.parquet", model="a/b")
    index_embeddings(tmp_path / "e.parquet", tmp_path / "two")
    build(folder, tmp_path / "one")
    first, second = Index(tmp_path / "one"), Index(tmp_path / "two")
    assert np.array_equal(first.vectors, second.vectors)
    assert first.about == second.about
    query = vector(b"query").numpy()
    assert first.search(query) == second.search(query)


# Refused


def test_an_index_is_never_written_over(tmp_path, folder):
    build(folder, tmp_path / "index")
    with pytest.raises(FileExistsError, match="index holds an index: delete it, or give another"):
        build(folder, tmp_path / "index")


def test_pairs_cannot_be_indexed(tmp_path, folder):
    table = folder / "pairs.csv"
    table.write_text("path,text\n00.png,a\n01.png,b\n")
    source = open_source(InputKind.PAIRS, str(table))
    with pytest.raises(ValueError, match="pairs cannot be searched"):
        build_index(ENCODER, source, tmp_path / "index", model="a/b")
    embed_rows(ENCODER, source, tmp_path / "e.parquet", model="a/b")
    with pytest.raises(ValueError, match=r"e\.parquet: pairs cannot be searched"):
        index_embeddings(tmp_path / "e.parquet", tmp_path / "index")


def test_files_that_are_no_embeddings_are_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "b.parquet")
    for name, expected in (("a", "no Parquet file, or damaged"), ("b", "does not say what made")):
        with pytest.raises(ValueError, match=expected):
            index_embeddings(tmp_path / f"{name}.parquet", tmp_path / "index")
    with pytest.raises(FileNotFoundError):
        index_embeddings(tmp_path / "nowhere.parquet", tmp_path / "index")
    for vectors in (np.full((2, 4), np.nan, np.float32), np.ones((2, 4), np.float32)):
        with pytest.raises(ValueError, match="2 embeddings are not of length 1"):
            index_of(vectors, tmp_path)
        shutil.rmtree(tmp_path / "index")


def test_a_missing_or_damaged_index_is_refused(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"no index at .*nowhere: make one with flava"):
        Index(tmp_path / "nowhere")
    build(folder, tmp_path / "index")
    for name, damaged, expected in (
        ("vectors.npy", lambda data: data[:-40], "vectors.npy is damaged"),
        ("vectors.npy", lambda _: b"", "vectors.npy is damaged"),
        ("vectors.about.json", lambda _: b'{"rows": 3}', "model: Field required"),
        ("vectors.about.json", lambda data: data.replace(b": 20", b": 21"), "has not the shape"),
        ("vectors.rows.jsonl", lambda _: b"", r"vectors\.rows\.jsonl is damaged"),
        ("vectors.rows.jsonl", lambda data: data[:-9], r"vectors\.rows\.jsonl has not as many"),
    ):
        path = tmp_path / "index" / name
        whole = path.read_bytes()
        path.write_bytes(damaged(whole))
        with pytest.raises(ValueError, match=expected):
            Index(tmp_path / "index").search(vector(b"query").numpy())
        path.write_bytes(whole)


def test_a_query_that_does_not_fit_is_refused(tmp_path, folder):
    build(folder, tmp_path / "index")
    index = Index(tmp_path / "index")
    with pytest.raises(ValueError, match=f"the query has 5 dimensions, the index {WIDTH}"):
        index.search(np.ones(5, np.float32))
    with pytest.raises(ValueError, match="--top is 0"):
        index.search(np.ones(WIDTH, np.float32), 0)


# The page


class Tags(HTMLParser):
    """Tags that a browser would see, and the texts between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


def test_the_page_shows_the_images_that_were_found(tmp_path, folder):
    build(folder, tmp_path / "index")
    index = Index(tmp_path / "index")
    hits = index.search(ENCODER.encode_image([picture(7)])[0].numpy(), 4)
    (folder / hits[2].name).unlink()
    page = results_page(index, folder / "07.png", hits, 0.0123)
    tags = Tags(page)
    pictures = tags.all("img")
    assert [each["alt"] for each in pictures[1:]] == [hits[i].name for i in (0, 1, 3)]
    assert all(str(each["src"]).startswith("data:image/webp;base64,") for each in pictures)
    assert len({each["src"] for each in pictures}) == 3, "the query and what it found are the same"
    assert "not there any more" in tags.texts
    assert [f"{hit.cosine:.3f}" in tags.texts for hit in hits] == [True] * 4
    assert not re.search(r"https?://|<script|<link(?! rel=\"icon\" href=\"data:)", page)


def test_images_inside_tars_are_shown(tmp_path):
    files = {f"a/{n}.png": encoded(picture(n)) for n in range(3)}
    tar = write_tar(tmp_path / "some.tar.gz", files)
    build_index(ENCODER, open_source(InputKind.IMAGES, str(tar)), tmp_path / "index", model="a/b")
    index = Index(tmp_path / "index")
    page = results_page(index, "a query", index.search(vector(b"query").numpy()), 0.01)
    assert len(Tags(page).all("img")) == 3


def test_whatever_comes_from_data_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    vectors = unit(np.random.default_rng(0), 2, 8)
    index = index_of(vectors, tmp_path, [evil, "b"])
    tags = Tags(results_page(index, evil, index.search(vectors[0]), 0.01))
    assert not tags.all("script")
    assert not tags.all("img")
    assert evil in tags.texts
