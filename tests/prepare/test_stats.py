import base64
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from flava.prepare.inspection import describe
from flava.reports.data_report import write_data_report
from tests.commands import Command, in_this_process
from tests.data.shard_files import encoded, picture
from tests.prepare.made import built, samples, write_coco, write_pairs


@pytest.fixture
def flava(capsys: pytest.CaptureFixture[str]) -> Command:
    return in_this_process(capsys)


def two_sources(folder: Path) -> Path:
    """A root with COCO and Conceptual Captions 12M."""
    root = folder / "pmd"
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    built(write_pairs(folder / "a", 20), output=root / "cc12m")
    said = ["un chien court sur la plage avec son maître", "two words", "a dog <script>x</script>"]
    images = {f"{n}.jpg": encoded(picture(n, 30 + n, 30), "JPEG") for n in range(2)}
    pairs = [("0.jpg", said[0]), ("1.jpg", said[1]), ("0.jpg", said[2]), ("0.jpg", "")]
    built(write_coco(folder / "b", images, pairs), output=root / "coco")
    return root


def test_stats_are_those_of_the_samples_one_by_one(tmp_path: Path) -> None:
    root = two_sources(tmp_path)
    cc12m, coco = describe([root], pick=5, quiet=True)
    for found in (cc12m, coco):
        read = samples(found.folder)
        stats = found.stats
        assert stats.samples == len(read)
        assert stats.words == Counter(len(f["caption"].split()) for _, f, _ in read)
        assert stats.sides == Counter(min(f["width"], f["height"]) for _, f, _ in read)
        for picked in stats.picked:
            (sample,) = [each for each in read if picked.name.endswith(f"/{each[0]}")]
            assert (picked.text, picked.image) == (sample[1]["caption"], sample[2])
    assert len(cc12m.stats.picked) == 5
    assert coco.stats.languages["fr"] == 1
    assert (coco.manifest["images"], cc12m.manifest["images"]) == (2, 20)


def test_samples_are_drawn_alike_whatever_the_order_of_shards(tmp_path: Path) -> None:
    root = two_sources(tmp_path)
    drawn = describe([root / "cc12m"], pick=20, quiet=True)[0].stats.picked
    few = describe([root / "cc12m"], pick=6, quiet=True)[0].stats.picked
    assert few == drawn[:6]
    names = [each.name for each in drawn]
    assert names != sorted(names)


def test_the_page_stands_alone_and_shows_what_there_is(flava: Command, tmp_path: Path) -> None:
    root = two_sources(tmp_path)
    page = tmp_path / "data.html"
    ended = flava("data", "stats", root, "--html", page, "--processes", 1)
    assert ended.status == 0, ended.error
    html = page.read_text()
    assert "<script>" not in html
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    row = re.search(r"COCO captions</th>(.*?)</tr>", html, re.S)
    assert row is not None
    cells = re.sub(r"<[^>]+>|\s+", " ", row[1]).split()
    assert cells[:3] == ["0.9", "M", "3"]
    assert "0.000333&nbsp;%" in cells
    assert re.search(r"YFCC100M, filtered</th><td>30.3 M</td>\s*<td class=\"none\">", html)
    assert "caption is empty" in html
    assert "http://licence.example/by" in html
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert len(pictures) == 12 + 3
    assert all(base64.b64decode(each).startswith(b"\xff\xd8") for each in pictures)


def test_texts_have_a_page_too(tmp_path: Path) -> None:
    texts = tmp_path / "mine.txt"
    texts.write_text("One sentence here. Another one.\nA second line of text.\n")
    config = write_pairs(tmp_path, 2)
    built(replace(config, source="texts", annotations=(texts,), images=None))
    found = describe([config.output], pick=3, quiet=True)
    assert found[0].stats.words == {5: 2}
    write_data_report(found, tmp_path / "page.html")
    assert "A second line of text." in (tmp_path / "page.html").read_text()


def test_a_folder_without_shards_is_refused(flava: Command, tmp_path: Path) -> None:
    ended = flava("data", "stats", tmp_path, "--processes", 1)
    assert ended.status == 1
    assert "has no manifest.json: give a folder that flava data build wrote" in ended.error
