"""ONNX for operations that torch's exporter has no words for, or wrong ones."""

from collections.abc import Callable
from typing import Any

FAR = 2**62
"""Beyond every count and place."""


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return, for each operation of torch, the function that writes it in ONNX."""
    import torch
    from onnxscript import opset18 as op

    def running(x: Any, *, largest: bool) -> tuple[Any, Any]:  # noqa: ANN401
        """Return running extremes along the second of two axes; nobody asks for their places."""
        length = op.Squeeze(op.Shape(x, start=1, end=2))
        place = op.Range(op.Constant(value_int=0), length, op.Constant(value_int=1))
        before = op.GreaterOrEqual(op.Unsqueeze(place, [1]), op.Unsqueeze(place, [0]))
        other = op.Constant(value_int=-FAR if largest else FAR)
        seen = op.Where(before, op.Unsqueeze(x, [1]), other)
        extreme = op.ReduceMax if largest else op.ReduceMin
        found = extreme(seen, [2], keepdims=0)
        return found, op.Identity(found)

    # The exporter reads attributes off the annotations and the names of the parameters.
    def cummax(self: Any, dim: int) -> Any:  # noqa: ANN401, ARG001
        return running(self, largest=True)

    def cummin(self: Any, dim: int) -> Any:  # noqa: ANN401, ARG001
        return running(self, largest=False)

    def sort(self: Any, *, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:  # noqa: ANN401, ARG001
        # Of equal values ONNX's TopK takes the first one first.
        size = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
        return op.TopK(self, size, axis=dim, largest=int(descending), sorted=1)

    def repeat(self: Any, repeats: Any, dim: int = 1) -> Any:  # noqa: ANN401
        times = (
            op.Constant(value_ints=[repeats])
            if isinstance(repeats, int)
            else op.Reshape(repeats, op.Constant(value_ints=[1]))
        )
        head, tail = op.Shape(self, start=0, end=dim), op.Shape(self, start=dim + 1)
        own = op.Shape(self, start=dim, end=dim + 1)
        wide = op.Expand(op.Unsqueeze(self, [dim + 1]), op.Concat(head, own, times, tail, axis=0))
        return op.Reshape(wide, op.Concat(head, op.Mul(own, times), tail, axis=0))

    aten = torch.ops.aten
    return {
        aten.cummax.default: cummax,
        aten.cummin.default: cummin,
        aten.sort.stable: sort,
        aten.repeat_interleave.self_int: repeat,
    }
