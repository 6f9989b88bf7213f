"""Data that leaves torch, where no rule can follow it: numbers, lists, arrays, shapes, branches."""

import sys
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

TORCH = str(Path(torch.__file__).parent)
HERE = str(Path(__file__).parent)
AUDITOR = str(Path(__file__).parents[1])

WRAPPERS = ("/jaxtyping/", "/beartype/")
"""Parts of file names of decorators that stand between the user's code and torch."""

LEAVES = {"numpy", "__array__", "tolist", "__dlpack__", "data_ptr", "untyped_storage", "storage"}
"""Methods through which a tensor's values leave torch unseen by its dispatcher."""

PRINTS = {"__repr__", "__format__", "__str__"}
"""Methods that read values only to show them."""

CHECKS = (f"{TORCH}/distributions/distribution.py", f"{TORCH}/distributions/constraints.py")
"""Code that reads values only to refuse them."""


WARNS = {("/transformers/", "warn_if_padding_and_no_attention_mask")}
"""Functions of public libraries, by part of their file, that read values only to warn of them."""


@dataclass(frozen=True)
class Escape:
    """Values that left torch and may have come back, or steered the program.

    Attributes:
        moment: the latest moment they may depend on.
        what: the operation through which they left.
        source: file and line of the user's code.
        module: qualified name and class of the innermost module.
    """

    moment: int
    what: str
    source: str
    module: str = ""

    def __str__(self) -> str:
        """Say it in one sentence."""
        return f"{self.source}: {self.what} takes values of moment {self.moment} out of torch"


class Watch(TorchFunctionMode):
    """Sees values leave torch by ways that the dispatcher does not see.

    Args:
        left: called with the tensor and the way it left.
        muted: a context in which numbers read from tensors are not recorded.
    """

    def __init__(self, left: Callable[[Tensor, str], None], muted: Callable[[], Any]) -> None:
        super().__init__()
        self._left = left
        self._muted = muted

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        """Run a function and look whether it takes values out of torch."""
        name = getattr(func, "__name__", "")
        if name in LEAVES and args and isinstance(args[0], Tensor):
            self._left(args[0], name)
        if name in PRINTS or (name == "one_hot" and _classes(args, kwargs or {}) > 0):
            with self._muted():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _classes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return how many classes a one-hot code was asked for; values then only pass a check."""
    given = args[1] if len(args) > 1 else kwargs.get("num_classes", -1)
    return given if isinstance(given, int) else -1


def is_check() -> bool:
    """Return whether values are read by code that only refuses bad ones, or warns of them."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - walks the stack without copying it
    while frame is not None:
        name = frame.f_code.co_filename
        if name in CHECKS or any(p in name and f == frame.f_code.co_name for p, f in WARNS):
            return True
        if not name.startswith((TORCH, HERE, "<")) and not any(part in name for part in WRAPPERS):
            return False
        frame = frame.f_back
    return False


def source() -> str:
    """Return file and line of the innermost frame that is neither torch nor the auditor."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - walks the stack without copying it
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(AUDITOR) and not name.startswith(HERE):
            return ""  # what lies beyond called the auditor, not the operation
        if not name.startswith((TORCH, HERE, "<")) and not any(part in name for part in WRAPPERS):
            return f"{_relative(name)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _relative(name: str) -> str:
    here = str(Path.cwd())
    return name.removeprefix(here).lstrip("/") if name.startswith(here) else name


@contextmanager
def eager() -> Any:  # noqa: ANN401 - a context
    """Run everything operation by operation: no fused kernel, no fast path, no compiled graph."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    onednn = torch._C._get_mkldnn_enabled()  # noqa: SLF001 - the public context also sets TF32
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)  # noqa: FBT003, SLF001
    try:
        with torch.backends.cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(onednn)  # noqa: SLF001
