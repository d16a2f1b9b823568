"""The classes of a zero-shot classification, and the prompts that name them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flava.inference.pretrained import TEMPLATES, check_classes


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Names, each put in all templates."""

    names: tuple[str, ...]
    templates: tuple[str, ...] = TEMPLATES

    def __post_init__(self) -> None:
        check_classes(self.names, self.templates)

    def __str__(self) -> str:
        return f"{', '.join(self.names)} in {', '.join(map(repr, self.templates))}"


def read_classes(classes: str, templates: Path | None) -> Classes:
    """From "cat,dog" or a file with a name a line, and a file with a template a line.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not UTF-8, or the classes do not hold; every mistake is named.
    """
    if "," in classes:
        names: Sequence[str] = [each.strip() for each in classes.split(",")]
    elif (file := Path(classes).expanduser()).is_file():
        names = read_lines(file)
    else:
        raise FileNotFoundError(
            f"--classes {classes} is no file: give one with a name a line, or names as in cat,dog"
        )
    return Classes(
        names=tuple(filter(None, names)),
        templates=tuple(read_lines(templates)) if templates else TEMPLATES,
    )


def read_lines(file: Path) -> Sequence[str]:
    """The lines of a file that are not blank, without the space around them.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    return [line.strip() for line in lines if line.strip()]
