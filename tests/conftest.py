"""What holds in all tests: types and shapes are checked, chance is fixed, and no clock is a judge.

Every function of the package is checked as it is called. jaxtyping remembers the sizes of each
call, which costs far more than a check of plain types does, so a function whose annotations show no
array is left to the checker of types alone.
"""

import inspect
import random
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import hypothesis
import jaxtyping
import numpy as np
import pytest

with_shapes = jaxtyping.jaxtyped


def shows_an_array(hint: Any) -> bool:
    if isinstance(hint, str):
        return not hint.isidentifier()
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(shows_an_array, get_args(hint)))


def checked(fn: Any = None, *, typechecker: Callable[[Any], Any] | None = None) -> Any:
    if fn is None:
        return partial(checked, typechecker=typechecker)
    plain = inspect.isfunction(fn) and not any(map(shows_an_array, fn.__annotations__.values()))
    return typechecker(fn) if plain and typechecker else with_shapes(fn, typechecker=typechecker)


# What jaxtyping's import hook writes above every function of the package is read from here.
jaxtyping.jaxtyped = checked

hypothesis.settings.register_profile(
    "fixed",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fixed")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Draw the same numbers whatever ran before, in fixtures too."""
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what users wrote may draw from it
    torch.manual_seed(0)
