"""Deterministic files: the same samples always give the same bytes."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One WebDataset sample: KEY.webp and, with `fields`, KEY.json."""

    key: str
    image: bytes
    fields: dict[str, Any] | None = None


def rank(text: str, salt: str = "") -> float:
    """A number in [0, 1) that depends on nothing but the text and the salt: every "random"
    choice of the corpus is made by it, so that it is the same on every machine."""
    digest = hashlib.sha256(f"{salt}/{text}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def write_tar(path: Path, samples: Iterable[Sample]) -> int:
    """Writes the samples, shuffled by their keys' hashes; gives their number."""
    ordered = sorted(samples, key=lambda sample: rank(sample.key, "shuffle"))
    buffer = io.BytesIO()
    # USTAR without owner, date or extended headers: nothing of the machine gets in.
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for sample in ordered:
            _add(archive, f"{sample.key}.webp", sample.image)
            if sample.fields is not None:
                text = json.dumps(sample.fields, separators=(",", ":"))
                _add(archive, f"{sample.key}.json", text.encode())
    _write(path, buffer.getvalue())
    return len(ordered)


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> int:
    """Writes JSON lines, shuffled by their keys' hashes; gives their number."""
    ordered = sorted(lines, key=lambda line: rank(line["key"], "shuffle"))
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in ordered)
    _write(path, text.encode())
    return len(ordered)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    header.mode = 0o644
    archive.addfile(header, io.BytesIO(content))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        content = gzip.compress(content, compresslevel=9, mtime=0)
    path.write_bytes(content)
