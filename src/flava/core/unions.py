"""Configuration fields that hold one of several dataclasses; in JSON, "kind" names which one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

KIND = "kind"


@dataclass(frozen=True)
class TaggedUnion:
    """Annotates a field that holds one of several dataclasses: ``Annotated[ModelConfig,
    TaggedUnion(lambda: (FlavaConfig, ClipConfig))]``. Its JSON names the class under "kind".

    The fields alone do not tell a `FlavaConfig` from a `ClipConfig`, whose names are among the
    first's.
    """

    choices: Callable[[], Iterable[type]]
    """Returns the dataclasses. It is called whenever pydantic builds a schema, so that what a
    registry holds by then is known."""

    def __get_pydantic_core_schema__(
        self,
        source: Any,
        handler: GetCoreSchemaHandler,
    ) -> CoreSchema:
        schemas: dict[Any, CoreSchema] = {
            choice.__name__: core_schema.no_info_before_validator_function(
                _without_kind, handler.generate_schema(choice)
            )
            for choice in self.choices()
        }
        return core_schema.tagged_union_schema(
            schemas,
            discriminator=_kind_of,
            custom_error_type="kind",
            custom_error_message=f'"{KIND}" should be one of {", ".join(schemas)}',
            serialization=core_schema.wrap_serializer_function_ser_schema(_with_kind),
        )


def _kind_of(value: Any) -> str | None:
    return value.get(KIND) if isinstance(value, dict) else type(value).__name__


def _without_kind(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: field for name, field in value.items() if name != KIND}


def _with_kind(value: Any, fields_of: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    return {KIND: type(value).__name__, **fields_of(value)}
