"""From the fields of settings classes to what a study searches."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from kt_forecast.config import Config, Range
from kt_forecast.errors import InputError

Sections = Mapping[str, Mapping[str, Any]]
"""Plain settings by section (``settings``, ``training``, ...) and field."""

Check = Callable[[Sections], object]


@dataclass(frozen=True)
class Dimension:
    """One field that is searched.

    Attributes:
        section: of the field.
        field: its name.
        choices: what it may be; empty for an interval.
        low: lower end of the interval.
        high: upper end.
        log: whether the logarithm is sampled.
        whole: whether only whole numbers are sampled.
        own: what trial 0 is booked under: the recipe's own value, or the nearest that the interval
            holds.
    """

    section: str
    field: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    own: Any = None

    @property
    def name(self) -> str:
        """The dotted name."""
        return f"{self.section}.{self.field}"


@dataclass(frozen=True)
class Space:
    """What a study searches.

    Attributes:
        dimensions: the fields.
        fixed: fields that every trial but the first sets to one value, by dotted name.
        notes: what was left out or widened, one sentence each.
    """

    dimensions: tuple[Dimension, ...]
    fixed: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def own(self) -> dict[str, Any]:
        """Return the values that trial 0 is booked under."""
        return {one.name: one.own for one in self.dimensions}

    def applied(self, sections: Sections, values: Mapping[str, Any]) -> Sections:
        """Return the settings with the values of a trial, by dotted name, in their place."""
        found = {section: dict(fields) for section, fields in sections.items()}
        for name, value in (dict(self.fixed) | dict(values)).items():
            section, _, field = name.partition(".")
            found[section][field] = value
        return found

    def plain(self) -> list[Any]:
        """Return the space as JSON can hold it."""
        dimensions = [[d.name, list(d.choices), d.low, d.high, d.log] for d in self.dimensions]
        return [dimensions, dict(self.fixed)]


def space_of(
    sections: Sections,
    configs: Mapping[str, type[Config]],
    spaces: Mapping[str, Mapping[str, Any]],
    check: Check,
) -> Space:
    """Return what a study of some settings searches.

    Args:
        sections: the settings as they stand.
        configs: the class behind each section.
        spaces: what narrows, adds or fixes a field; see `Search.space`.
        check: refuses settings that make no sense.

    Raises:
        InputError: ``spaces`` names an unknown section or field, holds a value that is refused, or
            nothing is left to search.
    """
    _refuse_unknown(sections, spaces)
    fixed = {f"{s}.{f}": v for s, f, v in _asked(spaces) if not isinstance(v, dict | list)}
    plain = Space((), fixed)
    found: list[Dimension] = []
    notes: list[str] = []
    for section, fields in sections.items():
        known = dict(configs[section].spaces()) if section in configs else {}
        asked = spaces.get(section, {})
        for field in dict.fromkeys([*known, *asked]):
            if f"{section}.{field}" in fixed or field not in fields:
                continue
            where = f"search.{section}.{field}" if field in asked else ""
            given = asked[field] if where else known[field]
            whole = _dimension(section, field, given, configs[section], fields[field], where)
            one, left = _legal(whole, plain, sections, check, where)
            notes += left
            if one is not None:
                found.append(one)
    if fixed:
        _try(plain.applied(sections, {}), check, "search")
    if not found:
        raise InputError(
            "nothing is left to search: the system has no field with a space, or all are fixed;"
            " accepted is a field of its own in [search], with low and high, or with choices"
        )
    return Space(tuple(found), fixed, tuple(notes))


def _asked(spaces: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    for section, fields in spaces.items():
        for field, value in fields.items():
            yield section, field, value


def _refuse_unknown(sections: Sections, spaces: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a section or field that the settings do not have.

    Raises:
        InputError: there is one; the nearest is named.
    """
    for section, fields in spaces.items():
        if section not in sections:
            raise InputError(
                f"search: unknown section {section!r}; accepted are {', '.join(sections)}"
            )
        for field in fields:
            if field not in sections[section]:
                near = get_close_matches(field, list(sections[section]), n=1)
                hint = (
                    f"did you mean {near[0]!r}?" if near else f"known: {_known(sections[section])}"
                )
                raise InputError(f"search.{section}: unknown field {field!r}; {hint}")


def _known(fields: Mapping[str, Any]) -> str:
    return ", ".join(sorted(fields))


def _dimension(
    section: str,
    field: str,
    given: Any,  # noqa: ANN401
    config: type[Config],
    own: Any,  # noqa: ANN401
    where: str,
) -> Dimension:
    """Return one field's space, widened to hold its own value.

    Raises:
        InputError: an interval is upside down, or has no logarithm.
    """
    if isinstance(given, list):
        choices = tuple(given)
        if own not in choices:
            choices = (*choices, own)
        return Dimension(section, field, choices=choices, own=own)
    span = given if isinstance(given, Range) else Range.model_validate(_interval(given, where))
    if span.low > span.high or (span.log and span.low <= 0):
        raise InputError(
            f"{where}: low is {span.low:g} and high {span.high:g}; accepted are a low end below the"
            " high one, and above 0 where log is true"
        )
    whole = config.model_fields[field].annotation is int
    low, high = span.low, span.high
    number = float(own) if isinstance(own, int | float) else low
    if math.isfinite(number) and not (span.log and number <= 0):
        low, high = min(low, number), max(high, number)
    nearest = min(max(number, low), high)
    return Dimension(
        section,
        field,
        low=low,
        high=high,
        log=span.log,
        whole=whole,
        own=round(nearest) if whole else nearest,
    )


def _interval(given: dict[str, Any], where: str) -> dict[str, Any]:
    """Return an interval as a recipe gives it.

    Raises:
        InputError: it has other keys, or no numbers.
    """
    numbers = [given.get(end) for end in ("low", "high")]
    is_number = all(isinstance(x, int | float) and not isinstance(x, bool) for x in numbers)
    if (
        not is_number
        or set(given) - {"low", "high", "log"}
        or given.get("log") not in {None, True, False}
    ):
        raise InputError(
            f"{where}: {json.dumps(given, default=str)} is no interval; accepted is {{low = 0.1,"
            " high = 0.5}}, with log = true where its logarithm is sampled"
        )
    return given


def _legal(
    one: Dimension, plain: Space, sections: Sections, check: Check, where: str
) -> tuple[Dimension | None, list[str]]:
    """Return the field with the choices that the other settings admit, and what was left out.

    Raises:
        InputError: a value that was asked for is refused.
    """
    ends = (round(one.low), round(one.high)) if one.whole else (one.low, one.high)
    kept, left = [], []
    for value in one.choices or ends:
        if value == one.own:
            kept.append(value)
            continue
        try:
            check(plain.applied(sections, {one.name: value}))
        except InputError as error:
            if where:
                raise InputError(f"{where}: {value!r} is refused ({error})") from None
            left.append(f"{one.name}: {value!r} was left out ({error})")
        else:
            kept.append(value)
    if not one.choices:
        return (None, left) if left else (one, [])
    if len(kept) < 2:
        return None, left
    return replace(one, choices=tuple(kept)), left


def _try(sections: Sections, check: Check, where: str) -> None:
    """Refuse settings that make no sense.

    Raises:
        InputError: they do not.
    """
    try:
        check(sections)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
