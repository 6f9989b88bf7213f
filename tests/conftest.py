"""What holds in all tests: types and shapes are checked, chance is fixed, and no clock is a judge.

Every function of the package is checked as it is called. jaxtyping's hook would check all arguments
twice and keep the sizes of every call, which takes longer than most functions do. So here each
function is checked once, and sizes are kept where its annotations show an array.
"""

import inspect
import random
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial, wraps
from typing import Any, get_args, get_type_hints

import hypothesis
import jaxtyping
import numpy as np
import pytest

with_shapes = jaxtyping.jaxtyped


def known(hint: Any, names: dict[str, Any]) -> Any:
    """Return a hint without quotes; what is imported for type checkers alone may be anything."""

    def shown(_: hint) -> None: ...

    try:
        return get_type_hints(shown, names, include_extras=True)["_"]
    except Exception:  # noqa: BLE001 - jaxtyping too passes over hints that only people read
        return Any


def shows_an_array(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(shows_an_array, get_args(hint)))


def checked(thing: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    if thing is None:
        return partial(checked, typechecker=typechecker)
    if inspect.isclass(thing):
        if is_dataclass(thing) and "__init__" in vars(thing):
            thing.__init__ = checked(thing.__init__, typechecker=typechecker)
        return thing
    if not inspect.isfunction(thing):
        return with_shapes(thing, typechecker=typechecker)
    written = thing.__annotations__
    hints = {name: known(hint, thing.__globals__) for name, hint in written.items()}
    thing.__annotations__ = hints
    typed = typechecker(thing)
    thing.__annotations__ = typed.__annotations__ = written
    if any(map(shows_an_array, hints.values())):
        typed = with_shapes(typed, typechecker=None)

    @wraps(thing)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (thing if jaxtyping.config.jaxtyping_disable else typed)(*args, **kwargs)

    # Named like the checks of beartype, it is no place in a user's code to the auditor.
    call.__code__ = call.__code__.replace(co_filename="<checked>")
    return call


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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each module to one process, so that what its tests share is made once."""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False
    return LoadScopeScheduling(config, log)
