"""Files of a run: written whole or not at all."""

from pathlib import Path

from flava.files import whole_file


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file's content; whatever happens, it holds the old or the new, never a part.

    Raises:
        OSError: it could not be written, and holds what it held.
    """
    try:
        with whole_file(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> OSError:
    """The system's own error seldom names the file, and never says what to do."""
    return OSError(
        f"{path} could not be written ({error}): free some space there, or choose another folder "
        "with --output-dir. What was written before is untouched"
    )
