"""The ways in which a model can be run, and which of them can be tried here."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kt_forecast.audit.running import (
    ATTENTION,
    COMPILED,
    COMPILING,
    CUDA,
    CUDA_HALF,
    FLOAT16,
    GRADIENTS,
    HALF,
    Runner,
    Setting,
)

OPTIMISED = 600
"""Operations that a compiler is asked to make code of; more take it too long."""

TRACED = 6000
"""Operations that are traced as compilers do, and then run as they are."""

FUSED = {"scaled_dot_product_attention", "multi_head_attention_forward"}


def paths(runner: Runner, inputs: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Yield every path beside the plain one, and why it cannot be tried here; empty if it can.

    Args:
        runner: runs the model.
        inputs: tensors by name.
    """
    yield GRADIENTS, ""
    yield HALF, ""
    yield FLOAT16, ""
    yield COMPILING, ""
    unused = "" if _attends(runner, inputs) else "the model calls no fused attention"
    for path in ATTENTION:
        yield path, unused
    absent = "" if torch.cuda.is_available() else "there is none"
    given = "it was given there, so all the rest ran there" if runner.device == "cuda" else ""
    for path in (CUDA, CUDA_HALF):
        yield path, given if path == CUDA and given else absent


def compiler(n_ops: int) -> tuple[str, str]:
    """Return the path by a compiler that can be tried here, and what stands against a better one.

    Args:
        n_ops: operations of one run.

    Returns:
        The path, empty if there is none; and why it is not that of the default compiler.
    """
    if n_ops > TRACED:
        return "", f"{n_ops} operations would be traced one by one"
    if n_ops > OPTIMISED:
        return f"{COMPILED}aot_eager", f"{n_ops} operations are traced, and no code is made of them"
    if any(map(shutil.which, _compilers())):
        return f"{COMPILED}inductor", ""
    return f"{COMPILED}aot_eager", "traced, and no code is made: there is no C++ compiler"


@contextmanager
def compiling() -> Iterator[Callable[[], int]]:
    """Give a function that says how many graphs were compiled; nothing compiled stays behind."""
    from torch._dynamo import reset
    from torch._dynamo.utils import counters

    reset()
    before = counters["stats"]["unique_graphs"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a compiler's own imports warn
            yield lambda: counters["stats"]["unique_graphs"] - before
    finally:
        reset()


def _compilers() -> list[str]:
    own = os.environ.get("CXX")
    return [*([own] if own else []), "g++", "clang++", "c++"]


class _Names(TorchFunctionMode):
    """Notes the names of the functions of torch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        """Run a function and note its name."""
        self.names.add(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


def _attends(runner: Runner, inputs: dict[str, Tensor]) -> bool:
    if any(isinstance(m, nn.MultiheadAttention) for m in runner.model.modules()):
        return True
    with _Names() as seen:
        try:
            runner(inputs, Setting(path=GRADIENTS))
        except Exception:  # noqa: BLE001 - of a model nothing is known; the path itself will tell
            return True
    return bool(seen.names & FUSED)
