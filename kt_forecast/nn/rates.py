"""Between rates: tokens made of the latest steps, and read by the steps that follow.

Token j is made when step ``j * stride`` arrives, of that step and those before it, and is read from
that step on: step t reads token ``floor(t / stride)``. So no token is read before all that it is
made of is known, and none later than need be.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kt_forecast.nn.streams import Span


def latest(
    x: Float[Tensor, "batch time width"],
    kept: Float[Tensor, "batch kept width"],
    span: Span,
    stride: int,
) -> tuple[
    Float[Tensor, "batch token reach width"],
    Bool[Tensor, "batch token reach"],
    Float[Tensor, "batch kept width"],
]:
    """Return, for every token, the steps that it is made of.

    Args:
        x: steps of a segment.
        kept: the steps before them, one fewer than a token is made of.
        span: where the steps stand.
        stride: steps between two tokens.

    Returns:
        Each token's steps, oldest first; which of them there were (those before a sequence's
        beginning are zero); and what to keep for the next segment.
    """
    batch, back, width = kept.shape
    joined = torch.cat([kept, x], 1)
    tokens = span.shortened(stride).length
    begin = (-span.before % stride)[:, None] + stride * torch.arange(tokens, device=x.device)
    place = begin[..., None] + torch.arange(back + 1, device=x.device)
    there = span.before[:, None, None] + place >= back
    place = place.clamp_max(joined.shape[1] - 1)
    made_of = joined.gather(1, place.flatten(1)[..., None].expand(-1, -1, width))
    return made_of.reshape(batch, tokens, back + 1, width), there, trailing(joined, back, span)


def trailing(
    joined: Float[Tensor, "batch both width"], kept: int, span: Span
) -> Float[Tensor, "batch kept width"]:
    """Return the latest steps of each row.

    Args:
        joined: what was kept, and then the steps of a segment.
        kept: how many steps to keep, and how many were.
        span: where the steps stand.
    """
    if span.whole:
        # A copy, for a view would keep all that was joined.
        return joined[:, joined.shape[1] - kept :].clone()
    place = span.count[:, None] + torch.arange(kept, device=joined.device)
    return joined.gather(1, place[..., None].expand(-1, -1, joined.shape[2]))


def held(
    tokens: Float[Tensor, "batch token size"],
    last: Float[Tensor, "batch size"],
    span: Span,
    stride: int,
) -> tuple[Float[Tensor, "batch time size"], Float[Tensor, "batch size"]]:
    """Return the newest token that each step may read.

    Args:
        tokens: what came of the tokens made in this segment.
        last: what came of the one before them.
        span: where the steps stand.
        stride: steps between two tokens.

    Returns:
        One token a step, and the newest one of the segment's end.
    """
    made = span.shortened(stride)
    joined = torch.cat([last[:, None], tokens], 1)
    place = span.position // stride - made.before[:, None] + 1
    place = place.clamp_max(joined.shape[1] - 1)
    read = joined.gather(1, place[..., None].expand(-1, -1, tokens.shape[2]))
    newest = joined.gather(1, made.count[:, None, None].expand(-1, 1, tokens.shape[2]))
    return read, newest[:, 0]
