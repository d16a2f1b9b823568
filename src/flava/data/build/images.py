"""Where the images of rows are: a folder of files, or what img2dataset fetched."""

from functools import lru_cache
from pathlib import Path, PurePosixPath

from flava.data.build.fetched import Fetched, is_fetched
from flava.data.build.rows import Row
from flava.data.errors import SampleError

SHOWN = 3


class InRows:
    """The rows hold their images."""

    def read(self, row: Row) -> bytes:
        """The row's image file.

        Raises:
            SampleError: it cannot be had.
        """
        if row.data is None:
            raise SampleError("image is not there", "the row has none: give --images")
        return row.data


class Folder:
    """Files by their names below one folder; links out of it are refused."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._resolved = root.resolve()
        self._last: tuple[Path, bytes] | None = None

    def read(self, row: Row) -> bytes:
        """As ``InRows.read``."""
        if row.data is not None:
            return row.data
        for name in row.names:
            path = self.root / inside(name)
            if self._last and self._last[0] == path:  # the next region of the same image
                return self._last[1]
            try:
                data = path.read_bytes()
                resolved = path.resolve()
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                raise SampleError("image cannot be read", f"{path}: {error}") from error
            if not resolved.is_relative_to(self._resolved):
                raise SampleError("link leads out of the folder", f"{path} to {resolved}")
            self._last = path, data
            return data
        tried = ", ".join(row.names[:SHOWN]) or "the row names none"
        raise SampleError("image is not there", f"tried {tried} below {self.root}")


def inside(name: str) -> PurePosixPath:
    """Raises SampleError: the name leads out of its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise SampleError("path leaves the folder", name[:200])
    return path


Images = InRows | Folder | Fetched
"""Where the images of rows are."""


@lru_cache(maxsize=1)
def open_images(folder: Path | None, index: Path) -> Images:
    """The images of a build; once for each process.

    Args:
        index: The folder of the table of what was fetched.
    """
    if folder is None:
        return InRows()
    return Fetched(folder, index) if is_fetched(folder) else Folder(folder)
