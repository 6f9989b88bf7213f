"""When is a cell of a table known, and when is a row of features needed?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


class PipelineError(ValueError):
    """A table, a contract and a function do not fit together."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The clock of a table: each row has a moment, and features are needed at it.

    At the moment of a row everything of earlier rows is known, and of rows that share the moment
    all but the answers. Answers (``target`` and ``answered``) are known just after it.

    Attributes:
        time: column that orders rows; numbers, dates or times.
        entity: column that says whose row it is: a student, a series.
        target: column to be predicted; without one, no value of a row is forbidden to it.
        answered: columns known only after the target: seconds taken, hints, attempts.
        known: columns known long in advance: a calendar, a price list. Name the time column too
            where later rows and their times are known to come.
        labels: columns of the result that may look ahead, for they are what is learnt.
        key: columns that identify a row, in the table and in the result; by default entity and
            time. A result without them is joined by its index (pandas) or position.
        released: column with the moment from which a row is known, where that is not ``time``.
        stamped: from a column to the column that says when its value was measured, as an as-of
            join leaves it; a stamp after the row's own time is a leak.
        split: column, or function of the table, that says in which split a row is: text, or
            booleans that are true for training rows. Then fitting on training rows is legal.
        train: labels of the splits that may be fitted on.
        bundles: whether rows of equal time happen together; if not, they happen as they stand.
        pooled: whether rows may read earlier rows of other entities; None leaves it open, and
            the report says where the verdict hinges on it.
    """

    time: str
    entity: str | None = None
    target: str | None = None
    answered: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    released: str | None = None
    stamped: Mapping[str, str] = field(default_factory=dict)
    split: str | Callable[[Any], Any] | None = None
    train: tuple[str, ...] = ("train",)
    bundles: bool = True
    pooled: bool | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that identify a row."""
        return self.key or tuple(c for c in (self.entity, self.time) if c)

    @property
    def answers(self) -> tuple[str, ...]:
        """Columns known only after the moment of their row."""
        return tuple(c for c in (self.target, *self.answered) if c)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Columns that no replacement touches."""
        split = self.split if isinstance(self.split, str) else None
        own = (self.time, self.entity, self.released, split, *self.stamped.values())
        return tuple(c for c in (*own, *self.key, *self.known) if c)

    def check(self, columns: tuple[str, ...], where: str) -> None:
        """Hold the contract against a table.

        Raises:
            PipelineError: a column that the contract names is not in the table.
        """
        named = (*self.fixed, *self.answers, *self.stamped)
        missing = sorted(set(named) - set(columns))
        if missing:
            raise PipelineError(
                f"the contract names {', '.join(missing)}, which {where} lacks; "
                f"its columns are {', '.join(columns)} (an index is no column: reset_index first)"
            )


rows = Rows
