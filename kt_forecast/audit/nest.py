"""Batches of any nest, seen as tensors by name, and put together again."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

INPUT = "input"
"""The name of an input that is one tensor."""

Rebuild = Callable[[dict[str, Tensor]], Any]


def flattened(batch: Any) -> tuple[dict[str, Tensor], Rebuild]:  # noqa: ANN401 - any nest
    """Return the tensors of a nest by their paths, joined by dots, and what puts others in place.

    Args:
        batch: a tensor, or any nest of mappings, sequences and dataclasses.
    """
    found: dict[str, Tensor] = {}
    _collect(batch, "", found)
    return found, lambda changed: _rebuilt(batch, "", changed)


def calling(
    model: Callable[..., Any],
    batch: Any,  # noqa: ANN401 - any nest
) -> Callable[[dict[str, Tensor]], Any]:
    """Return a call of a model as its users call it: with tensors, in order or by keywords."""
    _, rebuild = flattened(batch)

    def call(changed: dict[str, Tensor]) -> Any:  # noqa: ANN401 - whatever the model returns
        given = rebuild(changed)
        if isinstance(given, Mapping):
            return model(**given)
        if type(given) in {tuple, list}:
            return model(*given)
        return model(given)

    return call


def nested(named: dict[str, Tensor]) -> Any:  # noqa: ANN401 - any nest
    """Return a nest of mappings and tuples whose tensors have these paths."""
    if set(named) == {INPUT}:
        return named[INPUT]
    parts: dict[str, dict[str, Tensor]] = {}
    for path, x in named.items():
        name, _, rest = path.partition(".")
        parts.setdefault(name, {})[rest or INPUT] = x
    found = {name: nested(part) for name, part in parts.items()}
    return tuple(found.values()) if all(name.isdigit() for name in found) else found


def _parts(batch: Any) -> dict[str, Any]:  # noqa: ANN401 - any nest
    if isinstance(batch, Mapping):
        return {str(key): value for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        names = getattr(batch, "_fields", range(len(batch)))
        return {str(name): value for name, value in zip(names, batch, strict=True)}
    if is_dataclass(batch) and not isinstance(batch, type):
        return {f.name: getattr(batch, f.name) for f in fields(batch)}
    return {}


def _collect(batch: Any, path: str, found: dict[str, Tensor]) -> None:  # noqa: ANN401
    if isinstance(batch, Tensor):
        found[path or INPUT] = batch
    for name, part in _parts(batch).items():
        _collect(part, f"{path}.{name}" if path else name, found)


def _rebuilt(batch: Any, path: str, changed: dict[str, Tensor]) -> Any:  # noqa: ANN401
    if isinstance(batch, Tensor):
        return changed[path or INPUT]
    parts = {
        name: _rebuilt(part, f"{path}.{name}" if path else name, changed)
        for name, part in _parts(batch).items()
    }
    if isinstance(batch, Mapping):
        return dict(zip(batch, parts.values(), strict=True))
    if isinstance(batch, tuple | list):
        named = hasattr(batch, "_fields")
        return type(batch)(*parts.values()) if named else type(batch)(parts.values())
    if parts:
        again = copy.copy(batch)
        for name, part in parts.items():
            object.__setattr__(again, name, part)
        return again
    return batch
