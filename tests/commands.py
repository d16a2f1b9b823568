"""The command line in the test's own process: any exception but SystemExit would be a traceback."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from flava.cli import main
from tests.tiny_runs import one_line


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said, boxes and line breaks taken away."""

    status: int
    out: str
    error: str


Command = Callable[..., Ended]


def in_this_process(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> Ended:
        try:
            status = main([str(each) for each in arguments])
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            status = stop.code
        said = capsys.readouterr()
        return Ended(status, one_line(said.out), one_line(said.err))

    return run
