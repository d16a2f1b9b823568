import pytest

from flava.training.run import Run
from tests.tiny_runs import codebook_run


@pytest.fixture
def run(tmp_path) -> Run:
    return codebook_run(tmp_path / "run")
