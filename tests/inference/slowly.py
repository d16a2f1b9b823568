"""Run as a process of its own, to be killed or measured: embeds a source with a stand-in."""

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from flava.inference import output_files
from flava.inference.bulk import embed_rows
from flava.inference.processor import ImagesLike
from flava.inference.row_sources import InputKind, open_source
from tests.inference.encoders import KnownEncoder


class Slow(KnownEncoder):
    def encode_image(self, images: ImagesLike) -> Float[Tensor, "images width"]:
        time.sleep(0.03)
        return super().encode_image(images)


class Wide(KnownEncoder):
    """Quick, and its vectors are so long that a few thousand of them would be noticed."""

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        return torch.ones(len(texts), 512)


def main(kind: str, *sources: str) -> None:
    """Prints the peak memory in MB after each source."""
    encoder, size = (Slow(), 4) if kind == "images" else (Wide(), 256)
    output_files.SECONDS_BETWEEN_COMMITS = 0.05
    for source in sources:
        opened, output = open_source(InputKind(kind), source), output_of(Path(source))
        embed_rows(encoder, opened, output, model="a/b", batch_size=size)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def output_of(source: Path) -> Path:
    return source.with_name("out.parquet") if source.is_dir() else source.with_suffix(".parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])
