"""What one more step costs after a history: milliseconds, operations, and bytes of the state.

The state after a history is what streaming the history in segments leaves. Exact attention keeps a
cache that grows; its keys and values are repeated to the length asked for, which changes no cost.

Operations and the bytes that they move are counted, and so the same in every run; milliseconds are
read after one history and the other in turn, so that a machine's drift does not look like growth.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kt_forecast.audit.cost import traffic
from kt_forecast.errors import InputError
from kt_forecast.studies import words
from kt_forecast.studies.measuring import computed_in, interleaved, slope
from kt_forecast.studies.record import Chart, Row, Table, line
from kt_forecast.studies.study import Clock, Found, Say, Study
from kt_forecast.studies.systems import StudySettings, bytes_of

CACHED = "gpt"
READ = "attention_read"
"""The least that any cached attention does in a step: read every key and value once."""
NEAR = 1.05
"""A step after the longest history may take so much more than after the shortest."""


class LatencySettings(StudySettings):
    """Settings of the study of steps.

    Attributes:
        systems: what is measured; `CACHED` keeps all keys and values.
        histories: steps before the step, ascending.
        batches: students of a step.
        segment: steps that are streamed at a time.
        checked: steps over which the stream is compared with one pass.
        most_cached: bytes of a cache that are still tried.
    """

    systems: tuple[str, ...] = (
        CACHED,
        "transformer_xl",
        "compressive_transformer",
        "infini_transformer",
        "rmt",
        "retnet",
        "mamba",
        "mamba2",
        "titans",
    )
    histories: tuple[int, ...] = (1024, 4096, 16384)
    batches: tuple[int, ...] = (1, 64)
    segment: int = Field(2048, gt=0)
    checked: int = Field(1024, gt=0)
    most_cached: float = Field(2.0**30, gt=0)
    repeats: int = Field(15, ge=5)
    width: int = Field(64, gt=0)


@dataclass(frozen=True)
class Past:
    """A state, and the steps it has seen."""

    length: int
    state: Any


def measure(settings: LatencySettings, say: Say, clock: Clock) -> Iterator[Found]:
    """Measure a step of every system after every history; yield what is known after each.

    Raises:
        InputError: a system or setting is unknown, or histories do not ascend.
    """
    histories = settings.histories
    if len(histories) < 2 or list(histories) != sorted(set(histories)):
        raise InputError(f"histories are {list(histories)}; accepted are two or more that ascend")
    rows: list[Row] = []
    for name in settings.systems:
        settings.system(name)
    for name in settings.systems:
        if clock.over():
            return
        mixer = settings.mixer(name).eval()
        gap = difference(mixer, settings)
        pasts = [*_reached(mixer, settings, clock)]
        for batch in settings.batches:
            found = _steps(name, mixer, pasts, batch, settings, gap)
            if not found:
                continue
            rows += found
            own = [row for row in found if row["system"] == name]
            told = (f"{words.seconds(row['seconds'])} after {row['history']:,}" for row in own)
            say(f"{name}, batch {batch}: {', '.join(told)} steps")
            yield shown(settings, rows)


def _reached(mixer: Any, settings: LatencySettings, clock: Clock) -> Iterator[Past]:  # noqa: ANN401
    """Yield the state after each history that is reached before the clock is over."""
    past = Past(0, mixer.init_state(1))
    for history in settings.histories:
        if clock.over():
            return
        past = grown(mixer, past, history, settings, clock)
        if past.length < history:
            return
        yield past


@torch.no_grad()
def difference(mixer: Any, settings: LatencySettings) -> float:  # noqa: ANN401
    """Return the largest gap between a stream in segments and one pass over the same steps."""
    x = _input(settings.checked, settings, seed=settings.seed + 1)
    whole, _ = mixer(x)
    state, parts = mixer.init_state(1), []
    for piece in x.split(max(1, settings.checked // 7), 1):
        part, state = mixer(piece, state)
        parts.append(part)
    return float((torch.cat(parts, 1) - whole).abs().max())


@torch.no_grad()
def grown(
    mixer: Any,  # noqa: ANN401
    past: Past,
    history: int,
    settings: LatencySettings,
    clock: Clock,
) -> Past:
    """Return the state after ``history`` steps, of which those of ``past`` are behind it.

    Steps of the same few thousand numbers are streamed again and again: no state knows. What is
    returned has seen fewer when the clock was over before.
    """
    x = _input(settings.segment, settings, seed=settings.seed)
    length, state = past.length, past.state
    with computed_in(settings.device, settings.precision):
        if cache_of(state) is not None and length:
            return Past(history, repeated(state, history))
        while length < history and not clock.over():
            piece = x[:, : min(settings.segment, history - length)]
            _, state = mixer(piece, state)
            length += piece.shape[1]
    return Past(length, state)


def cache_of(state: Any) -> Any:  # noqa: ANN401
    """Return the first cache of exact attention in a state; None where there is none."""
    layers = getattr(state, "layers", ())
    return (
        layers[0]
        if layers and hasattr(layers[0], "keys") and hasattr(layers[0], "length")
        else None
    )


def repeated(state: Any, history: int) -> Any:  # noqa: ANN401
    """Return the state of exact attention after ``history`` steps, its keys and values repeated."""

    def longer(x: Tensor) -> Tensor:
        times = -(-history // x.shape[2])
        return x.repeat(1, 1, times, 1)[:, :, :history].contiguous()

    layers = tuple(
        replace(
            cache,
            keys=longer(cache.keys),
            values=longer(cache.values),
            length=torch.full_like(cache.length, history),
            position=torch.full_like(cache.position, history),
        )
        for cache in state.layers
    )
    return replace(state, layers=layers)


@torch.no_grad()
def _steps(
    name: str,
    mixer: Any,  # noqa: ANN401
    pasts: Sequence[Past],
    batch: int,
    settings: LatencySettings,
    gap: float,
) -> list[Row]:
    """Return what a step costs for so many students after each history, read in turn."""
    x = _input(1, settings, seed=settings.seed + 2).expand(batch, -1, -1).contiguous()
    calls, rows = [], []
    for past in pasts:
        cached = cache_of(past.state) is not None
        if cached and batch * bytes_of(past.state) > settings.most_cached:
            continue
        state = past.state.map(lambda t: t.expand(batch, *t.shape[1:]).contiguous())
        shared = {"history": past.length, "batch": batch, "state_bytes": bytes_of(state)}
        pairs = [(name, gap, partial(_step, mixer, x, state, settings))]
        if cached:
            pairs.append((READ, 0.0, partial(_read, state)))
        for system, difference, call in pairs:
            calls.append(call)
            rows.append({"system": system, **shared, "difference": difference} | _counted(call))
    timings = interleaved(calls, settings.device, repeats=settings.repeats)
    return [row | timing.plain() for row, timing in zip(rows, timings, strict=True)]


def _step(mixer: Any, x: Tensor, state: Any, settings: LatencySettings) -> None:  # noqa: ANN401
    with computed_in(settings.device, settings.precision):
        mixer(x, state)


def _read(state: Any) -> None:  # noqa: ANN401
    for layer in state.layers:
        query = torch.ones_like(layer.keys[:, :, :1])
        torch.nn.functional.scaled_dot_product_attention(query, layer.keys, layer.values)


def _counted(call: Callable[[], object]) -> dict[str, int]:
    """Return how many operations a call launches, and the bytes that they move."""
    call()
    found = traffic(call)
    return {"operations": found.launches, "moved_bytes": found.moved}


def _input(steps: int, settings: LatencySettings, *, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1, steps, settings.width, generator=draw).to(settings.device)


def shown(settings: LatencySettings, rows: list[Row]) -> Found:
    """Return ratios, tables and charts of what was measured."""
    kept = [*dict.fromkeys(row["system"] for row in rows)]
    batches = [*dict.fromkeys(row["batch"] for row in rows)]
    summary = [_summed(name, batch, rows) for name in kept for batch in batches]
    summary = [one for one in summary if one]
    carried = [one for one in summary if one["system"] not in {CACHED, READ}]
    steady = [one for one in carried if one["state_ratio"] == 1.0]
    level = [one for one in carried if one["operations_ratio"] == one["moved_ratio"] == 1.0]
    near = [one for one in carried if one["time_ratio"] <= NEAR]
    answers = [
        f"In {len(steady)} of {len(carried)} cases (a system and a batch) the state is as large"
        f" after the longest history as after the shortest; in {len(level)} a step then launches"
        " as many operations and moves as many bytes, so that what its time differs by is the"
        f" machine's; in {len(near)} it takes at most {NEAR:.0%} of the time.",
        *(
            f"With a cache of keys and values and a batch of {one['batch']}, a step takes"
            f" {one['time_ratio']:.1f} times as long after {one['longest']:,} steps as after"
            f" {one['shortest']:,}, and its state {words.size(one['state_bytes'])}."
            for one in summary
            if one["system"] == CACHED
        ),
    ]
    return Found(
        answers=tuple(answers),
        how=(
            f"One step of {settings.layers} layer(s) of width {settings.width}, in"
            f" {settings.precision}; the median of {settings.repeats} readings of several steps"
            " each, after a warm-up, with the least and the most of them. Histories are read in"
            " turn, round after round, forwards and backwards.",
            "Operations are torch's own that compute, each of which a GPU is sent by itself, and"
            " moved are the bytes that they read and write: counted once, the same in every run."
            " Kernels of our own are not among them.",
            "The state after a history is what streaming it in segments leaves; students of a"
            " batch have equal histories. The cache of exact attention is repeated to its length.",
            f"{READ} is the least that any cached attention does: read every key and value once,"
            " from a cache that need not be copied.",
            f"Streams were compared with one pass over their first {settings.checked:,} steps.",
        ),
        tables=(
            _summary(summary),
            _work(summary),
            *(_readings(batch, settings, rows) for batch in batches),
        ),
        charts=tuple(
            _chart(what, batch, rows) for batch in batches for what in ("seconds", "state_bytes")
        ),
        rows=(*rows, *summary),
    )


def _of(name: str, batch: int, rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["system"] == name and row["batch"] == batch]


def _summed(name: str, batch: int, rows: list[Row]) -> Row:
    own = _of(name, batch, rows)
    if len(own) < 2:
        return {}
    x = [row["history"] for row in own]
    return {
        "system": name,
        "batch": batch,
        "shortest": x[0],
        "longest": x[-1],
        "time_ratio": own[-1]["seconds"] / own[0]["seconds"],
        "time_exponent": slope(x, [row["seconds"] for row in own]),
        "state_ratio": own[-1]["state_bytes"] / own[0]["state_bytes"],
        "operations": own[-1]["operations"],
        "operations_ratio": own[-1]["operations"] / own[0]["operations"],
        "moved_bytes": own[-1]["moved_bytes"],
        "moved_ratio": own[-1]["moved_bytes"] / own[0]["moved_bytes"],
        "state_bytes": own[-1]["state_bytes"],
        "difference": own[-1]["difference"],
    }


def _summary(summary: list[Row]) -> Table:
    return Table(
        title="A step after the longest history",
        header=("system", "batch", "history", "time, of the first", "state", "of the first", "gap"),
        rows=tuple(
            (
                one["system"],
                str(one["batch"]),
                words.steps(one["longest"]),
                words.times(one["time_ratio"]),
                words.size(one["state_bytes"]),
                words.times(one["state_ratio"]),
                f"{one['difference']:.1e}",
            )
            for one in summary
        ),
    )


def _work(summary: list[Row]) -> Table:
    return Table(
        title="What that step does",
        header=("system", "batch", "operations", "of the first", "bytes moved", "of the first"),
        rows=tuple(
            (
                one["system"],
                str(one["batch"]),
                words.steps(one["operations"]),
                words.times(one["operations_ratio"]),
                words.size(one["moved_bytes"]),
                words.times(one["moved_ratio"]),
            )
            for one in summary
        ),
    )


def _readings(batch: int, settings: LatencySettings, rows: list[Row]) -> Table:
    names = [*dict.fromkeys(row["system"] for row in rows)]
    found = []
    for name in names:
        by = {row["history"]: row for row in _of(name, batch, rows)}
        cells = (_spread(by[h]) if h in by else words.ABSENT for h in settings.histories)
        found.append((name, *cells))
    header = ("system", *(words.steps(history) for history in settings.histories))
    return Table(title=f"Time of a step, batch {batch}", header=header, rows=tuple(found))


def _spread(row: Row) -> str:
    return words.spread(row["seconds"], row["low"], row["high"])


def _chart(what: str, batch: int, rows: list[Row]) -> Chart:
    time = what == "seconds"
    names = [*dict.fromkeys(row["system"] for row in rows)]
    lines = []
    for name in names:
        own = _of(name, batch, rows)
        scale = 1e3 if time else 2.0**-10
        x = tuple(row["history"] for row in own)
        if own and (time or name != READ):
            shown = (what, "low", "high") if time else (what,)
            lines.append(line(name, x, *(tuple(scale * row[y] for row in own) for y in shown)))
    return Chart(
        name=f"{what}_{batch}",
        title=f"{'Time of a step' if time else 'State'}, batch {batch}",
        caption="What is level costs the same after any history.",
        x="steps before",
        y="milliseconds" if time else "KiB",
        lines=tuple(lines),
    )


STUDY = Study(
    question="What does one more step cost after a long history?",
    settings=LatencySettings,
    full={
        "width": 128,
        "histories": (1024, 4096, 16384, 65536, 262144, 1048576),
        "segment": 16384,
        "checked": 4096,
        "most_cached": 24 * 2.0**30,
        "repeats": 25,
    },
    run=measure,
)
