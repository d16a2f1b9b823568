import resource

import pytest

from flava.training.metrics import MetricsFile
from tests.tiny_runs import rows

# TensorBoard writes in a thread of its own, where a full disk is an error too.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def test_rows_are_kept_up_to_the_step_that_a_run_resumes_at(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 2, "validation/a": 0.5}\n{"step": 3}\n{"st')
    metrics = MetricsFile(tmp_path, step=2)
    metrics.write({"step": 3, "loss/total": 0.25})
    metrics.close()
    assert rows(tmp_path) == [
        {"step": 1},
        {"step": 2},
        {"step": 2, "validation/a": 0.5},
        {"step": 3, "loss/total": 0.25},
    ]


def test_a_full_disk_is_an_error_that_names_the_file_and_keeps_its_rows(tmp_path):
    metrics = MetricsFile(tmp_path, step=0)
    metrics.write({"step": 1, "loss/total": 0.5})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))
    try:
        with pytest.raises(OSError, match=r"metrics\.jsonl could not be written") as error:
            metrics.write({"step": 2, "loss/total": 0.5})
        with pytest.raises(OSError, match=r"metrics\.jsonl could not be written"):
            metrics.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "free some space" in str(error.value)
    MetricsFile(tmp_path, step=2).close()
    assert rows(tmp_path) == [{"step": 1, "loss/total": 0.5}]


def test_a_file_that_cannot_be_cut_keeps_its_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 9)))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(OSError, match=r"metrics\.jsonl could not be written"):
            MetricsFile(tmp_path, step=7)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.jsonl"]
