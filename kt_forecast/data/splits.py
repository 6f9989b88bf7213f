"""Which rows train, which choose, which are scored once at the end.

A split is a role for every row. By students, a student has one role. By time or by fraction, a
student may have several, and then the earlier rows are the history of the later ones.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, TypeAdapter, ValidationError

from kt_forecast.config import Config
from kt_forecast.data.interactions import Interactions
from kt_forecast.errors import InputError
from kt_forecast.schema import FOLD, STUDENT, TEST_FOLD, TIME

Mask = npt.NDArray[np.bool_]
Roles = npt.NDArray[np.uint8]


class Role(IntEnum):
    """What a row is for; a later role sees the rows of earlier ones as history."""

    TRAIN = 0
    VALID = 1
    TEST = 2
    UNUSED = 3


class ByStudents(Config):
    """Whole students, drawn by seed.

    Attributes:
        seed: of the draw.
        valid: share of students that validate.
        test: share of students that test.
    """

    kind: Literal["students"] = "students"
    seed: int = 0
    valid: float = Field(0.1, ge=0.0, lt=1.0)
    test: float = Field(0.2, ge=0.0, lt=1.0)


class ByFolds(Config):
    """Published folds; where none were published, folds of students drawn by seed.

    Of published folds without test students, the fold after ``fold`` tests.

    Attributes:
        fold: the fold that validates.
        seed: of the draw, where none were published.
        n_folds: folds to draw.
        test: share of students that test, where none were published.
    """

    kind: Literal["folds"] = "folds"
    fold: int = Field(0, ge=0)
    seed: int = 0
    n_folds: int = Field(5, ge=2)
    test: float = Field(0.2, ge=0.0, lt=1.0)


class ByTime(Config):
    """One moment for all students: what comes at or after it tests.

    Attributes:
        cut: the moment, in the table's milliseconds or as an ISO date; by default the moment
            that leaves ``test`` of the rows after it.
        valid: share of the rows before the cut, the latest ones, that validate.
        test: share of rows that test where no moment is given.
    """

    kind: Literal["time"] = "time"
    cut: int | str | None = None
    valid: float = Field(0.1, ge=0.0, lt=1.0)
    test: float = Field(0.2, gt=0.0, lt=1.0)


class ByFraction(Config):
    """The first part of every student trains, the rest tests.

    Attributes:
        train: share of a student's steps that trains.
        valid: share of a student's steps, after these, that validates.
    """

    kind: Literal["fraction"] = "fraction"
    train: float = Field(0.7, gt=0.0, lt=1.0)
    valid: float = Field(0.1, ge=0.0, lt=1.0)


SplitSettings = Annotated[ByStudents | ByFolds | ByTime | ByFraction, Field(discriminator="kind")]
_SETTINGS: TypeAdapter[ByStudents | ByFolds | ByTime | ByFraction] = TypeAdapter(SplitSettings)
_WHOLE_STUDENTS = (ByStudents, ByFolds)


@dataclass(frozen=True)
class Split:
    """A role for every row of one table.

    Attributes:
        role: `Role` of each row, UInt8.
        settings: what made it.
        data_hash: the table it belongs to.
    """

    role: pl.Series
    settings: ByStudents | ByFolds | ByTime | ByFraction
    data_hash: str

    @property
    def kind(self) -> str:
        """Return the kind of split."""
        return self.settings.kind

    @property
    def role_hash(self) -> str:
        """Return the SHA-256 of the roles."""
        return hashlib.sha256(self.role.to_numpy().tobytes()).hexdigest()

    def scored(self, role: Role) -> Mask:
        """Return which rows have the role: those that a loss or a metric counts."""
        return self.role.to_numpy() == role

    def visible(self, role: Role) -> Mask:
        """Return the rows that may enter sequences of the role: its own and their history."""
        if isinstance(self.settings, _WHOLE_STUDENTS):
            return self.scored(role)
        return self.role.to_numpy() <= role

    def save(self, path: Path) -> None:
        """Write what made the split and its hashes as JSON, all or nothing."""
        plain = {
            "settings": self.settings.model_dump(),
            "data_hash": self.data_hash,
            "role_hash": self.role_hash,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
        part.replace(path)


def split(
    interactions: Interactions, settings: ByStudents | ByFolds | ByTime | ByFraction
) -> Split:
    """Give every row a role.

    Raises:
        InputError: the table cannot be split so, or a role that was asked for stays empty.
    """
    if isinstance(settings, ByStudents):
        role = _by_students(interactions, settings)
    elif isinstance(settings, ByFolds):
        role = _by_folds(interactions, settings)
    elif isinstance(settings, ByTime):
        role = _by_time(interactions, settings)
    else:
        role = _by_fraction(interactions, settings)
    return checked(interactions, settings, role)


def checked(
    interactions: Interactions,
    settings: ByStudents | ByFolds | ByTime | ByFraction,
    role: Roles,
) -> Split:
    """Return the split if it keeps its promises.

    Raises:
        InputError: no row trains, or a student has two roles where students are kept whole.
    """
    if not (role == Role.TRAIN).any():
        raise InputError(
            f"{interactions.name}: a split by {settings.kind} with {settings.model_dump()} leaves"
            " no row for training; accepted are settings that leave one"
        )
    if isinstance(settings, _WHOLE_STUDENTS):
        student = interactions.frame[STUDENT].to_numpy()
        torn = (student[1:] == student[:-1]) & (role[1:] != role[:-1])
        if torn.any():
            row = int(torn.argmax()) + 1
            raise InputError(
                f"{interactions.name}: student {interactions.students[int(student[row])]!r} is"
                f" in {Role(int(role[row - 1])).name.lower()} and"
                f" {Role(int(role[row])).name.lower()}; accepted is one role a student"
            )
    return Split(pl.Series("role", role, dtype=pl.UInt8), settings, interactions.data_hash)


def load_split(path: Path, interactions: Interactions) -> Split:
    """Read a split and lay it over the table it was made for.

    Raises:
        InputError: the file is no split, or it belongs to other data.
    """
    try:
        plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        settings = _SETTINGS.validate_python(plain["settings"])
        data_hash, role_hash = str(plain["data_hash"]), str(plain["role_hash"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(
            f"{path}: not a split ({str(error).splitlines()[0]}); accepted is a file that a split"
            " was saved to"
        ) from error
    if data_hash != interactions.data_hash:
        raise InputError(
            f"{path}: was made for other data (hash {data_hash}) than {interactions.name}"
            f" (hash {interactions.data_hash}); accepted is the table it was made for"
        )
    again = split(interactions, settings)
    if again.role_hash != role_hash:
        raise InputError(
            f"{path}: its settings no longer give the roles it was saved with; accepted is a"
            " split made anew"
        )
    return again


def _by_students(interactions: Interactions, settings: ByStudents) -> Roles:
    return _drawn(interactions, settings.seed, settings.valid, settings.test)


def _drawn(interactions: Interactions, seed: int, valid: float, test: float) -> Roles:
    """Draw whole students for validation and test.

    Raises:
        InputError: there are too few students for a role that was asked for.
    """
    count = len(interactions.students)
    n_valid, n_test = round(count * valid), round(count * test)
    if (valid and not n_valid) or (test and not n_test) or n_valid + n_test >= count:
        raise InputError(
            f"{interactions.name}: {count} students are too few for shares of {valid} and {test};"
            " accepted are shares of one student or more that leave one for training"
        )
    order = np.random.default_rng(seed).permutation(count)
    role = np.full(count, Role.TRAIN, dtype=np.uint8)
    role[order[:n_test]] = Role.TEST
    role[order[n_test : n_test + n_valid]] = Role.VALID
    return role[interactions.frame[STUDENT].to_numpy()]


def _by_folds(interactions: Interactions, settings: ByFolds) -> Roles:
    if FOLD in interactions.frame.columns:
        return _published(interactions, settings)
    if settings.fold >= settings.n_folds:
        raise InputError(
            f"fold {settings.fold} of {settings.n_folds} does not exist; accepted are folds from"
            f" 0 to {settings.n_folds - 1}"
        )
    count = len(interactions.students)
    n_test = round(count * settings.test)
    if (settings.test and not n_test) or count - n_test < settings.n_folds:
        raise InputError(
            f"{interactions.name}: {count} students are too few for {settings.n_folds} folds and"
            f" a test share of {settings.test}; accepted are fewer folds"
        )
    order = np.random.default_rng(settings.seed).permutation(count)
    role = np.full(count, Role.TRAIN, dtype=np.uint8)
    role[order[:n_test]] = Role.TEST
    role[order[n_test:][settings.fold :: settings.n_folds]] = Role.VALID
    return role[interactions.frame[STUDENT].to_numpy()]


def _published(interactions: Interactions, settings: ByFolds) -> Roles:
    """Translate the published folds.

    Raises:
        InputError: the fold that should validate was not published.
    """
    fold = interactions.frame[FOLD].to_numpy()
    known = [int(value) for value in np.unique(fold) if value != TEST_FOLD]
    if settings.fold not in known:
        raise InputError(
            f"{interactions.name}: has no fold {settings.fold}; accepted are"
            f" {', '.join(map(str, known)) or 'none: all its students are for test'}"
        )
    following = known[(known.index(settings.fold) + 1) % len(known)]
    test = TEST_FOLD if (fold == TEST_FOLD).any() else following
    role = np.full(len(fold), Role.TRAIN, dtype=np.uint8)
    role[fold == test] = Role.TEST
    role[fold == settings.fold] = Role.VALID
    return role


def _by_time(interactions: Interactions, settings: ByTime) -> Roles:
    """Cut all students at one moment.

    Raises:
        InputError: the table has no times, or nothing lies after the moment.
    """
    if TIME not in interactions.frame.columns:
        raise InputError(
            f"{interactions.name}: has no {TIME} column; accepted for it are splits by students,"
            " folds or fraction"
        )
    time = interactions.frame[TIME].to_numpy()
    cut = _quantile(time, 1 - settings.test) if settings.cut is None else _moment(settings.cut)
    role = np.full(len(time), Role.TRAIN, dtype=np.uint8)
    role[time >= cut] = Role.TEST
    if not (role == Role.TEST).any():
        raise InputError(
            f"{interactions.name}: no row lies at or after the cut {settings.cut}; its times run"
            f" from {time.min()} to {time.max()}"
        )
    before = time[time < cut]
    if settings.valid and len(before):
        role[(time >= _quantile(before, 1 - settings.valid)) & (time < cut)] = Role.VALID
    return role


def _quantile(time: npt.NDArray[np.int64], share: float) -> int:
    """Return the time that ``share`` of the rows lie before; equal times stay together."""
    place = min(int(len(time) * share), len(time) - 1)
    return int(np.partition(time, place)[place])


def _moment(cut: int | str) -> int:
    """Return a moment in milliseconds.

    Raises:
        InputError: the text is no date.
    """
    if isinstance(cut, int):
        return cut
    try:
        moment = datetime.fromisoformat(cut)
    except ValueError as error:
        raise InputError(
            f"cut: {cut!r} is no moment; accepted are milliseconds and ISO dates"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def _by_fraction(interactions: Interactions, settings: ByFraction) -> Roles:
    """Cut every student's own history; a bundle stays on one side.

    Raises:
        InputError: nothing is left to test.
    """
    if settings.train + settings.valid >= 1.0:
        raise InputError(
            f"train {settings.train} and valid {settings.valid} leave nothing to test; accepted"
            " are shares with a sum below 1"
        )
    frame = interactions.frame
    student = frame[STUDENT].to_numpy()
    place = np.arange(len(student))
    new = np.ones(len(student), dtype=np.bool_)
    new[1:] = student[1:] != student[:-1]
    first = np.maximum.accumulate(np.where(new, place, 0))
    steps = np.bincount(student)[student]
    if TIME in frame.columns and interactions.bundled:
        time = frame[TIME].to_numpy()
        new[1:] |= time[1:] != time[:-1]
    event = np.maximum.accumulate(np.where(new, place, 0))
    done = (event - first) / steps
    role = np.full(len(student), Role.TEST, dtype=np.uint8)
    role[done < settings.train + settings.valid] = Role.VALID
    role[done < settings.train] = Role.TRAIN
    return role
