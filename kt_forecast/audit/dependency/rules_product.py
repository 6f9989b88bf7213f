"""Products of matrices: a known zero keeps out what it multiplies."""

import torch
from torch import Tensor

from kt_forecast.audit.dependency.calls import Call, Result, rule
from kt_forecast.audit.dependency.labels import (
    NO,
    NONE,
    YES,
    Shadow,
    every,
    greatest,
    join,
    thin,
    top,
    unknown,
)
from kt_forecast.audit.dependency.rules_elementwise import decided
from kt_forecast.audit.dependency.rules_indexing import fixed

CHUNK = 2**23
"""Labels compared at once."""

LIMIT = 2**30
"""Labels compared in one product before its columns are joined; the result then covers more."""


def product(a: Tensor, b: Tensor, of_a: Shadow, of_b: Shadow) -> Tensor:
    """Return the labels of a batch of matrix products.

    Args:
        a: values, batch by row by inner.
        b: values, batch by inner by column.
        of_a: what is known of ``a``.
        of_b: what is known of ``b``.
    """
    zero_a, zero_b = _zeros(a, of_a), _zeros(b, of_b)
    rows = _reached(of_a.latest.mT, None if zero_b is None else zero_b.mT).mT
    columns = _reached(of_b.latest, zero_a)
    return torch.maximum(rows, columns)


def emptied(a: Tensor, b: Tensor, of_a: Shadow, of_b: Shadow) -> Tensor:
    """Return which numbers of a batch of matrix products are known to be zero.

    Such is a number whose every term has a factor known to be zero: a product of triangles is a
    triangle. Arguments as of `product`.
    """
    zero_a, zero_b = _zeros(a, of_a), _zeros(b, of_b)
    rows = NO if zero_a is None else zero_a.all(2, keepdim=True)
    columns = NO if zero_b is None else zero_b.all(1, keepdim=True)
    if zero_a is None or zero_b is None:
        return rows | columns
    if max(len(zero_a), len(zero_b)) * zero_a.shape[1] * zero_b.numel() // len(zero_b) > LIMIT:
        return rows | columns
    return (~zero_a).float() @ (~zero_b).float() == 0


def _zeros(x: Tensor, shadow: Shadow) -> Tensor | None:
    """Return where a factor is known to be zero; None where nowhere."""
    known = thin(shadow.known)
    if not bool(known.any()):
        return None
    zero = known & (x == 0)
    return _folded(zero) if bool(zero.any()) else None


def _folded(x: Tensor) -> Tensor:
    """Return a batch reduced to one entry where all its entries agree."""
    return x[:1] if len(x) > 1 and bool((x == x[:1]).all()) else x


def _reached(latest: Tensor, zero: Tensor | None) -> Tensor:
    """Return the greatest label that each row of one factor lets through from the other.

    Args:
        latest: labels of the other factor, batch by inner by column.
        zero: where the first factor is known to be zero, batch by row by inner.
    """
    if zero is None:
        return greatest(latest, [1])
    latest = thin(latest)
    if latest.shape[1] != zero.shape[2]:
        latest = latest.expand(-1, zero.shape[2], -1)
    latest = _folded(latest)
    if latest.shape[2] > 1 and bool((latest == latest[..., :1]).all()):
        latest = latest[..., :1]
    batch = max(len(zero), len(latest))
    work = batch * zero.shape[1] * zero.shape[2] * latest.shape[2]
    if work > LIMIT:
        latest = greatest(latest, [2])[..., :1]
        work = batch * zero.shape[1] * zero.shape[2]
    rows = zero.shape[1]
    step = max(1, rows * CHUNK // max(work, 1))
    return torch.cat(
        [
            torch.where(zero[:, i : i + step, :, None], NONE, latest[:, None]).amax(2)
            for i in range(0, rows, step)
        ],
        1,
    )


def _batched(x: Tensor, *, left: bool) -> Tensor:
    if x.ndim == 1:
        return x[None, None] if left else x[None, :, None]
    return x[None] if x.ndim == 2 else x


def _multiplied(call: Call, a: Tensor, b: Tensor) -> Shadow:
    if a.shape[-1] == 0:
        return Shadow(torch.tensor(NONE), YES)
    of_a, of_b = call.shadow(a), call.shadow(b)
    factors = (
        _batched(a, left=True),
        _batched(b, left=False),
        Shadow(_batched(of_a.latest, left=True), _batched(of_a.known, left=True)),
        Shadow(_batched(of_b.latest, left=False), _batched(of_b.known, left=False)),
    )
    labels, zero = product(*factors), emptied(*factors)
    batch = 1 if a.ndim < 3 and b.ndim < 3 else max(len(a), len(b))
    rows = a.shape[-2] if a.ndim > 1 else 1
    columns = b.shape[-1] if b.ndim > 1 else 1
    labels = labels.expand(batch, rows, columns).reshape(call.out.shape)
    if zero.ndim:
        zero = zero.expand(batch, rows, columns).reshape(call.out.shape)
    known = every(of_a.known, keep=False) & every(of_b.known, keep=False)
    return decided(Shadow(labels, known), zero)


@rule("mm", "bmm", "mv", "dot", "vdot")
def _product(call: Call) -> Result:
    return _multiplied(call, *call.args[:2])


@rule("addmm", "baddbmm", "addmv", "addbmm", "_addmm_activation")
def _added_product(call: Call) -> Result:
    """A mask that is added inside the product stays a mask."""
    x, a, b = call.args[:3]
    if call.name.__name__.rstrip("_") == "addbmm":
        return call.mixed()
    found = join(_multiplied(call, a, b), call.shadow(x))
    if call["beta"] != 1:
        return unknown(found.latest)
    masked = call.masked(x)
    call.hidden(masked)
    return decided(found, masked)


@rule("addr", "ger", "outer")
def _outer(call: Call) -> Result:
    *rest, a, b = call.args[:3] if call.name.__name__.startswith("addr") else call.args[:2]
    left, right = call.shadow(a), call.shadow(b)
    found = join(
        Shadow(left.latest[:, None], left.known[:, None]),
        Shadow(right.latest[None], right.known[None]),
    )
    return unknown(join(found, *(call.shadow(x) for x in rest)).latest)


@rule("_cdist_forward", "cdist", "_euclidean_dist")
def _distances(call: Call) -> Result:
    rows, columns = (greatest(call.shadow(x).latest, [-1]) for x in call.args[:2])
    return unknown(torch.maximum(rows, columns.mT))


@rule("linalg_solve_triangular")
def _solved(call: Call) -> Result:
    """Forward substitution: a row of the solution depends on the rows up to it."""
    a, b = call.args[:2]
    if call["upper"] or not call["left"]:
        return _of_matrices(call)
    of_a, of_b = call.shadow(a).latest, call.shadow(b).latest.contiguous()
    above = torch.ones(a.shape[-2:], dtype=torch.bool, device=a.device).triu(1)
    rows = greatest(of_a.masked_fill(above, NONE), [-1]).contiguous().cummax(-2).values
    return unknown(torch.maximum(rows, of_b.cummax(-2).values))


@rule("linalg_cholesky_ex", "linalg_inv_ex", "linalg_lu", "linalg_lu_factor_ex", "linalg_lu_solve")
@rule("linalg_matrix_exp", "linalg_householder_product", "linalg_qr", "linalg_eig")
@rule("linalg_eigvals", "linalg_ldl_factor_ex", "linalg_ldl_solve", "linalg_lstsq")
@rule("_linalg_det", "_linalg_eigh", "_linalg_slogdet", "_linalg_solve_ex", "_linalg_svd")
@rule("cholesky", "cholesky_inverse", "cholesky_solve", "geqrf", "ormqr", "lu_unpack")
@rule("triangular_solve", "linalg_pinv", "_cholesky_solve_helper")
def _of_matrices(call: Call) -> Result:
    """Every entry of a result depends on whole matrices, each of a batch on its own."""
    first = call.args[0]
    axes = first.ndim - 2
    if axes < 1:
        return call.mixed()
    found = torch.full([1] * axes, NONE, dtype=call.shadow(first).latest.dtype)
    for x in call.tensors:
        if x.ndim < axes:
            return None
        whole = greatest(call.shadow(x).latest, range(axes, x.ndim), keep=False)
        found = torch.maximum(found.to(x.device), whole)
    if any(out.shape[:axes] != found.shape for out in call.outs):
        return None
    shaped = [found.reshape([*found.shape, *([1] * (out.ndim - axes))]) for out in call.outs]
    return [unknown(x) for x in shaped]


@rule("_grouped_mm")
def _grouped(call: Call) -> Result:
    """Rows in groups, each group times a matrix of its own: which group is a matter of routing."""
    rows, matrices = call.args[:2]
    ends = call["offs"]
    if rows.ndim != 2 or matrices.ndim != 3 or ends is None:
        return None
    found = greatest(call.shadow(rows).latest, [1])
    least = top(call.shadow(matrices).latest)
    if not fixed(call, ends):
        least = max(least, top(call.shadow(ends).latest))
    bias = call["bias"]
    if bias is not None:
        least = max(least, top(call.shadow(bias).latest))
    return unknown(found.clamp(min=least).expand(call.out.shape))
