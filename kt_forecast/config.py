"""Typed, frozen settings; the space that a study may search stands beside the field it varies."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Self, get_args

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
    keys, known = _followed(cls, first["loc"])
    path = ".".join(keys)
    if first["type"] == "missing":
        return f"{path} is missing"
    if first["type"] != "extra_forbidden":
        said = first["msg"].removeprefix("Value error, ")
        if not isinstance(first["input"], dict | BaseModel):
            said += f", got {first['input']!r}"
        return f"{path}: {said}" if path else said
    near = get_close_matches(keys[-1], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key {path!r}; {hint}"


def _followed(cls: type[BaseModel], path: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """Return the path without the tags that choose between classes, and the last class's keys."""
    options = [cls]
    keys: list[str] = []
    for part in path:
        tagged = [o for o in options if any(f.default == part for f in o.model_fields.values())]
        if len(options) > 1 and tagged:
            options = tagged
            continue
        keys.append(str(part))
        field = options[0].model_fields.get(str(part))
        options = (_models(field.annotation) if field else []) or options
    return keys, list(options[0].model_fields)


def _models(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401
    """Return the settings classes that an annotation admits."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
