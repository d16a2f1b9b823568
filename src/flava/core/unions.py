"""Unions of configurations in JSON: which of them it is stands beside its fields."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

KIND = "kind"


@dataclass(frozen=True)
class TaggedUnion:
    """Annotates a union of dataclasses, whose JSON then names the class under "kind".

    Fields do not tell a `FlavaConfig` from a `ClipConfig`: the second's are among the first's.
    """

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        choices: dict[Any, CoreSchema] = {
            kind.__name__: core_schema.no_info_before_validator_function(
                without_kind, handler.generate_schema(kind)
            )
            for kind in get_args(source)
        }
        return core_schema.tagged_union_schema(
            choices,
            discriminator=kind_of,
            custom_error_type="kind",
            custom_error_message=f'"{KIND}" should be one of {", ".join(choices)}',
            serialization=core_schema.wrap_serializer_function_ser_schema(with_kind),
        )


def kind_of(value: Any) -> str | None:
    return value.get(KIND) if isinstance(value, dict) else type(value).__name__


def without_kind(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: field for name, field in value.items() if name != KIND}


def with_kind(value: Any, fields_of: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    return {KIND: type(value).__name__, **fields_of(value)}
