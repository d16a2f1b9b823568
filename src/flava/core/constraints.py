"""Checks configurations: the range of each field, which its type states, and rules across fields.

A field's range is an annotation such as `pydantic.PositiveInt` or `Annotated[int, Field(ge=3)]`.
pydantic checks these when it reads a file, but not when code or the command line makes a dataclass:
that is what `config_errors` is for.
"""

from dataclasses import is_dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

Fraction = Annotated[float, Field(ge=0, le=1)]
"""A number in [0, 1]."""


def check_config(config: Any, what: str) -> None:
    """Raises ValueError: the configuration has errors; ``what`` introduces the list of them."""
    if errors := config_errors(config):
        raise ValueError(f"{what}:\n  " + "\n  ".join(errors))


def config_errors(config: Any, prefix: str = "") -> list[str]:
    """Everything that is wrong with a configuration and with those inside it, one line each.

    A line holds the field's name with dots (after ``prefix``, such as "model."), its value and what
    is allowed. A configuration may have a method ``mistakes(prefix)``, which returns such lines
    about what spans several of its fields. It must allow for values that are out of range.
    """
    found = []
    for name, adapter in _adapters(type(config)).items():
        value = getattr(config, name)
        if is_dataclass(value):
            found += config_errors(value, f"{prefix}{name}.")
        elif adapter is not None:
            try:
                adapter.validate_python(value)
            except ValidationError as error:
                told = " and ".join(dict.fromkeys(each["msg"] for each in error.errors()))
                found.append(f"{prefix}{name} is {value}: {told.replace('Input', 'it')}")
    return found + (config.mistakes(prefix) if hasattr(config, "mistakes") else [])


@cache
def _adapters(kind: type) -> dict[str, Any]:
    """A `TypeAdapter` for each field of a dataclass; None for fields without a range."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        name: TypeAdapter(hints[name]) if _is_annotated(hints[name]) else None
        for name in kind.__dataclass_fields__
    }


def _is_annotated(hint: Any) -> bool:
    return hasattr(hint, "__metadata__") or any(map(_is_annotated, get_args(hint)))
