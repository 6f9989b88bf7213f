"""Weights that descend on what steps show them: a chunk of steps at a time, chunk after chunk.

A memory is a network from keys to values, its own in each row. A chunk's gradients are taken at
the weights of its beginning, so that they are matrix products over its steps; how they are summed
with momentum and decay is a matrix of each pair of its steps. So only the weights at the chunks'
beginnings must be found one after the other. Everything else, what each step is answered and the
gradients of all that came in, is found for all chunks at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from kt_forecast.nn.decayed import left_between
from kt_forecast.nn.segments import chosen

Weights = tuple[Float[Tensor, "*row _ _"], ...]
"""One matrix for each layer of the memory."""
Moving = tuple[Float[Tensor, "*row 2 _ _"], ...]
"""For each layer its weights and, after them, their momentum."""


@dataclass(frozen=True)
class Rates:
    """How a chunk's steps forget, remember their surprise, and learn.

    Attributes:
        kept: log of the share of the weights that each step keeps.
        lasting: log of the share of the momentum that each step keeps.
        learned: step size.
        real: one, or zero at padding, which adds no momentum to the weights; None for one.
    """

    kept: Float[Tensor, "*row time"]
    lasting: Float[Tensor, "*row time"]
    learned: Float[Tensor, "*row time"]
    real: Float[Tensor, "*row time"] | None = None


@dataclass(frozen=True)
class Faded:
    """What is left at a step of what there was before the chunk, and of what its steps gave.

    Attributes:
        share: of the weights before the chunk, in each step's weights.
        carried: of the momentum before the chunk, in each step's weights.
        moved: of the gradient of step i (column), in the weights of step t (row).
        push: of each step's gradient, in the weights and in the momentum of the end; negative.
        mix: of the weights and the momentum before the chunk, in those of its end.
    """

    share: Float[Tensor, "*row time 1"]
    carried: Float[Tensor, "*row time 1"]
    moved: Float[Tensor, "*row time time"]
    push: Float[Tensor, "*row 2 time"]
    mix: Float[Tensor, "*row 2 2"]


def faded(rates: Rates) -> Faded:
    """Return what a chunk's rates come to, with one product over the steps between each pair."""
    if rates.kept.shape[-1] == 1:
        return _of_one(rates)
    logs = torch.stack([rates.kept, rates.lasting])
    kept, lasting = left_between(logs)
    share, momentum = logs.cumsum(-1).exp()[..., None]
    entering = kept if rates.real is None else kept * rates.real[..., None, :]
    moved = (entering @ lasting) * rates.learned[..., None, :]
    carried = entering @ momentum
    push = torch.stack([moved[..., -1, :], lasting[..., -1, :] * rates.learned], -2)
    first = F.pad(share[..., -1, :], (0, 1))
    last = torch.cat([carried[..., -1, :], momentum[..., -1, :]], -1)
    return Faded(share, carried, moved, -push, torch.stack([first, last], -1))


def _of_one(rates: Rates) -> Faded:
    """Do as `faded` for a chunk of one step, whose gradient nothing has faded."""
    share, momentum, learned = rates.kept.exp(), rates.lasting.exp(), rates.learned
    real = rates.real
    carried, moved = (momentum, learned) if real is None else (real * momentum, real * learned)
    push = torch.stack([-moved, -learned], -2)
    mix = torch.cat([share, carried, torch.zeros_like(share), momentum], -1).unflatten(-1, (2, 2))
    return Faded(share[..., None], carried[..., None], moved[..., None], push, mix)


def recalled(
    weights: Weights, x: Float[Tensor, "*row time size"]
) -> Float[Tensor, "*row time size"]:
    """Return what a memory with these weights answers."""
    for i, weight in enumerate(weights):
        x = (x if i == 0 else F.silu(x)) @ weight
    return x


@dataclass(frozen=True)
class Slopes:
    """A chunk's gradients: a layer's by its weights is its inputs, turned, times its errors.

    Attributes:
        inputs: what each layer reads of the keys.
        outputs: what each layer makes of it.
        errors: the squared distance's gradient by each layer's outputs.
        passed: the same by each layer's outputs after SiLU; None for the last layer.
    """

    inputs: tuple[Float[Tensor, "*row time _"], ...]
    outputs: tuple[Float[Tensor, "*row time _"], ...]
    errors: tuple[Float[Tensor, "*row time _"], ...]
    passed: tuple[Float[Tensor, "*row time _"] | None, ...]


def slopes(
    at: Weights, key: Float[Tensor, "*row time size"], value: Float[Tensor, "*row time size"]
) -> Slopes:
    """Return the gradients of the squared distance of what the keys recall from the values."""
    inputs, outputs = [key], [key @ at[0]]
    for weight in at[1:]:
        inputs.append(F.silu(outputs[-1]))
        outputs.append(inputs[-1] @ weight)
    errors: list[Tensor] = [2.0 * (outputs[-1] - value)]
    passed: list[Tensor | None] = [None]
    for weight, output in zip(reversed(at[1:]), reversed(outputs[:-1]), strict=True):
        back = errors[-1] @ weight.mT
        errors.append(_silu_slope(back, output))
        passed.append(back)
    return Slopes(tuple(inputs), tuple(outputs), tuple(errors[::-1]), tuple(passed[::-1]))


def _silu_slope(back: Tensor, x: Tensor) -> Tensor:
    """Return a gradient by SiLU's result as one by its argument."""
    if not torch.is_grad_enabled():
        return torch.ops.aten.silu_backward(back, x)  # has no slope of its own
    gate = x.sigmoid()
    return back * gate * (1.0 + x * (1.0 - gate))


def read(
    starts: Moving,
    found: Slopes,
    fading: Faded,
    query: Float[Tensor, "row time size"],
) -> Float[Tensor, "row time size"]:
    """Return what each step's own weights answer to its query, none of which is written out."""
    for i, (start, into, error) in enumerate(zip(starts, found.inputs, found.errors, strict=True)):
        query = query if i == 0 else F.silu(query)
        near = (query @ into.mT) * fading.moved
        before = torch.addcmul(
            fading.share * (query @ start[:, 0]), fading.carried, query @ start[:, 1]
        )
        query = torch.baddbmm(before, near, error, alpha=-1)
    return query


def after(
    moving: Moving,
    found: Slopes,
    push: Float[Tensor, "row 2 time"],
    mix: Float[Tensor, "row 2 2"],
) -> Moving:
    """Return weights and momentum after a chunk."""
    pulls = (
        _pushed(into, push) @ error for into, error in zip(found.inputs, found.errors, strict=True)
    )
    return tuple(
        torch.baddbmm(pull.view_as(now).flatten(2), mix, now.flatten(2)).view_as(now)
        for now, pull in zip(moving, pulls, strict=True)
    )


def _pushed(into: Tensor, push: Tensor) -> Tensor:
    """Return inputs, turned, scaled once for the weights and, below, once for the momentum."""
    return (into.mT[:, None] * push[:, :, None]).flatten(1, 2)


@dataclass(frozen=True)
class Course:
    """What weights have come through.

    Attributes:
        starts: weights and momentum before each chunk.
        at: weights at which each chunk's gradients are taken.
        end: weights and momentum after the last chunk.
        found: the gradients, where there is one chunk.
    """

    starts: tuple[Float[Tensor, "row chunk 2 _ _"], ...]
    at: tuple[Float[Tensor, "row chunk _ _"], ...]
    end: Moving
    found: Slopes | None = None


def course(
    moving: Moving,
    at: Weights,
    key: Float[Tensor, "row chunk time size"],
    value: Float[Tensor, "row chunk time size"],
    fading: Faded,
    ended: Bool[Tensor, "row chunk"] | None,
) -> Course:
    """Learn chunk after chunk.

    Args:
        moving: weights and momentum before the first chunk.
        at: weights at which the first chunk's gradients are taken.
        key: of each step.
        value: what the key should recall.
        fading: of the chunks' rates.
        ended: rows whose chunk ends with its last column, so that the gradients of the next are
            taken anew; None for all.
    """
    depth = len(moving)
    if key.shape[1] == 1:
        found = slopes(at, key[:, 0], value[:, 0])
        end = after(moving, found, fading.push[:, 0], fading.mix[:, 0])
        starts, taken = (tuple(x[:, None] for x in part) for part in (moving, at))
        return Course(starts, taken, end, found)
    given = (ended, key, value, fading.push, fading.mix, *moving, *at)
    parts: tuple[Tensor, ...] = _Course.apply(*given)  # type: ignore[no-untyped-call]
    return Course(parts[:depth], parts[depth : 2 * depth], parts[2 * depth :])


def joined(courses: Sequence[Course]) -> Course:
    """Return the chunks of courses that follow each other."""
    if len(courses) == 1:
        return courses[0]
    starts, at = (
        tuple(torch.cat(parts, 1) for parts in zip(*each, strict=True))
        for each in ([x.starts for x in courses], [x.at for x in courses])
    )
    return Course(starts, at, courses[-1].end)


class _Course(torch.autograd.Function):
    """Keeps the weights before each chunk; forms all else again, for all chunks at once."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        ended: Tensor | None,
        key: Tensor,
        value: Tensor,
        push: Tensor,
        mix: Tensor,
        *states: Tensor,
    ) -> tuple[Tensor, ...]:
        depth = len(states) // 2
        moving, at = states[:depth], states[depth:]
        starts, taken = [], []
        for i, parts in enumerate(
            zip(*(x.unbind(1) for x in (key, value, push, mix)), strict=True)
        ):
            if i > 0:
                at = _anew(moving, at, None if ended is None else ended[:, i - 1])
            starts.append(moving)
            taken.append(at)
            moving = after(moving, slopes(at, *parts[:2]), *parts[2:])
        kept = tuple(
            torch.stack(x, 1) for x in (*zip(*starts, strict=True), *zip(*taken, strict=True))
        )
        ctx.ended = ended
        ctx.save_for_backward(key, value, push, mix, *kept)
        return *kept, *moving

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        key, value, push, mix, *kept = ctx.saved_tensors
        depth = len(kept) // 2
        of_starts, of_at = grads[:depth], grads[depth : 2 * depth]
        worth: Sequence[Tensor] = grads[2 * depth :]
        at = kept[depth:]
        linear = _Linear.of(tuple(at), key, value, push)
        worths: list[Sequence[Tensor]] = []
        passed: Sequence[Tensor] = ()
        for i in reversed(range(key.shape[1])):
            worths.append(worth)
            asked = [x[:, i] for x in of_at]
            if passed:
                asked = [a + b for a, b in zip(asked, passed, strict=True)]
            slope = linear.back(i, worth, asked)
            turned = mix[:, i].mT
            worth = [
                torch.baddbmm(x[:, i].flatten(2), turned, y.flatten(2)).view_as(y)
                for x, y in zip(of_starts, worth, strict=True)
            ]
            if i > 0:
                passed = _added(worth, slope, None if ctx.ended is None else ctx.ended[:, i - 1])
        flat = [x.flatten(0, 1) for x in (key, value, push, mix, *kept)]
        total = [torch.stack(x[::-1], 1).flatten(0, 1) for x in zip(*worths, strict=True)]
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in flat[:4]]
            found = slopes(tuple(flat[4 + depth :]), *leaves[:2])
            ends = after(tuple(flat[4 : 4 + depth]), found, *leaves[2:])
        given = torch.autograd.grad(ends, leaves, total)
        inputs = zip(given, (key, value, push, mix), strict=True)
        return None, *(x.view_as(like) for x, like in inputs), *worth, *slope


def _anew(
    moving: Sequence[Tensor], at: Sequence[Tensor], ended: Tensor | None
) -> tuple[Tensor, ...]:
    """Return the weights at which the next chunk's gradients are taken."""
    return tuple(chosen(ended, now[:, 0], old) for now, old in zip(moving, at, strict=True))


def _added(
    worth: Sequence[Tensor], slope: Sequence[Tensor], ended: Tensor | None
) -> tuple[Tensor, ...]:
    """Add what the weights of gradients are worth where they come from; return the rest of it."""
    rest = []
    for total, part in zip(worth, slope, strict=True):
        if ended is None:
            total[:, 0] += part
        else:
            here = ended[:, None, None]
            total[:, 0] += part.masked_fill(~here, 0.0)
            rest.append(part.masked_fill(here, 0.0))
    return tuple(rest)


@dataclass(frozen=True)
class _Linear:
    """How the weights after a chunk depend on those at which its gradients are taken.

    Attributes:
        at: those weights.
        found: the gradients taken there.
        slope: of SiLU, at each layer's outputs but the last's.
        curve: how its slope changes, times what came back to it.
        pushed: inputs as they enter the weights and the momentum.
        pushing: errors as they do so, side by side.
    """

    at: Weights
    found: Slopes
    slope: tuple[Tensor, ...]
    curve: tuple[Tensor, ...]
    pushed: tuple[Tensor, ...]
    pushing: tuple[Tensor, ...]

    @classmethod
    def of(cls, at: Weights, key: Tensor, value: Tensor, push: Tensor) -> "_Linear":
        """Form it for all chunks at once."""
        found = slopes(at, key, value)
        slope, curve = [], []
        for output, back in zip(found.outputs[:-1], found.passed, strict=False):
            assert back is not None  # noqa: S101 - only the last layer has none
            gate = output.sigmoid()
            rest = 1.0 - gate
            slope.append(gate * (1.0 + output * rest))
            curve.append(back * gate * rest * (2.0 + output * (1.0 - 2.0 * gate)))
        pushed = (_pushed(x.flatten(0, 1), push.flatten(0, 1)) for x in found.inputs)
        pushing = (torch.cat([push[..., j, :, None] * x for j in (0, 1)], -1) for x in found.errors)
        apart = key.shape[:2]
        return cls(
            at,
            found,
            tuple(slope),
            tuple(curve),
            tuple(x.unflatten(0, apart) for x in pushed),
            tuple(pushing),
        )

    def back(self, i: int, worth: Sequence[Tensor], asked: Sequence[Tensor]) -> list[Tensor]:
        """Return what the weights at which chunk ``i`` takes its gradients are worth.

        Args:
            i: the chunk.
            worth: of weights and momentum after it.
            asked: what those weights are worth elsewhere, which is added to.
        """
        total, at = list(asked), [x[:, i] for x in self.at]
        inputs, errors = ([x[:, i] for x in y] for y in (self.found.inputs, self.found.errors))
        of_error = [x[:, i].mT @ y.flatten(1, 2) for x, y in zip(self.pushed, worth, strict=True)]
        of_output = []
        for j, (slope, curve) in enumerate(zip(self.slope, self.curve, strict=True), 1):
            back = of_error[j - 1] * slope[:, i]
            of_output.append(of_error[j - 1] * curve[:, i])
            of_error[j] = torch.baddbmm(of_error[j], back, at[j])
            total[j] = torch.baddbmm(total[j], back.mT, errors[j])
        out = 2.0 * of_error[-1]
        for j in range(len(at) - 1, 0, -1):
            of_input = torch.bmm(self.pushing[j][:, i], worth[j].mT.flatten(1, 2))
            of_input = torch.baddbmm(of_input, out, at[j].mT)
            total[j] = torch.baddbmm(total[j], inputs[j].mT, out)
            out = torch.addcmul(of_output[j - 1], of_input, self.slope[j - 1][:, i])
        total[0] = torch.baddbmm(total[0], inputs[0].mT, out)
        return total
