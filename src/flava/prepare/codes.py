"""`flava data tokenize`: shards written again with a codebook's codes beside the images.

Training then reads the codes and need not compute them.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from flava.checkpoints.digests import codebook_digest
from flava.checkpoints.reading import locate
from flava.checkpoints.recognise import load_pretrained
from flava.core.distributed import local_device
from flava.core.files import npy_bytes
from flava.core.progress import counted
from flava.data.errors import SampleError, SkippedSample
from flava.data.fast_decoding import decode_sample
from flava.data.samples import codes_suffix
from flava.data.shards import RawSample, read_shard, resolve_all
from flava.data.transforms import for_codebook, resize_for_codebook
from flava.models import Codebook
from flava.prepare.shard_files import open_shard

BATCH = 64
"""Images that the codebook encodes at once."""


def load_codebook(source: str) -> Codebook:
    """The codebook of a run, a checkpoint, a hub id or "shipped:NAME".

    Raises:
        ValueError: the source holds no codebook.
        FileNotFoundError: the source is not there.
    """
    model = load_pretrained(locate(source))
    codebook = model if isinstance(model, Codebook) else getattr(model, "codebook", None)
    if not isinstance(codebook, Codebook) or "encoder" in codebook.missing_parts:
        raise ValueError(f"{source} holds no codebook that could make codes: name another source")
    return codebook.to(local_device()).eval()


def tokenize(shards: list[str], codebook: Codebook, size: int, output: Path) -> Counter[str]:
    """Write each shard again, with the codes of the whole image in every sample.

    A shard that exists in ``output`` is left as it is, so that a command that was stopped can go
    on. Samples without a usable image are kept, without codes. Returns how many samples have codes,
    under "", and how many have none, by reason.

    Args:
        shards: Tars, as training takes them.
        size: Pixels a side that the codebook sees.
        output: The folder for the new tars, which keep their names.

    Raises:
        ValueError: a shard is no local tar, two have one name, or a shard would be overwritten.
    """
    found = resolve_all(shards)
    if remote := [str(path) for path in found if not isinstance(path, Path)]:
        raise ValueError(f"codes are written beside local shards: copy {', '.join(remote)} first")
    paths = [path for path in found if isinstance(path, Path)]
    _check_arguments(paths, size, output)
    output.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    for path in counted(paths, lambda _: 1, len(paths), "tokenizing shards"):
        if not (output / path.name).exists():
            counts += _tokenize_shard(path, codebook, size, output / path.name)
    return counts


def _check_arguments(paths: list[Path], size: int, output: Path) -> None:
    mistakes = [f"{path} is no tar: codes go into tars" for path in paths if path.suffix != ".tar"]
    names = Counter(path.name for path in paths)
    mistakes += [f"{count} shards are called {n}" for n, count in names.items() if count > 1]
    if any(path.parent.resolve() == output.resolve() for path in paths):
        mistakes.append(f"--output {output} is the shards' own folder: name another one")
    if size < 8 or size % 8:
        mistakes.append(f"--codebook-size is {size}: use a positive multiple of 8")
    if mistakes:
        raise ValueError("no codes can be written:\n  " + "\n  ".join(mistakes))


def _tokenize_shard(path: Path, codebook: Codebook, size: int, target: Path) -> Counter[str]:
    suffix, counts = codes_suffix(codebook_digest(codebook)), Counter[str]()
    with open_shard(target) as writer, ThreadPoolExecutor() as threads:
        for samples in _in_batches(read_shard(path)):
            views = list(threads.map(lambda raw: _codebook_view(raw, size), samples))
            counts.update(v.reason if isinstance(v, SampleError) else "" for v in views)
            codes = iter(_encode_codes([v for v in views if isinstance(v, np.ndarray)], codebook))
            for raw, view in zip(samples, views, strict=True):
                files = list(raw.files.items())
                if isinstance(view, np.ndarray):
                    files.append((suffix, next(codes)))
                writer.add(raw.key, files)
    return counts


def _in_batches(samples: Iterator[RawSample | SkippedSample]) -> Iterator[list[RawSample]]:
    """Raises ValueError: the shard is damaged."""
    while batch := list(islice(samples, BATCH)):
        for sample in batch:
            if isinstance(sample, SkippedSample):
                raise ValueError(f"{sample}: build or copy the shard again")
        yield [sample for sample in batch if isinstance(sample, RawSample)]


def _codebook_view(raw: RawSample, size: int) -> UInt8[np.ndarray, "size size 3"] | SampleError:
    try:
        return resize_for_codebook(decode_sample(raw), size)
    except SampleError as error:
        return error


@torch.inference_mode()
def _encode_codes(views: list[UInt8[np.ndarray, "size size 3"]], codebook: Codebook) -> list[bytes]:
    """Each image's codes as a .npy file, in the smallest integer type that holds them all."""
    if not views:
        return []
    device = next(codebook.parameters()).device
    codes = codebook.codes(for_codebook(np.stack(views)).to(device)).cpu().numpy()
    return [npy_bytes(each) for each in codes.astype(np.min_scalar_type(codebook.config.codes - 1))]
