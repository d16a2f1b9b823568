"""Zero-shot classification: class embeddings from names and templates, and their comparison."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

TEMPLATES = ("a photo of a {}.",)
"""CLIP's prompt for a class (Radford et al. 2021, section 3.1.4)."""


def check_classes(names: Sequence[str], templates: Sequence[str]) -> None:
    """Raises ValueError, with every mistake, if names or templates cannot be used."""
    mistakes = [
        f"{field} is a single text: give a list"
        for field, value in (("class_names", names), ("templates", templates))
        if isinstance(value, str)
    ]
    if not names:
        mistakes.append("class_names is empty: give the names to choose from")
    if twice := sorted({name for name in names if list(names).count(name) > 1}):
        mistakes.append(f"class_names holds {', '.join(map(repr, twice))} twice")
    if not templates:
        mistakes.append('templates is empty: give at least one, such as "a photo of a {}."')
    mistakes += [
        f'template {each!r}: write one "{{}}" where the name goes, and no other brace'
        for each in templates
        if each.count("{}") != 1 or set("{}") & set(each.replace("{}", ""))
    ]
    if mistakes:
        raise ValueError("these are no classes:\n  " + "\n  ".join(mistakes))


Embed = Callable[[list[str]], Float[Tensor, "texts width"]]
"""Texts -> unit vectors."""


def class_embeddings(
    embed: Embed, classes: Sequence[Sequence[str]], templates: Sequence[str]
) -> Float[Tensor, "classes width"]:
    """A unit vector for each class, given as its names: the mean of the unit vectors of all names
    in all templates."""
    prompts = [[t.format(name) for name in names for t in templates] for names in classes]
    embedded = embed([prompt for group in prompts for prompt in group])
    means = [part.mean(dim=0) for part in embedded.split([len(group) for group in prompts])]
    return functional.normalize(torch.stack(means), dim=-1)


def classify(
    images: Float[Tensor, "images width"], classes: Float[Tensor, "classes width"]
) -> Int[Tensor, " images"]:
    """The index of the class that is most similar to each image."""
    return (images @ classes.T).argmax(dim=1)


def class_probabilities(
    images: Float[Tensor, "images width"],
    classes: Float[Tensor, "classes width"],
    scale: float | Float[Tensor, ""],
) -> Float[Tensor, "images classes"]:
    """The softmax of the cosines times ``scale``, which is the exponential of the logit scale."""
    return (scale * images @ classes.T).softmax(dim=1)


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The names of classes, each of which is put in all templates."""

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
        names = _read_lines(file)
    else:
        raise FileNotFoundError(
            f"--classes {classes} is no file: give one with a name a line, or names as in cat,dog"
        )
    return Classes(
        names=tuple(filter(None, names)),
        templates=tuple(_read_lines(templates)) if templates else TEMPLATES,
    )


def _read_lines(file: Path) -> Sequence[str]:
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
