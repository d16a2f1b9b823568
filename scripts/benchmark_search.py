"""Measures the time and the recall of queries to an index of a million vectors.

Writes 2 GB of random unit vectors into a temporary folder. The figures are in docs/log.md.
"""

import json
import resource
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from flava.inference.output_files import ABOUT, ROWS, companion_path
from flava.inference.search import VECTORS, Index, IndexInfo

ROW_COUNT, WIDTH, CHUNK, QUERIES = 1_000_000, 512, 50_000, 10


def random_vectors(rng: np.random.Generator, rows: int) -> np.ndarray:
    vectors = rng.standard_normal((rows, WIDTH), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_index(folder: Path, rng: np.random.Generator) -> None:
    path = folder / VECTORS
    vectors = np.lib.format.open_memmap(path, "w+", np.float32, (ROW_COUNT, WIDTH))
    for start in range(0, ROW_COUNT, CHUNK):
        vectors[start : start + CHUNK] = random_vectors(rng, CHUNK)
    vectors.flush()
    with companion_path(path, ROWS).open("w") as rows:
        rows.writelines(f'{{"path": "{n // 1000:04d}/{n:07d}.jpg"}}\n' for n in range(ROW_COUNT))
    about = IndexInfo(
        model="", source="", kind="images", metric="cosine", root="/", rows=ROW_COUNT, width=WIDTH
    )
    companion_path(path, ABOUT).write_text(json.dumps(asdict(about)))


def main() -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        write_index(Path(name), rng)
        index = Index(Path(name))
        found = 0
        for query in random_vectors(rng, QUERIES):
            started, cpu = time.perf_counter(), time.process_time()
            hits = index.search(query, 10)
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            print(f"{seconds:.3f} s, of the processor {cpu:.3f} s", flush=True)
            best = np.argsort(-(index.vectors @ query))[:10]
            found += len({hit.row for hit in hits} & set(best.tolist()))
    print(f"recall at 10: {found / QUERIES / 10:.4f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory, pages of the file included: {peak:.0f} MB")


if __name__ == "__main__":
    main()
