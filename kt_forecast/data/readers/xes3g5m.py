"""XES3G5M as published: pyKT's fold tables in ``question_level`` and ``kc_level``."""

from pathlib import Path

from kt_forecast.data.readers import RawTable, pykt_folds
from kt_forecast.errors import InputError

NAME = "xes3g5m"
DESCRIPTION = "XES3G5M folder, with question_level (preferred) or kc_level in it"
LEVELS = ("question_level", "kc_level")


def matches(path: Path) -> bool:
    """Tell whether a level of the data set lies in the folder and holds fold tables."""
    return any(pykt_folds.matches(path / level) for level in LEVELS if (path / level).is_dir())


def read(path: Path) -> RawTable:
    """Translate the level whose rows are whole questions, or else the other.

    Raises:
        InputError: neither level is there.
    """
    for level in LEVELS:
        if (path / level).is_dir() and pykt_folds.matches(path / level):
            return pykt_folds.read(path / level)
    raise InputError(f"{path} holds no fold tables in {' or '.join(LEVELS)}; one is needed.")
