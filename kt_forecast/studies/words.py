"""Figures as a study's tables print them."""

import math
from collections.abc import Iterable
from decimal import Decimal

ABSENT = "\N{EM DASH}"
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "\N{MICRO SIGN}s"))
SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))


def seconds(value: int | float) -> str:
    """Return a time in the unit that suits it."""
    if not math.isfinite(value):
        return ABSENT
    unit, name = next((pair for pair in UNITS if value >= pair[0]), UNITS[-1])
    return f"{value / unit:.3g} {name}"


def spread(value: float, low: float, high: float) -> str:
    """Return a time with the least and the most that were read, in its unit."""
    unit, name = next((pair for pair in UNITS if value >= pair[0]), UNITS[-1])
    return f"{value / unit:.3g} {name} [{low / unit:.3g}, {high / unit:.3g}]"


def size(value: int | float) -> str:
    """Return bytes in the unit that suits them."""
    if not math.isfinite(value):
        return ABSENT
    unit, name = next((pair for pair in SIZES if value >= pair[0]), SIZES[-1])
    return f"{value / unit:.4g} {name}"


def times(value: int | float) -> str:
    """Return a ratio: three digits that count, and none of them an exponent."""
    if not math.isfinite(value):
        return ABSENT
    exact = Decimal(f"{value:.3g}")
    return f"{exact:,f}\N{MULTIPLICATION SIGN}"


def number(value: int | float, digits: int = 2) -> str:
    """Return a figure with so many decimals."""
    return f"{value:.{digits}f}" if math.isfinite(value) else ABSENT


def steps(value: int) -> str:
    """Return a count of steps."""
    return f"{value:,}"


def listed(names: Iterable[str]) -> str:
    """Return names in a row, as a sentence lists them."""
    found = list(names)
    if len(found) < 2:
        return "".join(found) or "none"
    return f"{', '.join(found[:-1])} and {found[-1]}"
