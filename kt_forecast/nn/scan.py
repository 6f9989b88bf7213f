"""Diagonal linear recurrences: selective state spaces, a chunk of steps at a time.

The state of a channel is a few numbers, each with a decay of its own. Written out for all steps it
would be many times the input, so only the states between chunks are kept, and those within a chunk
are formed again for the backward pass.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from kt_forecast.nn import kernels

CHUNK = 64
"""Steps whose states are written out at a time."""


def selective_scan(
    u: Float[Tensor, "batch time channel"],
    step: Float[Tensor, "batch time channel"],
    rate: Float[Tensor, "channel state"],
    write: Float[Tensor, "batch time state"],
    read: Float[Tensor, "batch time state"],
    start: Float[Tensor, "batch channel state"],
    *,
    exact: bool = False,
    chunk: int = CHUNK,
) -> tuple[Float[Tensor, "batch time channel"], Float[Tensor, "batch channel state"]]:
    """Return ``sum_n read_n h_n`` of every step and channel, and the last ``h``.

    ``h_t = exp(step_t rate) h_{t-1} + step_t write_t u_t``.

    Args:
        u: what enters.
        step: how long each step lasts, not negative; zero at padding, which then changes nothing.
        rate: how fast each number decays, negative.
        write: how much enters each number.
        read: how much of each number is read.
        start: the state before the first step.
        exact: let ``u`` be held constant for the length of a step (zero-order hold) instead of
            multiplying it by that length (Euler).
        chunk: steps whose states are written out at a time; changes cost, and results by rounding.
    """
    fast = None if exact else kernels.for_scan(u, rate.shape[1])
    if fast is not None:
        return fast(u, step, rate, write, read, start)
    dtype = torch.promote_types(u.dtype, torch.float32)
    given = (x.to(dtype) for x in (u, step, rate, write, read, start))
    with torch.autocast(u.device.type, enabled=False):
        y, last = _SelectiveScan.apply(*given, exact, chunk)  # type: ignore[no-untyped-call]
    return y, last


def scan(
    factor: Float[Tensor, "batch time *rest"],
    term: Float[Tensor, "batch time *rest"],
    start: Float[Tensor, " batch *rest"],
) -> Float[Tensor, "batch time *rest"]:
    """Return all ``h_t = factor_t h_{t-1} + term_t``; not differentiable.

    Where launching an operation is dear it takes few large ones, else it does the least work.
    """
    run = one_by_one if term.device.type == "cpu" else by_doubling
    return run(factor, term, start)


def one_by_one(factor: Tensor, term: Tensor, start: Tensor) -> Tensor:
    """Do `scan` step by step."""
    found = []
    for share, arrives in zip(factor.unbind(1), term.unbind(1), strict=True):
        start = torch.addcmul(arrives, share, start)
        found.append(start)
    return torch.stack(found, 1)


def by_doubling(factor: Tensor, term: Tensor, start: Tensor) -> Tensor:
    """Do `scan` by sums over twice as many steps each time."""
    factor, h = factor.clone(), term.clone()
    reach = 1
    while reach < h.shape[1]:
        h[:, reach:] += factor[:, reach:] * h[:, :-reach]
        factor[:, reach:] = factor[:, reach:] * factor[:, :-reach]
        reach *= 2
    return h.addcmul_(factor, start[:, None])


def _discrete(
    u: Tensor, step: Tensor, rate: Tensor, write: Tensor, *, exact: bool
) -> tuple[Tensor, Tensor]:
    """Return what is left of each number when a step arrives, and what enters it."""
    lasts = step[..., None] * rate
    weight = lasts.expm1() / rate if exact else step[..., None]
    return lasts.exp(), weight * u[..., None] * write[:, :, None]


class _SelectiveScan(torch.autograd.Function):
    """Keeps its inputs and the states between chunks."""

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - apply takes no keywords
        ctx: Any,  # noqa: ANN401
        u: Tensor,
        step: Tensor,
        rate: Tensor,
        write: Tensor,
        read: Tensor,
        start: Tensor,
        exact: bool,  # noqa: FBT001
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        pieces, starts, state = [], [], start
        parts = (x.split(chunk, 1) for x in (u, step, write, read))
        for u_, step_, write_, read_ in zip(*parts, strict=True):
            starts.append(state)
            h = scan(*_discrete(u_, step_, rate, write_, exact=exact), state)
            pieces.append((h @ read_[..., None])[..., 0])
            state = h[:, -1].clone()
        ctx.exact, ctx.chunk = exact, chunk
        ctx.save_for_backward(u, step, rate, write, read, torch.stack(starts))
        return torch.cat(pieces, 1), state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        u, step, rate, write, read, starts = ctx.saved_tensors
        parts = [x.split(ctx.chunk, 1) for x in (u, step, write, read, grad_y)]
        found: list[tuple[Tensor, ...]] = []
        grad_rate, arriving = torch.zeros_like(rate), grad_last
        for *inputs, read_, grad, start in reversed(list(zip(*parts, starts, strict=True))):
            with torch.enable_grad():
                u_, step_, write_, rate_ = (x.detach().requires_grad_() for x in (*inputs, rate))
                factor, term = _discrete(u_, step_, rate_, write_, exact=ctx.exact)
            h = scan(factor.detach(), term.detach(), start)
            # What a state is worth: what is read of it, and its share in the state after it.
            worth = grad[..., None] * read_[:, :, None]
            worth[:, -1] += arriving
            share = torch.cat([factor.detach()[:, 1:], torch.zeros_like(start)[:, None]], 1)
            worth = scan(share.flip(1), worth.flip(1), torch.zeros_like(start)).flip(1)
            arriving = factor.detach()[:, 0] * worth[:, 0]
            before = torch.cat([start[:, None], h[:, :-1]], 1)
            *grads, of_rate = torch.autograd.grad(
                (factor, term), (u_, step_, write_, rate_), (worth * before, worth)
            )
            grad_rate = grad_rate + of_rate
            found.append((*grads, (grad[:, :, None] @ h)[:, :, 0]))
        of_u, of_step, of_write, of_read = (torch.cat(x[::-1], 1) for x in zip(*found, strict=True))
        return of_u, of_step, grad_rate, of_write, of_read, arriving, None, None
