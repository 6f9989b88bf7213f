"""Typed, frozen settings; the space that a study may search stands beside the field it varies."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kt_forecast.errors import InputError


class Range(BaseModel):
    """A searchable interval, both ends included; ``log`` samples its logarithm."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float
    high: float
    log: bool = False


def tunable(default: Any, space: Range | Sequence[Any], **constraints: Any) -> Any:  # noqa: ANN401
    """Declare a field's default, the space a study may search, and pydantic's own constraints."""
    return Field(default, json_schema_extra={"space": _plain(space)}, **constraints)


def _plain(space: Range | Sequence[Any]) -> Any:  # noqa: ANN401
    return space.model_dump() if isinstance(space, Range) else list(space)


class Config(BaseModel):
    """Base of every settings class: keyword-only, frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def spaces(cls) -> dict[str, Range | list[Any]]:
        """Return the searchable fields and their spaces."""
        found: dict[str, Range | list[Any]] = {}
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and "space" in extra:
                space = extra["space"]
                found[name] = Range(**space) if isinstance(space, dict) else list(space)  # type: ignore[arg-type]
        return found

    @classmethod
    def parse(cls, settings: dict[str, Any], where: str) -> Self:
        """Build from plain values, as read from a recipe or the command line.

        Args:
            settings: nested plain values.
            where: the name of the file or option, for the message.

        Raises:
            InputError: a key is unknown (the nearest is named) or a value is refused.
        """
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise InputError(f"{where}: {_sentence(cls, error)}") from None


def _sentence(cls: type[BaseModel], error: ValidationError) -> str:
    """Say the first problem in one sentence, naming the nearest key for an unknown one."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{path or cls.__name__}: {first['msg']}, got {first['input']!r}"
    known = _fields_at(cls, first["loc"][:-1])
    near = get_close_matches(str(first["loc"][-1]), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key {path!r}; {hint}"


def _fields_at(cls: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = cls.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        cls = inner
    return list(cls.model_fields)
