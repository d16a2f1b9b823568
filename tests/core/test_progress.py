"""What is shown of progress on a terminal and elsewhere, and durations in words."""

import time
from collections.abc import Callable

import pytest

from flava.core import progress as module
from flava.core.progress import Progress, counted, duration, progress, share_progress


def use_bar() -> None:
    with Progress() as bar:
        bar.step("reading rows")
        bar.advance(3)
        bar.step("writing [shards]", 10)
        for _ in range(5):
            bar.advance(2)
            time.sleep(0.01)


def use_counted() -> None:
    assert list(counted("abc", lambda _: 2, 6, "letters")) == ["a", "b", "c"]


def use_shares() -> None:
    with share_progress("out.parquet") as show:
        show(0.25, 100, "")
        show(1.0, 400, ", 3 skipped")


BARS = [
    (use_bar, ["reading rows", "/?", "writing [shards]", "10/10", "a second", "left"]),
    (use_counted, ["letters", "6/6", "left"]),
    (use_shares, ["out.parquet", "100%", "400 rows", "rows/s, 3 skipped"]),
]


@pytest.mark.parametrize(("use", "shown"), BARS)
def test_a_terminal_has_a_bar_with_rate_and_time_left(
    use: Callable[[], None],
    shown: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # then rich takes any stream for a terminal
    monkeypatch.setenv("COLUMNS", "200")
    use()
    captured = capsys.readouterr()
    assert captured.out == ""
    for each in shown:
        assert each in captured.err


@pytest.mark.parametrize("use", [use_bar, use_counted, use_shares])
def test_nothing_is_shown_where_there_is_no_terminal(
    use: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    use()
    assert capsys.readouterr() == ("", "")


def test_a_bar_without_a_title_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress(None, 3) as advance:
        advance(3)
    with Progress(quiet=True) as bar:
        bar.step("reading rows")
        bar.advance(1)
    assert capsys.readouterr().err == ""


def test_long_work_prints_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", -1)
    use_shares()
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("25%, about")
    assert last.startswith("100%, about 0 s left, 400 rows, ")


def test_durations() -> None:
    assert [duration(seconds) for seconds in (2.6, 303.0, 3900.0)] == [
        "3 s",
        "5 min 03 s",
        "1 h 05 min",
    ]
