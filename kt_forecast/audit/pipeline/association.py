"""Columns that know the answer: one column alone tells the target of held-out rows."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kt_forecast.audit.pipeline.frames import Array, plain
from kt_forecast.audit.pipeline.world import MAIN, Mask, Side, World

EXACT = 0.999
STRONG = 0.95
"""Area under the curve, or share of variance beyond the target's own past, on held-out rows."""
ENOUGH = 20
"""Held-out rows of each kind needed to judge."""
LEVELS = 64
"""Groups that a column of many numbers is cut into."""
LAGS = 4
"""Earlier targets whose information a column must exceed."""


@dataclass(frozen=True)
class Association:
    """How well one column alone tells the target of held-out rows."""

    column: str
    score: float
    measure: str


def associations(world: World) -> tuple[list[Association], str]:
    """Score every column that is not declared as an answer.

    Returns:
        The columns with at least a strong association, and why none could be judged.
    """
    side = world[MAIN]
    target = plain(side.frame.values(side.contract.target or ""))
    if target.dtype == object:
        return [], "the target is text"
    held_out = _held_out(side)
    levels = np.unique(target[np.isfinite(target)])
    binary = len(levels) == 2
    if binary and min((target[held_out] == v).sum() for v in levels) < ENOUGH:
        return [], "too few held-out rows of one answer"
    if not binary and held_out.sum() < ENOUGH:
        return [], "too few held-out rows"
    return list(_scored(side, target, held_out, binary=binary)), ""


def _scored(side: Side, target: Array, held_out: Mask, *, binary: bool) -> Iterator[Association]:
    contract = side.contract
    apart = {*contract.answers, *contract.fixed, *contract.labels}
    past = None if binary else _past(side, target)
    if past is not None and _repeats(side, target):
        return
    for name in side.frame.names:
        if name in apart:
            continue
        values = plain(side.frame.values(name))
        if past is not None:
            score, measure = _beyond_past(values, target, past, held_out), "variance explained"
        else:
            score, measure = _area(values, target == target.max(), held_out), "area under the curve"
        if score >= STRONG:
            yield Association(name, score, measure)


def _held_out(side: Side) -> Mask:
    """Return the later half of the rows, or those that are not for training."""
    if side.training.any():
        return side.testing
    return np.asarray(side.needed > np.median(side.needed))


def _groups(values: Array) -> Array:
    """Return a number for each group of equal or, of many numbers, neighbouring values."""
    if values.dtype == object:
        return np.unique(values.astype(str), return_inverse=True)[1]
    found = np.unique(values[np.isfinite(values)])
    if len(found) > LEVELS:
        found = np.unique(np.quantile(values[np.isfinite(values)], np.linspace(0, 1, LEVELS + 1)))
    codes = np.searchsorted(found, np.nan_to_num(values, nan=np.inf))
    return np.where(np.isnan(values), len(found) + 1, codes)


def _area(values: Array, positive: Mask, held_out: Mask) -> float:
    """Return the area under the curve of the group means learnt on the other rows."""
    groups = _groups(values)
    total = np.bincount(groups[~held_out], minlength=groups.max() + 1)
    right = np.bincount(groups[~held_out], positive[~held_out], minlength=groups.max() + 1)
    overall = positive[~held_out].mean()
    grouped = _ranked((right + overall) / (total + 1), groups, positive, held_out)
    if values.dtype == object:
        return grouped
    plainly = _rank_area(np.nan_to_num(values)[held_out], positive[held_out])
    return max(grouped, plainly, 1 - plainly)


def _ranked(mean: Array, groups: Array, positive: Mask, held_out: Mask) -> float:
    return _rank_area(mean[groups[held_out]], positive[held_out])


def _rank_area(score: Array, positive: Mask) -> float:
    order = np.unique(score, return_inverse=True, return_counts=True)
    middle = np.cumsum(order[2]) - (order[2] - 1) / 2
    ranks = middle[order[1]]
    n, m = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def _past(side: Side, target: Array) -> Array:
    """Return the last targets of each row's entity, oldest last, with a constant."""
    past = np.full((len(target), LAGS + 1), np.nan)
    past[:, 0] = 1.0
    for entity in np.unique(side.entity):
        own = np.flatnonzero(side.entity == entity)
        own = own[np.argsort(side.needed[own], kind="stable")]
        for lag in range(1, LAGS + 1):
            past[own[lag:], lag] = target[own[:-lag]]
    return past


def _repeats(side: Side, target: Array) -> bool:
    """Say whether the target is a pattern over and over, which an honest lag tells exactly."""
    own = np.flatnonzero(side.entity == np.bincount(side.entity).argmax())
    y = target[own[np.argsort(side.needed[own], kind="stable")]]
    return any(np.allclose(y[lag:], y[:-lag], equal_nan=True) for lag in range(1, len(y) // 2))


def _beyond_past(values: Array, target: Array, past: Array, held_out: Mask) -> float:
    """Return the share of what the past leaves open that a column tells."""
    if values.dtype == object:
        return 0.0
    whole = np.isfinite(values) & np.isfinite(target) & np.isfinite(past).all(axis=1)
    learn, hold = whole & ~held_out, whole & held_out
    if min(learn.sum(), hold.sum()) < ENOUGH:
        return 0.0
    without = _left_over(past, target, learn, hold)
    if without <= 1e-6 * float(np.var(target[hold])):
        return 0.0
    return 1.0 - _left_over(np.column_stack([past, values]), target, learn, hold) / without


def _left_over(x: Array, y: Array, learn: Mask, hold: Mask) -> float:
    weights = np.linalg.lstsq(x[learn], y[learn], rcond=None)[0]
    return float(np.mean((y[hold] - x[hold] @ weights) ** 2))
