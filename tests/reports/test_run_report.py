import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flava.evaluation.record import (
    Confusion,
    Evaluation,
    Examples,
    Figure,
    MaskedImageExample,
    MaskedTextExample,
    MaskedTokenExample,
    RankedExample,
    save_evaluation,
)
from flava.reports.run_report import write_report

HOSTILE = """<script>alert("1")</script> & ' onload=x <img src=http://evil.example/a.png>"""


class Page(HTMLParser):
    """Every tag with its attributes, the text outside of styles, and tags left open."""

    VOID = frozenset(("meta", "link", "img", "br", "hr"))

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def count(self, tag: str, css: str) -> int:
        return sum(name == tag and css in (a.get("class") or "").split() for name, a in self.tags)


def write_metrics(folder: Path, steps: int = 60) -> None:
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        pairs = step % 3 != 0
        losses = {"loss/gc": 4 - step / 30, "loss/itm": 0.7} if pairs else {"loss/mlm": 9.0}
        rows.append(
            {
                "step": step,
                "batch": "pairs" if pairs else "text",
                **losses,
                "lr": 1e-3,
                "grad_norm": 1.5,
                "samples_per_second": 64.0,
                "seconds": 2.0 * step,
            }
        )
        if step % 20 == 0:
            rows.append({"step": step, "validation/zero_shot_accuracy": step / 100})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)


def evaluation(words: str = "a plain caption") -> tuple[Evaluation, dict[str, Image.Image]]:
    pictures = {name: Image.new("RGB", (4, 4), "red") for name in ("one", "two")}
    ranked = {"picture": "one", "caption": words, "rank": 2, "candidates": 1234}
    found = Evaluation(
        settings={
            "splits": {"unseen_style": {"title": words}},
            "machine": {"processor": words, "cores": 2, "accelerator": "none"},
            "parameters": 1_500_000,
        },
        seconds=3.0,
        figures=(
            Figure(
                task="retrieval",
                split="unseen_style",
                metric="text_to_image_r@5",
                value=0.321,
                n=1234,
                baselines={"chance": 0.004, "untrained": 0.005},
            ),
            Figure(
                task="linear_probe",
                split="unseen_style",
                metric="accuracy",
                value=0.4,
                n=80,
                baselines={"majority": 0.2, "pca": 0.456, "untrained": 0.3},
            ),
        ),
        confusions=(
            Confusion(split="unseen_style", classes=("a", words), counts=((7, 3), (0, 5))),
        ),
        examples=Examples(
            images_for_captions=(
                RankedExample(**ranked, results=("two", "one"), right=(False, True)),
            ),
            captions_for_images=(
                RankedExample(**ranked, results=("x", words), right=(False, True)),
            ),
            masked_images=(
                MaskedImageExample(
                    caption=words,
                    original="one",
                    masked="two",
                    reconstruction="one",
                    filled_alone="one",
                    filled_with_caption="../one",
                    right_alone=0.25,
                    right_with_caption=0.5,
                ),
            ),
            masked_texts=(
                MaskedTextExample(
                    picture="absent",
                    sentence=f"{words} [MASK] end",
                    blanks=(
                        MaskedTokenExample(
                            truth="cat",
                            with_image=(("cat", 0.9), (words, 0.1)),
                            without_image=((words, 0.2), ("##s", 0.1)),
                        ),
                    ),
                ),
            ),
        ),
    )
    return found, pictures


def whole_run(folder: Path, words: str = "a plain caption") -> Page:
    write_metrics(folder)
    (folder / "run.json").write_text(json.dumps({"recipe": words, "max_steps": 60, "seed": 4}))
    save_evaluation(*evaluation(words), folder)
    return Page(write_report(folder).read_text())


def test_the_page_is_whole_and_says_what_was_measured(tmp_path: Path) -> None:
    page = whole_run(tmp_path)
    assert page.open == []
    assert sum(tag == "svg" for tag, _ in page.tags) == 3 + 1 + 3  # losses, validation, others
    for wanted in (
        "0.321",
        "chance 0.0040",
        "1,234",
        "3.967 → 2.050",
        "2 min 00 s",
        "1.5 M",
        "\N{MINUS SIGN}0.056",
    ):
        assert wanted in page.text, wanted
    assert "Training stopped" not in page.text
    assert "not evaluated" not in page.text


def test_right_answers_are_marked_by_more_than_colour(tmp_path: Path) -> None:
    page = whole_run(tmp_path)
    assert page.count("div", "thumb") == 2
    assert [
        a["class"] for t, a in page.tags if t == "div" and "thumb" in (a.get("class") or "").split()
    ] == ["thumb", "thumb right"]
    style = (tmp_path / "report.html").read_text()
    assert re.search(r'\.thumb\.right::after \{\s*content: "✓"', style)
    assert re.search(r'li\.right::before \{ content: "✓"', style)
    alts = [a["alt"] for t, a in page.tags if t == "img"]
    assert "the right image" in alts
    assert "✓" in page.text


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    page = whole_run(tmp_path, HOSTILE)
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "srcset", "action", "poster", "data"):
                assert value is not None
                assert value.startswith(("data:", "#")), (tag, name, value[:80])
    css = re.findall(r"<style>(.*?)</style>", (tmp_path / "report.html").read_text(), re.DOTALL)
    assert len(css) == 1
    assert "@import" not in css[0]
    assert "url(" not in css[0]


def test_hostile_words_are_only_words(tmp_path: Path) -> None:
    plain, hostile = tmp_path / "plain", tmp_path / "hostile"
    plain.mkdir()
    hostile.mkdir()
    tags = [tag for tag, _ in whole_run(plain).tags]
    page = whole_run(hostile, HOSTILE)
    assert [tag for tag, _ in page.tags] == tags
    # As recipe twice, on the machine, as split, class, query, captions, in a sentence, as guess.
    assert page.text.count(HOSTILE) >= 9
    assert HOSTILE not in (hostile / "report.html").read_text()


def test_ids_are_unique(tmp_path: Path) -> None:
    ids = [attributes["id"] for _, attributes in whole_run(tmp_path).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_pictures_are_looked_for_in_the_runs_folder_alone(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
    page = whole_run(tmp_path)  # one picture is named "../one", another is missing
    assert page.count("span", "missing") == 2


def test_a_run_that_was_not_evaluated_shows_its_curves_and_says_so(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"recipe": "r", "max_steps": 500}))
    page = Page(write_report(tmp_path).read_text())
    assert "This run was not evaluated yet: run `flava evaluate" in page.text
    assert "Training stopped after 60 of 500 steps" in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) == 7


def test_an_evaluation_without_curves_is_shown(tmp_path: Path) -> None:
    save_evaluation(*evaluation(), tmp_path)
    page = Page(write_report(tmp_path).read_text())
    assert "there are no training curves" in page.text
    assert "run.json is missing" in page.text
    assert "0.321" in page.text


def test_an_evaluation_without_any_example_is_shown(tmp_path: Path) -> None:
    found, _ = evaluation()
    save_evaluation(replace(found, examples=Examples(), confusions=(), figures=()), {}, tmp_path)
    page = Page(write_report(tmp_path).read_text())
    assert page.text.count("No examples were drawn.") == 5
    assert "There is no confusion matrix." in page.text


def test_damaged_files_are_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(
            'null\n{"step": "x"}\n{"step": 61, "loss/gc": NaN, "seconds": 130.0}\n{"step": 6'
        )
    (tmp_path / "run.json").write_text("{")
    (tmp_path / "evaluation.json").write_text("[]")
    page = Page(write_report(tmp_path).read_text())
    assert "run.json cannot be read" in page.text
    assert "is not an evaluation" in page.text
    assert "61" in page.text
    assert "nan" not in page.text.lower()


def test_there_must_be_something_to_report(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no run at .*nowhere"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nothing to report"):
        write_report(tmp_path)
