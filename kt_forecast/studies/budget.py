"""What Infini-attention's memory saves, and what the same numbers buy as a cache.

Its paper counts the compressive memory alone. What is stored besides is the open segment, whose
keys and values a step reads as well; both counts stand here. Then models are trained that store
equally much: Infini-attention, and attention that keeps the latest keys and values and forgets the
rest, by either count. Attention that forgets nothing stands beside them.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import Field

from kt_forecast.studies import words
from kt_forecast.studies.record import Chart, Row, Table, line
from kt_forecast.studies.study import Clock, Found, Say, Study
from kt_forecast.studies.systems import StudySettings, numbers_of

SYSTEM, CACHED = "infini_transformer", "gpt"
PAPER = 114
"""How many times smaller the paper says its memory is."""
METRICS = {"student": "AUC of students", "series": "Mean absolute error of series"}


class BudgetSettings(StudySettings):
    """Settings of the study of budgets.

    Attributes:
        histories: steps for which numbers are counted.
        heads_of: numbers of a head for which the paper's ratio is looked for.
        open_segment: steps of the open segment in that search; the published one.
        segment: steps of a segment of the models that are trained.
        tasks: ``student``: AUC; ``series``: mean absolute error.
        data: a data set of students, by its path or its name; else students are simulated.
        columns: our name of a column to that table's own.
        students: how many are simulated.
        mean_steps: of a simulated student.
        series: how many are simulated.
        days: of a simulated series, hourly.
        context: hours that a forecast looks back on.
        patch: hours in a token.
        epochs: of training.
        resamples: draws behind an interval.
        seeds: of training; the metrics of each are given.
    """

    width: int = Field(32, gt=0)
    histories: tuple[int, ...] = (256, 1024, 4096, 16384, 65536, 262144, 1048576)
    heads_of: tuple[int, ...] = (64, 128)
    open_segment: int = Field(2048, gt=0)
    segment: int = Field(16, gt=0)
    tasks: tuple[Literal["student", "series"], ...] = ("student", "series")
    data: str = ""
    columns: dict[str, str] = Field(default_factory=dict)
    students: int = Field(120, gt=20)
    mean_steps: float = Field(120.0, gt=1)
    series: int = Field(3, gt=0)
    days: int = Field(60, gt=14)
    context: int = Field(336, gt=0)
    patch: int = Field(8, gt=0)
    epochs: int = Field(3, gt=0)
    resamples: int = Field(200, gt=0)
    seeds: tuple[int, ...] = (0,)


def measure(settings: BudgetSettings, say: Say, clock: Clock) -> Iterator[Found]:
    """Count numbers, and train what stores equally many; yield what is known after each.

    Raises:
        InputError: a setting or the data cannot be used.
    """
    budget = stored(settings)
    say(
        f"a layer of {SYSTEM} stores {budget['memory']:,} numbers in its memory and"
        f" {budget['segment']:,} in its open segment"
    )
    rows: list[Row] = [
        {"counted": True, **_counted(settings, steps)} for steps in settings.histories
    ]
    yield shown(settings, budget, rows)
    for task in settings.tasks:
        for name, window in models(settings, budget):
            for seed in settings.seeds:
                if clock.over():
                    return
                scores = _trained(task, name, window, seed, settings)
                own = f"{name}, window {window}" if window else name
                rows.append({"counted": False, "task": task, "model": own, "seed": seed, **scores})
                say(f"{task}, {own}: {scores['metric']} {_said(scores)}")
                yield shown(settings, budget, rows)


def stored(settings: BudgetSettings) -> dict[str, int]:
    """Return how many numbers a layer stores: in its memory, and in its open segment."""
    size = settings.width // settings.heads
    memory = settings.heads * size * (size + 1)
    segment = settings.segment * 2 * settings.width
    return {"memory": memory, "segment": segment, "both": memory + segment}


def models(settings: BudgetSettings, budget: dict[str, int]) -> list[tuple[str, int | None]]:
    """Return what is trained: by name, and by the window that a step reads; None for all.

    A window counts the step itself, whose key and value need not have been kept.
    """
    step = 2 * settings.width
    return [
        (SYSTEM, None),
        (CACHED, budget["both"] // step + 1),
        (CACHED, budget["memory"] // step + 1),
        (CACHED, None),
    ]


@torch.no_grad()
def held(settings: BudgetSettings, name: str, steps: int, **own: Any) -> int:  # noqa: ANN401
    """Return how many numbers a state really holds after so many steps."""
    mixer = settings.mixer(name, **own).eval()
    draw = torch.Generator().manual_seed(settings.seed)
    x = torch.randn(1, steps, settings.width, generator=draw).to(settings.device)
    _, state = mixer(x, mixer.init_state(1))
    return numbers_of(state)


def _counted(settings: BudgetSettings, steps: int) -> Row:
    row: Row = {"steps": steps}
    for size in settings.heads_of:
        cache, memory = 2 * steps * size, size * (size + 1)
        row[f"without_{size}"] = cache / memory
        row[f"with_{size}"] = cache / (memory + 2 * settings.open_segment * size)
    return row


def reached(size: int, segment: int) -> int:
    """Return the steps from which a memory is as many times smaller as the paper says.

    Args:
        size: numbers of a head's key, and of its value.
        segment: steps of the open segment that are counted; 0 for the paper's count.
    """
    return -(-PAPER * (size + 1 + 2 * segment) // 2)


def _trained(task: str, name: str, window: int | None, seed: int, settings: BudgetSettings) -> Row:
    """Return the score of a model on held-out students, or on later hours of the series."""
    own: dict[str, Any] = {
        "width": settings.width,
        "layers": settings.layers,
        "heads": settings.heads,
        "dropout": 0.1,
    }
    own |= {"segment": settings.segment} if name == SYSTEM else {"window": window}
    own |= settings.own.get(name, {})
    if task == "student":
        return _traced(name, own, seed, settings)
    return _forecast(name, own, seed, settings)


def _traced(name: str, own: dict[str, Any], seed: int, settings: BudgetSettings) -> Row:
    """Train on students, with nothing counted beside what the model itself remembers."""
    from kt_forecast.data.simulate import Simulation, simulate
    from kt_forecast.data.splits import ByStudents, Role, split
    from kt_forecast.data.tables import load
    from kt_forecast.evaluation import evaluate
    from kt_forecast.sequences.build import build_role, fit_vocabulary
    from kt_forecast.tracer import fit_plan, plan

    table: Any = settings.data or simulate(
        Simulation(students=settings.students, mean_steps=settings.mean_steps, seed=settings.seed)
    )
    interactions = load(table, columns=settings.columns or None)
    roles = split(interactions, ByStudents(seed=settings.seed, valid=0.1, test=0.3))
    vocabulary = fit_vocabulary(interactions, roles)
    wanted = (Role.TRAIN, Role.VALID, Role.TEST)
    parts = {role: build_role(interactions, vocabulary, roles, role) for role in wanted}
    chosen = plan(
        name,
        own,
        {"scheme": "shifted", "counts": False, "neighbours": 0, "identity": 0},
        {"epochs": settings.epochs, "learning_rate": 3e-3, "precision": settings.precision},
        seed=seed,
    )
    fitted = fit_plan(
        chosen, parts[Role.TRAIN], parts[Role.VALID], vocabulary, device=settings.device
    )
    scores = evaluate(fitted, parts[Role.TEST], resamples=settings.resamples, seed=settings.seed)
    one = scores.metrics["auc"]
    return {"metric": "auc", "value": one.value, "low": one.low, "high": one.high}


def _forecast(name: str, own: dict[str, Any], seed: int, settings: BudgetSettings) -> Row:
    """Train on the first part of each series, and forecast the last."""
    from kt_forecast.data.series.simulate import SeriesSimulation, simulate
    from kt_forecast.forecaster import Forecaster

    table = simulate(
        SeriesSimulation(series=settings.series, days=settings.days, seed=settings.seed)
    )
    forecaster = Forecaster(
        name,
        horizon=24,
        context=settings.context,
        settings=own,
        forecasting={"patch": settings.patch},
        training={"epochs": settings.epochs, "precision": settings.precision},
        levels=(),
        seed=seed,
        device=settings.device,
    )
    hours = settings.days * 24
    forecaster.fit(table.select("unique_id", "ds", "y"), test_size=hours // 5)
    scores = forecaster.evaluate(baselines=(), resamples=settings.resamples)[name]
    one = scores.metrics["mae"]
    return {"metric": "mae", "value": one.value, "low": one.low, "high": one.high}


def shown(settings: BudgetSettings, budget: dict[str, int], rows: list[Row]) -> Found:
    """Return ratios, tables and charts of what was counted and scored."""
    counted = [row for row in rows if row["counted"]]
    scored = [row for row in rows if not row["counted"]]
    answers = [
        f"With heads of {size} numbers the memory alone is {PAPER} times smaller than a cache from"
        f" {reached(size, 0):,} steps on; with the open segment of {settings.open_segment:,} steps,"
        f" from {reached(size, settings.open_segment):,}."
        for size in settings.heads_of
    ]
    answers += [_compared(settings, task, scored) for task in settings.tasks]
    tables = [_ratios(settings, counted)]
    if scored:
        tables.append(_scores(settings, budget, scored))
    x = tuple(row["steps"] for row in counted)
    kinds = (("without", "the memory alone"), ("with", "with the open segment"))
    return Found(
        answers=tuple(filter(None, answers)),
        how=(
            "Numbers stored a layer: a cache keeps the keys and values of all steps; a memory keeps"
            " a matrix and a vector a head; the open segment its keys and values.",
            f"Trained models have {settings.layers} layer(s) of width {settings.width} and segments"
            f" of {settings.segment} steps: {budget['memory']:,} numbers of memory and"
            f" {budget['segment']:,} of the open segment a layer. A cache of as many numbers keeps"
            " the latest steps. With more layers than one a step reads further than one window.",
            f"Students are {settings.data or 'simulated'}; nothing is counted for the model beside"
            " its own state. Series are simulated. Seeds of training:"
            f" {words.listed(map(str, settings.seeds))}; intervals over students, or blocks of"
            " time, drawn with replacement.",
        ),
        tables=tuple(tables),
        charts=(
            Chart(
                name="ratio",
                title="How many times smaller than a cache",
                caption=f"The dashed line is the paper's {PAPER} times.",
                x="steps of the history",
                y="times smaller",
                level=float(PAPER),
                lines=tuple(
                    line(
                        name=f"heads of {size}, {said}",
                        x=x,
                        y=tuple(row[f"{kind}_{size}"] for row in counted),
                    )
                    for size in settings.heads_of
                    for kind, said in kinds
                ),
            ),
        ),
        rows=tuple(rows),
    )


def _compared(settings: BudgetSettings, task: str, scored: list[Row]) -> str:
    """Return what the memory earned beside a cache of as many numbers; nothing if unknown."""
    window = models(settings, stored(settings))[1][1]
    names = (SYSTEM, f"{CACHED}, window {window}", CACHED)
    first = [row for row in scored if row["seed"] == settings.seeds[0] and row["task"] == task]
    by = {row["model"]: row for row in first}
    if not all(name in by for name in names):
        return ""
    memory, cache, whole = (_said(by[name]) for name in names)
    return (
        f"{METRICS[task]}: {memory} with the memory, {cache} with a cache of as many numbers,"
        f" {whole} with a cache of all steps."
    )


def _said(row: Row) -> str:
    return f"{row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"


def _ratios(settings: BudgetSettings, counted: list[Row]) -> Table:
    names = [(kind, size) for size in settings.heads_of for kind in ("without", "with")]
    said = {"without": "memory alone", "with": "with the open segment"}
    return Table(
        title="How many times fewer numbers than a cache",
        header=("steps", *(f"heads of {size}, {said[kind]}" for kind, size in names)),
        rows=tuple(
            (
                words.steps(row["steps"]),
                *(words.times(row[f"{kind}_{size}"]) for kind, size in names),
            )
            for row in counted
        ),
    )


def _scores(settings: BudgetSettings, budget: dict[str, int], scored: list[Row]) -> Table:
    step = 2 * settings.width
    stored_by = {
        SYSTEM: f"{budget['both']:,}",
        **{
            f"{CACHED}, window {window}": f"{(window - 1) * step:,}"
            for _, window in models(settings, budget)
            if window
        },
        CACHED: "all steps",
    }
    kinds = list(dict.fromkeys((row["model"], row["seed"]) for row in scored))
    found = []
    for model, seed in kinds:
        cells = [model, str(seed), stored_by[model]]
        for task in settings.tasks:
            own = (model, seed, task)
            told = [r for r in scored if (r["model"], r["seed"], r["task"]) == own]
            cells.append(_said(told[0]) if told else words.ABSENT)
        found.append(tuple(cells))
    return Table(
        title="Scores at equal stored numbers",
        header=("model", "seed", "numbers a layer", *(METRICS[task] for task in settings.tasks)),
        rows=tuple(found),
    )


STUDY = Study(
    question="What does Infini-attention's memory save, and what would a cache of its size do?",
    settings=BudgetSettings,
    full={
        "width": 64,
        "segment": 16,
        "students": 1500,
        "mean_steps": 400.0,
        "series": 12,
        "days": 180,
        "context": 672,
        "patch": 8,
        "epochs": 12,
    },
    run=measure,
)
