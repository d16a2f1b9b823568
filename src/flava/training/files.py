"""Files of a run: written whole or not at all."""

from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file's content; whatever happens, it holds the old or the new, never a part.

    Raises:
        OSError: it could not be written, and holds what it held.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def unwritable(path: Path, error: Exception) -> OSError:
    """The system's own error seldom names the file, and never says what to do."""
    return OSError(
        f"{path} could not be written ({error}): free some space there, or choose another folder "
        "with --output-dir. What was written before is untouched"
    )
