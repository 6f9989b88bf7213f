"""Tables in, the same kind of table out."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from kt_forecast.data.interactions import Interactions
from kt_forecast.errors import InputError
from kt_forecast.schema import CONCEPTS, P_CORRECT, QUESTION, STUDENT

if TYPE_CHECKING:
    import pandas as pd


def named(interactions: Interactions) -> pl.DataFrame:
    """Return the interactions with names in place of codes."""
    frame = interactions.frame
    concepts = frame[CONCEPTS].list.eval(
        pl.element().replace_strict(
            pl.int_range(len(interactions.concepts), eager=True),
            interactions.concepts,
            return_dtype=pl.String,
        )
        if len(interactions.concepts)
        else pl.element().cast(pl.String)
    )
    return frame.with_columns(
        interactions.students.gather(frame[STUDENT]).alias(STUDENT),
        interactions.questions.gather(frame[QUESTION]).alias(QUESTION),
        concepts.alias(CONCEPTS),
    )


def for_rows(
    interactions: Interactions, p_correct: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the probability of every row of the table as it was read; nan where it was left out.

    Args:
        interactions: loaded with its ``source``.
        p_correct: one value for each row of the interactions.
    """
    if interactions.source is None:
        return p_correct
    source = interactions.source.fill_null(-1).to_numpy()
    return np.where(source >= 0, p_correct[source], np.nan)


def with_p_correct(
    table: "pl.DataFrame | pl.LazyFrame | pd.DataFrame | Interactions",
    interactions: Interactions,
    p_correct: npt.NDArray[np.float64],
) -> Any:  # noqa: ANN401
    """Return the table, of its own kind and in its own order, with the column of probabilities.

    Args:
        table: what the user gave.
        interactions: what it became, with its ``source``.
        p_correct: one value for each row of the interactions.
    """
    values = for_rows(interactions, p_correct)
    if isinstance(table, Interactions):
        return named(interactions).with_columns(pl.Series(P_CORRECT, values))
    if isinstance(table, pl.LazyFrame):
        return table.collect().with_columns(pl.Series(P_CORRECT, values)).lazy()
    if isinstance(table, pl.DataFrame):
        return table.with_columns(pl.Series(P_CORRECT, values))
    return table.assign(**{P_CORRECT: values})


def rows_of_student(interactions: Interactions, student: object) -> npt.NDArray[np.bool_]:
    """Return which rows are the student's.

    Raises:
        InputError: no row is.
    """
    code = interactions.students.index_of(str(student))
    found = interactions.frame[STUDENT].to_numpy() == (-1 if code is None else code)
    if not found.any():
        some = ", ".join(map(repr, interactions.students.head(3)))
        raise InputError(
            f"{interactions.name}: has no student {str(student)!r}; accepted are its students,"
            f" such as {some}"
        )
    return found
