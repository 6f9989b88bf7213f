"""SVG of a report: the map of outputs by inputs, and what both runs of a counterexample do."""

import math
from collections.abc import Callable, Sequence
from html import escape

from kt_forecast.audit.report import Course, Picture

SIDE = 480
"""Width of a map's cells together, in units of the drawing."""

LEFT, TOP, RIGHT = 62, 48, 22
"""Room for the labels of rows and columns."""

WIDTH, HEIGHT = 520, 190
"""Size of a plot."""

LABELS = 5
"""Labels along an axis, at most."""

DECADES = 6
"""Changes smaller than the largest by so many powers of ten are drawn palest."""


def heat_map(picture: Picture, *, told: bool, box: Picture | None = None) -> str:
    """Return a map of outputs by inputs with the frontier of what is legal.

    Args:
        picture: what moved what.
        told: whether each cell says its number when pointed at.
        box: a part of it to be marked.
    """
    rows, columns = len(picture.needed), len(picture.known)
    wide = SIDE / columns
    high = min(wide, SIDE / rows) if rows > columns else min(SIDE / rows, 2.0 * wide)
    height = high * rows
    largest = max((v for row in picture.measured for v in row if math.isfinite(v)), default=0.0)
    cells: list[str] = []
    for y, row in enumerate(picture.measured):
        legal = picture.legal(y)
        reached = _reached(picture, y)
        if reached > legal:
            cells.append(_cell(legal * wide, y * high, (reached - legal) * wide, high, "c-may"))
        for x, value in enumerate(row):
            if value > 0:
                late = x >= legal
                said = _said(picture, x, y, value) if told else ""
                depth = f" opacity='{_depth(value, largest):.2f}'"
                kind = "c-late" if late else "c-ok"
                cells.append(_cell(x * wide, y * high, wide, high, kind, depth, said))
    marked = _box(picture, box, wide, high) if box else ""
    frame = f"<rect class='frame' width='{SIDE}' height='{height:.1f}'/>"
    path = _frontier(picture, wide, high)
    said = f"outputs by inputs: {rows} by {columns}"
    return (
        f"<svg viewBox='0 0 {LEFT + SIDE + RIGHT} {TOP + height + 8:.1f}' role='img' "
        f"aria-label='{said}'>{_hatch()}"
        f"<text x='{LEFT + SIDE / 2}' y='19' text-anchor='middle'>input known at</text>"
        f"<text x='12' y='{TOP + height / 2:.1f}' text-anchor='middle' "
        f"transform='rotate(-90 12 {TOP + height / 2:.1f})'>output needed at</text>"
        f"<g transform='translate({LEFT} {TOP})'>{frame}{''.join(cells)}"
        f"<path class='frontier' d='{path}'/>{marked}"
        f"{_labels(picture.known, wide, across=True)}{_labels(picture.needed, high, across=False)}"
        "</g></svg>"
    )


def _reached(picture: Picture, row: int) -> int:
    reach = picture.reach[row]
    return 0 if reach is None else sum(known <= reach for known in picture.known)


def _cell(
    x: float, y: float, width: float, height: float, kind: str, more: str = "", said: str = ""
) -> str:
    place = f"x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}'"
    if not said:
        return f"<rect class='{kind}' {place}{more}/>"
    return f"<rect class='{kind}' {place}{more}><title>{escape(said)}</title></rect>"


def _said(picture: Picture, x: int, y: int, value: float) -> str:
    return (
        f"output needed at {picture.needed[y]} moves by {value:.3g} when the input known at "
        f"{picture.known[x]} is replaced"
    )


def _depth(value: float, largest: float) -> float:
    """Return how opaque a cell is, on a logarithmic scale."""
    share = 1.0 if not math.isfinite(value) or largest <= 0 else value / largest
    return min(1.0, max(0.25, 1.0 + math.log10(max(share, 1e-9)) / DECADES))


def _frontier(picture: Picture, wide: float, high: float) -> str:
    parts = []
    for y in range(len(picture.needed)):
        x = picture.legal(y) * wide
        parts.append(f"{'L' if y else 'M'}{x:.1f} {y * high:.1f}V{(y + 1) * high:.1f}")
    return "".join(parts)


def _box(picture: Picture, inner: Picture, wide: float, high: float) -> str:
    """Return the outline of where a smaller map lies in a larger one."""
    columns = [x for x, k in enumerate(picture.known) if k <= inner.known[-1]]
    first = max((x for x, k in enumerate(picture.known) if k <= inner.known[0]), default=0)
    rows = [y for y, n in enumerate(picture.needed) if n >= inner.needed[0]]
    last = min((y for y, n in enumerate(picture.needed) if n >= inner.needed[-1]), default=0)
    if not columns or not rows:
        return ""
    x, y = first * wide, rows[0] * high
    width, height = (columns[-1] + 1) * wide - x, (last + 1) * high - y
    return _cell(x, y, width, height, "box")


def _hatch() -> str:
    return (
        "<defs><pattern id='hatch' width='6' height='6' patternUnits='userSpaceOnUse' "
        "patternTransform='rotate(45)'><rect class='shade' width='6' height='6'/>"
        "<path class='hatch' d='M0 0V6'/></pattern></defs>"
    )


def _labels(moments: Sequence[int], size: float, *, across: bool) -> str:
    """Return some of the moments beside their rows or above their columns."""
    count = len(moments)
    steps = min(LABELS, count)
    places = sorted({round(i * (count - 1) / max(steps - 1, 1)) for i in range(steps)})
    found = []
    for i in places:
        middle = (i + 0.5) * size
        where = f"x='{middle:.1f}' y='-6' text-anchor='middle'"
        if not across:
            where = f"x='-6' y='{middle + 5:.1f}' text-anchor='end'"
        found.append(f"<text {where}>{moments[i]}</text>")
    return "".join(found)


def plot(course: Course, cut: int | None, span: tuple[int, int]) -> str:
    """Return both runs of one input or output along time.

    Args:
        course: the values.
        cut: the moment after which everything was replaced, and up to which nothing may move; None
            where a counterexample has none.
        span: first and last moment of the drawing, so that two of them can be held together.
    """
    values = [v for line in (course.before, course.after) for v in line if math.isfinite(v)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high == low:
        low, high = low - 0.5, high + 0.5
    left, right, top, bottom = 58.0, WIDTH - 10.0, 8.0, HEIGHT - 28.0
    wide = (right - left) / max(span[1] - span[0], 1)

    def across(moment: float) -> float:
        return left + (moment - span[0]) * wide

    def up(value: float) -> float:
        value = value if math.isfinite(value) else high
        return bottom - (value - low) / (high - low) * (bottom - top)

    parts = [_shaded(course, cut, across, (left, right, top, bottom))]
    parts.append(
        f"<rect x='{left}' y='{top}' width='{right - left}' height='{bottom - top}' "
        "fill='none' class='axis' stroke='var(--lines)'/>"
    )
    for kind, line in (("was", course.before), ("now", course.after)):
        points = " ".join(
            f"{across(float(m)):.1f},{up(v):.1f}" for m, v in zip(course.moments, line, strict=True)
        )
        parts.append(f"<polyline class='{kind}' points='{points}'/>")
    for m, a, b in zip(course.moments, course.before, course.after, strict=True):
        if a != b:
            place = f"cx='{across(float(m)):.1f}' cy='{up(b):.1f}'"
            parts.append(f"<circle class='now' {place} r='4'/>")
            if not course.input and (cut is None or m <= cut):
                parts.append(f"<circle class='spot' {place} r='9'/>")
    parts += [
        f"<text x='{left - 6}' y='{top + 12}' text-anchor='end'>{high:.3g}</text>",
        f"<text x='{left - 6}' y='{bottom}' text-anchor='end'>{low:.3g}</text>",
        f"<text x='{left}' y='{HEIGHT - 8}'>moment {span[0]}</text>",
        f"<text x='{right}' y='{HEIGHT - 8}' text-anchor='end'>{span[1]}</text>",
    ]
    said = f"{course.name} in both runs, moments {span[0]} to {span[1]}"
    return (
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{escape(said, quote=True)}'>"
        f"{''.join(parts)}</svg>"
    )


def _shaded(
    course: Course,
    cut: int | None,
    across: Callable[[float], float],
    frame: tuple[float, float, float, float],
) -> str:
    """Return the ground on which an input was replaced, or an output may not move."""
    if cut is None:
        return ""
    left, right, top, bottom = frame
    at = min(max(across(cut + 0.5), left), right)
    start, stop = (at, right) if course.input else (left, at)
    kind = "shade" if course.input else "held"
    return (
        f"<rect class='{kind}' x='{start:.1f}' y='{top}' width='{max(stop - start, 0):.1f}' "
        f"height='{bottom - top}'/><path class='cut' d='M{at:.1f} {top}V{bottom}'/>"
    )
