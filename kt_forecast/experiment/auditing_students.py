"""The data path and the scoring of a recipe of knowledge tracing, as the auditor can run them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from kt_forecast.audit import Report, Stage
from kt_forecast.audit.pipeline import Rows
from kt_forecast.data import tables as sources
from kt_forecast.data.interactions import Interactions
from kt_forecast.data.splits import Role, Split
from kt_forecast.evaluation import PROTOCOLS, coin_flip, evaluate
from kt_forecast.experiment import flow, tables
from kt_forecast.experiment.auditing import audit_fitted
from kt_forecast.experiment.auditing_parts import Path, Sizes, scored, worst
from kt_forecast.experiment.recipe import Recipe
from kt_forecast.nn.system import System
from kt_forecast.schema import ANSWER_EXTRAS, CONCEPTS, FOLD, RESPONSE, STUDENT, TIME
from kt_forecast.sequences.build import build_role
from kt_forecast.sequences.interactions import StudentSequences
from kt_forecast.tasks.knowledge_tracing import Tracer
from kt_forecast.tracer import Fitted, fit_plan
from kt_forecast.tracer.frames import named

PLACE, NUMBER, ROLE = "place", "number", "role"
SEPARATOR = "\x1f"
"""Joins concepts in the sample's text; no name holds it."""

ROLES = (Role.TRAIN, Role.VALID, Role.TEST)


@dataclass(frozen=True)
class Students:
    """A few students of a recipe's table, and what the recipe makes of any changed copy of it.

    Attributes:
        recipe: what is audited.
        frame: their rows, with the role and the place among the student's events.
        fitted: a model whose weights stay.
        split: of the whole table.
        bundled: whether equal times form bundles.
    """

    recipe: Recipe
    frame: pl.DataFrame
    fitted: Fitted
    split: Split
    bundled: bool

    def contract(self) -> Rows:
        """Return when a cell of the sample is known."""
        has_times = TIME in self.frame.columns
        extras = tuple(c for c in ANSWER_EXTRAS if c in self.frame.columns)
        return Rows(
            time=PLACE,
            entity=STUDENT,
            target=RESPONSE,
            answered=extras,
            key=(NUMBER, TIME) if has_times else (NUMBER,),
            split=ROLE,
            train=(Role.TRAIN.name,),
            bundles=has_times and self.bundled,
            pooled=False,
        )

    def features(self, train: pl.DataFrame, rest: pl.DataFrame) -> tuple[Any, Any, dict[str, Any]]:
        """Return what the recipe's flow makes of rows: features of both sides, and what it fits.

        The door, names to indices, sequences, counted facts and predictions are those of a run;
        the roles are the sample's own.
        """
        frame = pl.concat([train, rest])
        interactions, rows = self._through_the_door(frame)
        vocabulary, parts = rows.vocabulary, rows.parts
        fitted: dict[str, Any] = {
            "questions": set(vocabulary.questions),
            "concepts": set(vocabulary.concepts),
        }
        plan = self.fitted.plan
        fresh = None
        if isinstance(plan.part, System) and plan.tracing is not None:
            fresh = Tracer(plan.part, plan.settings, plan.tracing, vocabulary)  # type: ignore[arg-type]
            fresh.fit_statistics(parts[Role.TRAIN])
            fitted |= _statistics(fresh)
        found = pl.concat(
            [self._of_role(interactions, rows, role) for role in parts], how="vertical_relaxed"
        )
        source = pl.Series(NUMBER, interactions.source, dtype=pl.Int64)
        keys = frame.select(self.contract().key).with_columns(source.alias("_row"))
        joined = keys.join(found, left_on="_row", right_on="_row", how="inner").drop("_row")
        trains = joined[NUMBER].is_in(train[NUMBER].implode())
        return joined.filter(trains), joined.filter(~trains), fitted

    def _through_the_door(self, frame: pl.DataFrame) -> tuple[Interactions, flow.Rows]:
        apart = [PLACE, NUMBER, ROLE]
        interactions = sources.load(
            frame.drop(apart),
            name="sample",
            separator=SEPARATOR,
            repeats="keep",
            asking=True,
        )
        interactions = replace(interactions, bundled=self.bundled)
        assert interactions.source is not None  # noqa: S101 - it was asked for
        role = np.full(len(interactions), Role.UNUSED, dtype=np.uint8)
        code = frame[ROLE].replace_strict({r.name: int(r) for r in Role}, return_dtype=pl.UInt8)
        kept = interactions.source.is_not_null()
        role[interactions.source.filter(kept).to_numpy()] = code.filter(kept).to_numpy()
        roles = Split(pl.Series(ROLE, role), self.split.settings, interactions.data_hash)
        present = tuple(r for r in ROLES if (role == r).any())
        return interactions, flow.lay_out(self.recipe, interactions, roles, present)

    def _of_role(self, interactions: Interactions, rows: flow.Rows, role: Role) -> pl.DataFrame:
        sequences = rows.parts[role]
        own = build_role(interactions, self.fitted.vocabulary, rows.roles, role)
        columns: dict[str, Any] = {
            "_row": sequences.row.numpy().astype(np.int64),
            "question index": sequences.question.numpy().astype(np.float64),
            "concept indices": _sums(sequences),
            "event rank": sequences.event.numpy().astype(np.float64),
        }
        if sequences.seconds is not None:
            columns["seconds since"] = sequences.seconds.numpy()
        counted = sequences.scored.numpy()
        for name, (streamed, history, unit) in self._ways().items():
            p_correct = (
                self.fitted.stream(own)
                if streamed
                else self.fitted.predict(own, history=history, unit=unit)
            )
            columns[f"prediction, {name}"] = p_correct.astype(np.float32)
        return pl.DataFrame(columns).filter(pl.Series(counted))

    def _ways(self) -> dict[str, tuple[bool, int | None, Literal["steps", "rows"]]]:
        """Return how protocols look back, each way once, under the first protocol's name."""
        found: dict[Any, str] = {}
        for name in self.recipe.evaluation.protocols:
            rules = PROTOCOLS[name]
            way = (rules.streamed, rules.history or self.recipe.history, rules.unit)
            found.setdefault(way, name)
        return {name: way for way, name in found.items()}


def path_of(
    recipe: Recipe,
    sizes: Sizes,
    fitted: Fitted | None = None,
    stored: Any = None,  # noqa: ANN401
) -> Path:
    """Return the data path of a recipe on a few students, and what is exact about all of them.

    Args:
        recipe: of knowledge tracing.
        sizes: how much to look at.
        fitted: a trained model; else one is trained for an epoch on the sample.
        stored: the split's file of a stored run.
    """
    interactions = tables.load(recipe.data)
    rows = flow.prepare(recipe, interactions, stored)
    return path_on(recipe, rows, sizes, fitted)


def path_on(recipe: Recipe, rows: flow.Rows, sizes: Sizes, fitted: Fitted | None = None) -> Path:
    """Return the same for rows that are prepared."""
    recipe = recipe.changed({"coin_flip": False}, "audit")
    frame = _sample(rows, sizes, recipe.data.extras)
    if fitted is None:
        fitted = _quickly_fitted(recipe, rows, frame)
    sample = Students(recipe, frame, fitted, rows.roles, rows.interactions.bundled)
    return Path(
        sample.features,
        frame.drop("_row"),
        sample.contract(),
        stages=lambda: [*_split_stages(rows), *_scoring_stages(recipe, rows, fitted, sizes)],
        model=lambda: _model_report(fitted, rows),
        what=f"{frame[STUDENT].n_unique()} students, {len(frame)} of their answers",
    )


def _model_report(fitted: Fitted, rows: flow.Rows) -> Report:
    own = build_role(rows.interactions, fitted.vocabulary, rows.roles, Role.TRAIN)
    return audit_fitted(fitted, own)


def _sample(rows: flow.Rows, sizes: Sizes, extras: tuple[str, ...]) -> pl.DataFrame:
    """Return the rows of a few students of each role, around the border where they have several."""
    interactions, role = rows.interactions, rows.roles.role.to_numpy()
    student = interactions.frame[STUDENT].to_numpy()
    first = np.flatnonzero(np.diff(student, prepend=student[0] + 1) != 0)
    ends = np.append(first[1:], len(student))
    used = role != Role.UNUSED
    chosen: list[npt.NDArray[np.int64]] = []
    for wanted in ROLES:
        having = np.unique(np.searchsorted(first, np.flatnonzero(role == wanted), side="right") - 1)
        nearest = np.argsort(abs(ends[having] - first[having] - sizes.steps), kind="stable")
        for i in having[nearest[: sizes.entities]].tolist():
            place = np.arange(first[i], ends[i])[used[first[i] : ends[i]]]
            turns = np.append(np.flatnonzero(np.diff(role[place]) != 0), 0)
            low = max(0, min(int(turns[0]) - sizes.steps // 2, len(place) - sizes.steps))
            chosen.append(place[low : low + sizes.steps])
    place = np.unique(np.concatenate(chosen))
    names = [r.name for r in Role]
    few = replace(interactions, frame=interactions.frame[place.tolist()])
    frame = named(few).drop(FOLD, strict=False)
    unread = [c for c in ANSWER_EXTRAS if c in frame.columns and c not in extras]
    frame = frame.drop(unread).with_columns(
        pl.col(CONCEPTS).list.join(SEPARATOR),
        pl.Series(PLACE, _ranks(interactions, place)),
        pl.Series(NUMBER, np.arange(len(place), dtype=np.int64)),
        pl.Series(ROLE, [names[r] for r in role[place]]),
        pl.Series("_row", place),
    )
    return frame


def _ranks(interactions: Interactions, place: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the rank of each row's event among those of its student in the sample."""
    student = interactions.frame[STUDENT].to_numpy()[place]
    new = np.ones(len(place), dtype=bool)
    if TIME in interactions.frame.columns and interactions.bundled:
        time = interactions.frame[TIME].to_numpy()[place]
        new[1:] = (time[1:] != time[:-1]) | (student[1:] != student[:-1])
    rank = np.cumsum(new)
    first = np.ones(len(place), dtype=bool)
    first[1:] = student[1:] != student[:-1]
    return rank - np.maximum.accumulate(np.where(first, rank, 0))


def _quickly_fitted(recipe: Recipe, rows: flow.Rows, frame: pl.DataFrame) -> Fitted:
    """Return what the recipe trains, after an epoch on the sample's rows."""
    chosen, _ = flow.plans(recipe)
    if chosen.training is not None:
        chosen, _ = flow.plans(recipe.changed({"training": {"epochs": 1}}, "audit"))
    kept = np.full(len(rows.interactions), Role.UNUSED, dtype=np.uint8)
    place = frame["_row"].to_numpy()
    kept[place] = rows.roles.role.to_numpy()[place]
    roles = replace(rows.roles, role=pl.Series(ROLE, kept))
    present = tuple(r for r in ROLES if (kept == r).any())
    few = flow.lay_out(recipe, rows.interactions, roles, present)
    train = few.parts[Role.TRAIN]
    return fit_plan(chosen, train, few.parts.get(Role.VALID, train), few.vocabulary, device="cpu")


def _statistics(tracer: Tracer) -> dict[str, npt.NDArray[np.float64]]:
    buffers = dict(tracer.named_buffers())
    return {f"statistics {name}": value.double().numpy().ravel() for name, value in buffers.items()}


def _sums(sequences: StudentSequences) -> npt.NDArray[np.float64]:
    """Return one number for the concept set of each step."""
    concept = sequences.concept.numpy().astype(np.float64)
    total = np.append(0.0, np.cumsum(np.sqrt(concept + 2.0)))
    return np.diff(total[sequences.concept_start.numpy()]).round(6)


def _split_stages(rows: flow.Rows) -> Iterator[Stage]:
    """Compare the roles of all students."""
    student = rows.interactions.frame[STUDENT].to_numpy()
    role = rows.roles.role.to_numpy()
    whole = rows.roles.kind in {"students", "folds"}
    used = role != Role.UNUSED
    student, role = student[used], role[used]
    same = student[1:] == student[:-1]
    torn = same & ((role[1:] != role[:-1]) if whole else (role[1:] < role[:-1]))
    count = len(np.unique(student[1:][torn]))
    said = "have rows in two splits" if whole else "have a row of an earlier split after a later"
    detail = f"{count} of {len(np.unique(student))} students {said}"
    yield Stage("split: students", "found" if count else "passed", detail)


def _scoring_stages(
    recipe: Recipe, rows: flow.Rows, fitted: Fitted, sizes: Sizes
) -> Iterator[Stage]:
    """Score fair coins in place of the test answers: each once, and no better than a coin."""
    role = rows.roles.role.to_numpy()
    student = rows.interactions.frame[STUDENT].to_numpy()
    tested = np.unique(student[role == Role.TEST])
    if not len(tested):
        yield Stage("scoring: each once", "skipped", "no row is for testing")
        return
    kept = np.where(np.isin(student, tested[: sizes.flipped]), role, Role.UNUSED)
    roles = replace(rows.roles, role=pl.Series(ROLE, kept.astype(np.uint8)))
    test = build_role(rows.interactions, fitted.vocabulary, roles, Role.TEST)
    wanted = int((kept == Role.TEST).sum())
    flipped = coin_flip(test, recipe.seed)
    aucs = []
    for name in recipe.evaluation.protocols:
        scores = evaluate(fitted, flipped, name, resamples=200, seed=recipe.seed)
        seen = scores.predictions[scores.predictions.columns[0]]
        legal = PROTOCOLS[name]
        expected = scores.n_rows if legal.answers is not None else wanted
        if not legal.first_step:
            expected -= test.n_students if rows.roles.kind in {"students", "folds"} else 0
        yield scored(name, seen.n_unique(), len(seen), expected)
        if not legal.streamed:
            auc = scores.metrics["auc"]
            aucs.append((auc.value, auc.low, auc.high))
    yield worst(aucs)
