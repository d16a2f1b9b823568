import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from flava.data.errors import SampleError
from flava.prepare.fetched import check_url
from flava.prepare.rows import AnnotationRow
from flava.prepare.sources import SOURCES
from flava.prepare.texts import caption_of
from tests.prepare import published_files as files

EVERY: dict[str, tuple[str, Callable[[Path], files.Written], dict[str, int]]] = {
    "coco": ("coco", files.coco, {"image is not listed": 1}),
    "sbu": ("sbu", files.sbu, {}),
    "sbu, text": ("sbu", files.sbu_text, {}),
    "localized narratives": (
        "localized-narratives",
        files.localized_narratives,
        {"json cannot be decoded": 1},
    ),
    "cc3m": (
        "cc3m",
        files.cc3m,
        {
            "row does not fit the columns": 1,
            "URL is not http or https": 1,
            "URL is of a private address": 1,
            "caption is markup or signs alone": 1,
        },
    ),
    "cc12m": (
        "cc12m",
        files.cc12m,
        {
            "row does not fit the columns": 1,
            "URL is not http or https": 1,
            "URL is of a private address": 1,
            "caption is markup or signs alone": 1,
        },
    ),
    "visual genome": ("visual-genome", files.visual_genome, {}),
    "wit": (
        "wit",
        files.wit,
        {"text is not English": 1, "caption is empty": 1, "row does not fit the columns": 1},
    ),
    "redcaps": ("redcaps", files.redcaps, {"caption is missing": 1}),
    "yfcc100m": (
        "yfcc100m",
        files.yfcc100m,
        {"caption is not English": 1, "row is a video": 1, "caption is too short": 1},
    ),
    "yfcc100m, hashed": (
        "yfcc100m",
        files.yfcc100m_hashed,
        {"caption is not English": 1, "row is a video": 1, "caption is too short": 1},
    ),
}


def read(name: str, paths: list[Path]) -> tuple[files.Pairs, Counter[str]]:
    """The pairs that are left, and why others are not."""
    source = SOURCES[name]
    pairs, left_out = [], Counter[str]()
    for found in source.read(paths):
        try:
            if not isinstance(found, AnnotationRow):
                raise SampleError(found.reason)
            caption = caption_of(found.captions, source.min_words, source.english)
            if found.url is not None:
                check_url(found.url)
            pairs.append((found.identity, caption))
        except SampleError as error:
            left_out[error.reason] += 1
    return pairs, left_out


@pytest.mark.parametrize("case", EVERY)
def test_pairs_come_out_of_the_published_form_one_by_one(case: str, tmp_path: Path) -> None:
    name, write, left_out = EVERY[case]
    paths, expected = write(tmp_path)
    pairs, reasons = read(name, paths)
    assert pairs == expected
    assert reasons == left_out


def test_the_paper_counts_70_million_pairs() -> None:
    """The nine counts of its table 2 add up to what its text says."""
    counts = [source.pairs for source in SOURCES.values() if source.pairs is not None]
    assert len(counts) == 9
    assert sum(counts) == pytest.approx(70.0, abs=0.05)


def test_licences_are_the_image_s_own(tmp_path: Path) -> None:
    paths, _ = files.coco(tmp_path)
    rows = [row for row in SOURCES["coco"].read(paths) if isinstance(row, AnnotationRow)]
    assert [row.licence for row in rows] == [
        "http://creativecommons.org/licenses/by-nc-nd/2.0/",
        "http://creativecommons.org/licenses/by-nc-sa/2.0/",
        "http://creativecommons.org/licenses/by-nc-nd/2.0/",
    ]


def test_a_json_that_breaks_off_gives_what_is_whole_and_is_reported(tmp_path: Path) -> None:
    paths, expected = files.redcaps(tmp_path)
    whole = paths[0].read_text()
    paths[0].write_text(whole[: whole.index('"image_id": "e3"')])
    pairs, reasons = read("redcaps", paths)
    assert pairs == expected[:1]
    assert reasons == {"caption is missing": 1, "json cannot be decoded": 1}


def test_sbu_s_text_files_of_different_length_are_reported(tmp_path: Path) -> None:
    paths, expected = files.sbu_text(tmp_path)
    with paths[0].open("a") as captions:
        captions.write("one caption more\n")
    pairs, reasons = read("sbu", paths)
    assert pairs == expected
    assert reasons == {"field is missing": 1}


def test_sbu_needs_both_text_files(tmp_path: Path) -> None:
    paths, _ = files.sbu_text(tmp_path)
    with pytest.raises(ValueError, match="the file of URLs and the one of captions"):
        read("sbu", paths[:1])


def test_a_wit_file_without_its_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wit.tsv"
    path.write_text("language\timage_url\n")
    with pytest.raises(ValueError, match="has no column caption_reference_description"):
        read("wit", [path])


@pytest.mark.parametrize(
    "text",
    ["<PERSON> at the beach", "I <3 you", "a < b and c > d", "by <usr>", "5 <6", "x<abcd>y"],
)
def test_what_is_no_html_stays(text: str) -> None:
    assert caption_of([text], 1, False) == text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("<p>a dog</p>", "a dog"),
        ('see <A HREF="http://x.example/?a=1&b=2">this</A>!', "see this !"),
        ("one<br>two<BR />three", "one two three"),
        ("fish &amp; chips&nbsp;now", "fish & chips now"),
        ("&lt;i&gt;slanted&lt;/i&gt;", "slanted"),
        ("a <!-- <b>hidden</b> --> b", "a b"),
    ],
)
def test_html_is_taken_out(text: str, cleaned: str) -> None:
    assert caption_of([text], 1, False) == cleaned


def test_half_a_surrogate_pair_is_no_caption() -> None:
    with pytest.raises(SampleError, match="not valid Unicode"):
        caption_of([json.loads('"a dog \\ud83d"')], 1, False)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "not http or https"),
        ("javascript:alert(1)", "not http or https"),
        ("http://localhost/x.jpg", "private address"),
        ("http://127.0.0.1:8080/x.jpg", "private address"),
        ("http://[::1]/x.jpg", "private address"),
        ("http://192.168.1.5/x.jpg", "private address"),
        ("http://169.254.169.254/latest/meta-data", "private address"),
        ("http://2130706433/x.jpg", "private address"),
        ("http://0x7f000001/x.jpg", "private address"),
        ("http://127.1/x.jpg", "private address"),
        ("http://printer.local/x.jpg", "private address"),
        ("http:///x.jpg", "malformed"),
        ("http://[::1/x.jpg", "malformed"),
        ("", "missing"),
    ],
)
def test_urls_that_must_not_be_fetched(url: str, reason: str) -> None:
    with pytest.raises(SampleError, match=reason):
        check_url(url)


@pytest.mark.parametrize(
    "url", ["http://8.8.8.8/x.jpg", "https://localhost.example.com/x.jpg", "http://a1.example:81/x"]
)
def test_urls_of_the_public_web(url: str) -> None:
    assert check_url(url) == url
