"""torchvision compares some files with the checksums of the published ones: not of ours."""

from pathlib import Path

import pytest


def is_there(path: str, md5: str | None = None) -> bool:  # noqa: ARG001
    return Path(path).is_file()


@pytest.fixture(autouse=True)
def no_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cifar", "stl10", "flowers102"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", is_there)
