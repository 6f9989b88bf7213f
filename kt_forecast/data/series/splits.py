"""Up to which row each series trains, up to which it chooses, up to which it is scored once.

The rows of a role are targets; a context may reach back over a border, for the past is known.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter, ValidationError

from kt_forecast.config import Config
from kt_forecast.data.place import count
from kt_forecast.data.series.columns import moment
from kt_forecast.data.series.frequency import DAY, at, stamp_text, ticks
from kt_forecast.data.series.table import SeriesTable
from kt_forecast.errors import InputError

Ints = npt.NDArray[np.int64]

_ETT = re.compile(r"ett[hm]\d", re.IGNORECASE)
_MONTH_DAYS = 30
_ETT_MONTHS = (12, 4, 4)


class ByProtocol(Config):
    """The borders that results on long horizons are published with.

    The ETT family trains on twelve months of thirty days, validates on four and tests on four;
    what comes after is not used. Of any other table the first part trains, the last part tests,
    and what lies between validates.

    Attributes:
        borders: whose borders; by the table's name where it is ``auto``.
        train: share of rows that trains, rounded down.
        test: share of rows that tests, rounded down.
    """

    kind: Literal["ltsf"] = "ltsf"
    borders: Literal["auto", "ett", "shares"] = "auto"
    train: float = Field(0.7, gt=0.0, lt=1.0)
    test: float = Field(0.2, gt=0.0, lt=1.0)


class ByMoment(Config):
    """One moment for all series: what comes at or after it validates, or tests.

    Attributes:
        valid_from: first stamp that validates, as an ISO date or the integer itself.
        test_from: first stamp that tests.
        valid: share of the time that validates, where no moment is given.
        test: share of the time that tests, where no moment is given.
    """

    kind: Literal["time"] = "time"
    valid_from: int | str | None = None
    test_from: int | str | None = None
    valid: float = Field(0.1, ge=0.0, lt=1.0)
    test: float = Field(0.2, gt=0.0, lt=1.0)


class ByShare(Config):
    """The first part of each series trains, the last part tests, what lies between validates.

    Attributes:
        train: share of a series' rows that trains, rounded down.
        test: share of a series' rows that tests, rounded down.
    """

    kind: Literal["share"] = "share"
    train: float = Field(0.7, gt=0.0, lt=1.0)
    test: float = Field(0.2, gt=0.0, lt=1.0)


class ByLast(Config):
    """The last steps of each series test, those before validate.

    Attributes:
        test: steps that test; none where a model is not to be scored.
        valid: steps that validate.
    """

    kind: Literal["last"] = "last"
    test: int = Field(ge=0)
    valid: int = Field(0, ge=0)


AnySettings = ByProtocol | ByMoment | ByShare | ByLast
SeriesSplitSettings = Annotated[AnySettings, Field(discriminator="kind")]
_SETTINGS: TypeAdapter[AnySettings] = TypeAdapter(SeriesSplitSettings)


@dataclass(frozen=True)
class SeriesSplit:
    """Where the roles of each series end, in rows counted within the series.

    Attributes:
        train_end: rows up to here train.
        valid_end: rows from there up to here validate.
        test_end: rows from there up to here test; what follows is not used.
        settings: what made the split.
        data_hash: the table it belongs to.
        notes: what was found, one sentence each.
    """

    train_end: Ints
    valid_end: Ints
    test_end: Ints
    settings: AnySettings
    data_hash: str
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Kind of the split."""
        return self.settings.kind

    @property
    def split_hash(self) -> str:
        """SHA-256 of the borders."""
        borders = np.stack([self.train_end, self.valid_end, self.test_end])
        return hashlib.sha256(borders.tobytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write what made the split and its hashes as JSON, all or nothing."""
        plain = {
            "settings": self.settings.model_dump(),
            "data_hash": self.data_hash,
            "split_hash": self.split_hash,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
        part.replace(path)


def split(table: SeriesTable, settings: AnySettings) -> SeriesSplit:
    """Say where the roles of each series end.

    Args:
        table: the series; rows after the last value of a series have no role.
        settings: of the split.

    Raises:
        InputError: the table cannot be split so, or a role that was asked for stays empty.
    """
    length = observed(table)
    if isinstance(settings, ByProtocol):
        train, valid, test = _by_protocol(table, length, settings)
    elif isinstance(settings, ByMoment):
        train, valid, test = _by_moment(table, length, settings)
    elif isinstance(settings, ByShare):
        train, valid, test = _by_share(table, length, settings.train, settings.test)
    else:
        test = length
        valid = np.maximum(length - settings.test, 0)
        train = np.maximum(valid - settings.valid, 0)
    _refuse_empty(table, settings, train, valid, test)
    notes = []
    if untrained := int((train == 0).sum()):
        notes.append(
            f"{count(untrained, 'series has', 'series have')} no row before validation and test"
        )
    return SeriesSplit(train, valid, test, settings, table.data_hash, tuple(notes))


def load_split(path: Path, table: SeriesTable) -> SeriesSplit:
    """Read a split and lay it over the table it was made for.

    Raises:
        InputError: the file is no split, or it belongs to other series.
    """
    try:
        plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        settings = _SETTINGS.validate_python(plain["settings"])
        data_hash, split_hash = str(plain["data_hash"]), str(plain["split_hash"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(
            f"{path}: not a split of series ({str(error).splitlines()[0]}); accepted is a file that"
            " a split was saved to"
        ) from error
    if data_hash != table.data_hash:
        raise InputError(
            f"{path}: was made for other series (hash {data_hash}) than {table.name} (hash"
            f" {table.data_hash}); accepted is the table it was made for"
        )
    again = split(table, settings)
    if again.split_hash != split_hash:
        raise InputError(
            f"{path}: its settings no longer give the borders it was saved with; accepted is a"
            " split made anew"
        )
    return again


def observed(table: SeriesTable) -> Ints:
    """Return the rows of each series up to its last value."""
    length = table.length.copy()
    tail = np.isnan(table.y[table.start[1:] - 1])
    for series in np.flatnonzero(tail):
        values = table.y[table.start[series] : table.start[series + 1]]
        length[series] = int(np.flatnonzero(~np.isnan(values))[-1]) + 1
    # Series of one table end together: a column that ends before the others keeps its place.
    if table.aligned and not table.id_name:
        length[:] = length.max()
    return length


def _by_share(
    table: SeriesTable, length: Ints, train: float, test: float
) -> tuple[Ints, Ints, Ints]:
    if train + test > 1.0:
        raise InputError(
            f"{table.name}: train {train} and test {test} are more than the whole; accepted are"
            " shares with a sum up to 1"
        )
    n_train, n_test = (length * train).astype(np.int64), (length * test).astype(np.int64)
    return n_train, length - n_test, length


def _by_protocol(table: SeriesTable, length: Ints, settings: ByProtocol) -> tuple[Ints, Ints, Ints]:
    """Return the published borders.

    Raises:
        InputError: the table is too short for those of the ETT family, or has no steps in a day.
    """
    ett = settings.borders == "ett" or (settings.borders == "auto" and bool(_ETT.match(table.name)))
    if not ett:
        return _by_share(table, length, settings.train, settings.test)
    frequency = table.frequency
    if frequency.kind != "duration" or DAY % frequency.step:
        raise InputError(
            f"{table.name}: the borders of the ETT family count months of {_MONTH_DAYS} days, and"
            f" its frequency is {frequency.text!r}; accepted are borders = 'shares'"
        )
    month = _MONTH_DAYS * DAY // frequency.step
    train, valid, test = (int(end) * month for end in np.cumsum(_ETT_MONTHS))
    if (length < test).any():
        raise InputError(
            f"{table.name}: has {int(length.min())} rows, and the borders of the ETT family need"
            f" {test}; accepted are borders = 'shares'"
        )
    return np.full_like(length, train), np.full_like(length, valid), np.full_like(length, test)


def _by_moment(table: SeriesTable, length: Ints, settings: ByMoment) -> tuple[Ints, Ints, Ints]:
    """Cut all series at the same moments.

    Raises:
        InputError: rows have no stamps to be cut at, or the moments are in the wrong order.
    """
    if table.frequency.kind == "order":
        raise InputError(
            f"{table.name}: its rows are taken in their order, whatever their stamps say; accepted"
            " for it are splits by share, last and ltsf"
        )
    last = at(table.frequency, table.first, length - 1)
    low, high = int(table.first.min()), int(last.max())
    span = int(ticks(table.frequency, np.array([low]), np.array([high]))[0]) + 1
    test = _moment(table, settings.test_from, "test_from")
    if test is None:
        test = _after(table, low, int(span * (1 - settings.test)))
    valid = _moment(table, settings.valid_from, "valid_from")
    if valid is None:
        before = int(ticks(table.frequency, np.array([low]), np.array([test]))[0])
        valid = _after(table, low, min(before, int(span * (1 - settings.test - settings.valid))))
        valid = test if not settings.valid else valid
    if valid > test:
        raise InputError(
            f"{table.name}: validation would begin at {stamp_text(valid, table.stamp_type)}, after"
            f" test at {stamp_text(test, table.stamp_type)}; accepted is the other order"
        )
    return _before(table, valid, length), _before(table, test, length), length


def _after(table: SeriesTable, first: int, steps: int) -> int:
    return int(at(table.frequency, first, np.array([steps]))[0])


def _before(table: SeriesTable, stamp: int, length: Ints) -> Ints:
    """Return how many rows of each series have a stamp before this one."""
    cut = np.full(table.n_series, stamp)
    rows = ticks(table.frequency, table.first, cut)
    rows += at(table.frequency, table.first, rows) < cut
    return np.clip(rows, 0, length)


def _moment(table: SeriesTable, value: int | str | None, name: str) -> int | None:
    """Return a moment as a stamp of the table.

    Raises:
        InputError: it is none.
    """
    if value is None:
        return None
    dated = table.frequency.kind != "integer"
    found: int | None = None
    if dated and isinstance(value, str):
        found = moment(value)
    elif not dated:
        found = int(value) if str(value).lstrip("-").isdigit() else None
    if found is None:
        accepted = "an ISO date" if dated else "a whole number"
        raise InputError(f"{name}: {value!r} is no stamp of {table.name}; accepted is {accepted}")
    return found


def _refuse_empty(
    table: SeriesTable, settings: AnySettings, train: Ints, valid: Ints, test: Ints
) -> None:
    """Refuse a split that leaves nothing for a role.

    Raises:
        InputError: a role that was asked for has no row in any series.
    """
    wants_valid = bool(getattr(settings, "valid", True)) or bool(
        getattr(settings, "valid_from", None)
    )
    if isinstance(settings, ByShare | ByProtocol):
        wants_valid = settings.train + settings.test < 1.0
    wanted = {"training": True, "validation": wants_valid, "test": getattr(settings, "test", 1) > 0}
    sizes = {"training": train, "validation": valid - train, "test": test - valid}
    for role, size in sizes.items():
        if (size > 0).any() or not wanted[role]:
            continue
        shortest, longest = int(table.length.min()), int(table.length.max())
        rows = str(longest) if shortest == longest else f"{shortest} to {longest}"
        raise InputError(
            f"{table.name}: a split by {settings.kind} leaves no row for {role} in series of"
            f" {rows} rows; accepted are settings that leave some for each role"
        )
