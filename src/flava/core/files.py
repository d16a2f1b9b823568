"""Writes files and folders whole or not at all, and makes errors about them readable."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of ``target`` when the block ends well.

    Whatever happens, ``target`` is what it was before or the whole new folder.

    Raises:
        OSError: it could not be written, and what was there before is untouched.
    """
    target = target.absolute()  # "." has no name
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors report a full disk as errors of their own.
        raise OSError(
            f"{target} could not be written ({error}): free some space there, or choose another "
            "folder. What was there before is untouched"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A path to write to, whose file takes the place of ``target`` when the block ends well.

    Whatever happens, ``target`` is what it was before or the whole new file.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


OUT_OF_RANGE = {
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
    "multiple_of",
    "finite_number",
}
"""Types of pydantic's errors whose messages tell what is allowed, but not the value."""


def explain_errors(error: ValidationError) -> str:
    """Every mistake in a file, one line each: the field, and its value if that is out of range."""
    lines = []
    for each in error.errors(include_url=False):
        value = f" is {each['input']}" if each["type"] in OUT_OF_RANGE else ""
        lines.append(f"\n  {'.'.join(map(str, each['loc']))}{value}: {each['msg']}")
    return "".join(lines)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content; whatever happens, it holds the old or the new, never a part.

    Raises:
        OSError: it could not be written, and holds what it held.
    """
    try:
        with atomic_file(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise write_error(path, error) from error


def save_array(path: Path, values: np.ndarray) -> None:
    """Write an array as .npy; whatever happens, the file is the old one or the whole new one.

    Raises:
        OSError: as ``write_atomically``.
    """
    write_atomically(path, npy_bytes(values))


def npy_bytes(values: np.ndarray) -> bytes:
    """The content of an array's .npy file."""
    content = io.BytesIO()
    np.save(content, values)
    return content.getvalue()


def write_error(path: Path, error: Exception) -> OSError:
    """An error that names the file and the remedy, which the system's own seldom does."""
    return OSError(
        f"{path} could not be written ({error}): free some space there, or choose another folder "
        "for the output. What was written before is untouched"
    )
