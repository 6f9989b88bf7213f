"""What a training pass costs as sequences grow: seconds and peak memory, forward and backward.

Systems that promise a cost linear in the length stand beside exact attention. A pass holds one
sequence (or as many as are asked for), so that nothing but the length grows.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kt_forecast.audit.cost import Traffic, traffic
from kt_forecast.errors import InputError
from kt_forecast.nn.kernels import without_cudnn_attention
from kt_forecast.nn.system import auxiliary_loss
from kt_forecast.studies import words
from kt_forecast.studies.measuring import computed_in, last_slope, peak_bytes, slope, timed
from kt_forecast.studies.record import Chart, Row, Table, line
from kt_forecast.studies.study import Clock, Found, Say, Study
from kt_forecast.studies.systems import StudySettings

FEWEST = 2
"""Readings of a length, where as many as are asked for would pass the limit."""
STEEPEST = 1.1
"""The largest exponent that counts as linear."""
EXACT = "gpt"
COUNTED = ("peak_bytes", "operations", "moved_bytes")
"""What is the same in every run."""


class GrowthSettings(StudySettings):
    """Settings of the study of growth.

    Attributes:
        systems: what is measured; `EXACT` is the attention that they stand beside.
        lengths: steps of a sequence, ascending.
        batch: sequences of a pass.
        limit: seconds that all readings of a length may take. Where ``repeats`` of them would take
            more by what the lengths before took, they are fewer; a system stops at the first length
            at which even `FEWEST` would.
    """

    systems: tuple[str, ...] = (
        EXACT,
        "transformer_xl",
        "gtrxl",
        "compressive_transformer",
        "infini_transformer",
        "rmt",
        "retnet",
        "mamba",
        "mamba2",
        "titans",
        "ps_gtr",
    )
    width: int = Field(32, gt=0)
    layers: int = Field(1, gt=0)
    lengths: tuple[int, ...] = (2048, 4096, 8192)
    batch: int = Field(1, gt=0)
    limit: float = Field(5.0, gt=0.0)


def measure(settings: GrowthSettings, say: Say, clock: Clock) -> Iterator[Found]:
    """Measure every system at every length; yield what is known after each.

    Raises:
        InputError: a system or setting is unknown, or lengths do not ascend.
    """
    lengths = settings.lengths
    if len(lengths) < 2 or list(lengths) != sorted(set(lengths)):
        raise InputError(f"lengths are {list(lengths)}; accepted are two or more that ascend")
    for name in settings.systems:
        settings.system(name)
    rows: list[Row] = []
    for name in settings.systems:
        for row in _of_system(name, settings, clock):
            rows.append(row)
            say(
                f"{name}, {row['length']:,} steps: "
                + (
                    row["left_out"]
                    if row["left_out"]
                    else f"{words.seconds(row['seconds'])}, {words.size(row['peak_bytes'])}"
                )
            )
            yield shown(settings, rows)


def _of_system(name: str, settings: GrowthSettings, clock: Clock) -> Iterator[Row]:
    if clock.over():
        return
    mixer = settings.mixer(name).train()
    seen: list[tuple[int, float]] = []
    for length in settings.lengths:
        row = {"system": name, "length": length, "left_out": "", "seconds": math.nan}
        row |= {"low": math.nan, "high": math.nan, "repeats": 0, "peak_bytes": math.nan}
        row |= {"operations": math.nan, "moved_bytes": math.nan}
        if clock.over():
            return
        limit = min(settings.limit, clock.left())
        if seen and (1 + FEWEST) * expected(length, seen) > limit:
            clock.stopped |= limit < settings.limit
            yield row | {"left_out": "left out, by the limit of seconds"}
            return
        draw = torch.Generator().manual_seed(settings.seed)
        x = torch.randn(settings.batch, length, settings.width, generator=draw)
        x = x.to(settings.device).requires_grad_()

        def one_pass(x: Tensor = x) -> None:
            trained(mixer, x, settings)

        try:
            if not seen:
                one_pass()
            most, does = _weighed(one_pass, settings.device)
            row |= {"operations": does.launches, "moved_bytes": does.moved}
            timing = timed(
                one_pass,
                settings.device,
                repeats=settings.repeats,
                warm_up=0,
                least=FEWEST,
                within=limit,
            )
        except torch.OutOfMemoryError:
            yield row | {"left_out": "left out, for want of memory"}
            return
        seen.append((length, timing.seconds))
        yield row | timing.plain() | {"peak_bytes": most}


def _weighed(call: Callable[[], None], device: str) -> tuple[int, Traffic]:
    """Return the most bytes that a pass held, and what it did."""
    does: list[Traffic] = []
    most = peak_bytes(lambda: does.append(traffic(call)), device)
    return most, does[0]


def expected(length: int, seen: list[tuple[int, float]]) -> float:
    """Return the seconds of a pass by those of shorter ones; it grows linearly at the least."""
    x, y = zip(*seen, strict=True)
    exponent = max(1.0, last_slope(x, y)) if len(seen) > 1 else 1.0
    return float(y[-1] * (length / x[-1]) ** exponent)


@without_cudnn_attention()
def trained(mixer: Any, x: Tensor, settings: StudySettings) -> None:  # noqa: ANN401
    """Run a mixer forward and backward, as a step of training does."""
    with computed_in(settings.device, settings.precision):
        y, _ = mixer(x)
    loss = y.float().square().mean()
    added = auxiliary_loss(mixer, None)
    (loss if added is None else loss + added).backward()
    mixer.zero_grad(set_to_none=True)
    x.grad = None


def shown(settings: GrowthSettings, rows: list[Row]) -> Found:
    """Return exponents, tables and charts of what was measured."""
    series = {name: _measured(name, rows) for name in settings.systems}
    slopes: list[Row] = [
        {
            "system": name,
            "exponent": what,
            "over_all": slope(found["length"], found[by_]),
            "over_the_last": last_slope(found["length"], found[by_]),
            "longest": max(found["length"], default=0),
        }
        for name, found in series.items()
        for what, by_ in (("seconds", "low"), *((own, own) for own in COUNTED))
        if len(found["length"]) > 1
    ]
    by = {(one["system"], one["exponent"]): one for one in slopes}
    linear = [name for name in series if name != EXACT and (name, "seconds") in by]
    kept = [
        name
        for name in linear
        if all(by[name, what]["over_the_last"] <= STEEPEST for what in ("seconds", "peak_bytes"))
    ]
    steep = [name for name in linear if name not in kept]
    answers = [
        f"{len(kept)} of {len(linear)} systems that promise a cost linear in the length keep to an"
        f" exponent of at most {STEEPEST} in seconds and in peak memory, between the two longest"
        " lengths" + (f"; {words.listed(steep)} did not." if steep else ".")
    ]
    answers += [
        f"Of {name} the bytes that its operations move have an exponent of"
        f" {by[name, 'moved_bytes']['over_the_last']:.2f} between them, the operations one of"
        f" {by[name, 'operations']['over_the_last']:.2f}: where these are less than that of the"
        " seconds, the machine was idle at the shorter of the two, or busy with other work at the"
        " longer."
        for name in steep
    ]
    if (EXACT, "seconds") in by:
        exact = by[EXACT, "seconds"]
        answers.append(
            f"Exact attention: an exponent of {exact['over_all']:.2f} in seconds,"
            f" {exact['over_the_last']:.2f} between the two longest."
        )
    if linear:
        told = (
            f"{name} {by[name, 'seconds']['over_all']:.2f} and"
            f" {by[name, 'peak_bytes']['over_all']:.2f}"
            for name in linear
        )
        answers.append(
            f"Over all lengths their exponents in seconds and in memory are: {'; '.join(told)}."
        )
    fewer = [row for row in rows if 0 < row["repeats"] < settings.repeats]
    return Found(
        answers=tuple(answers),
        how=(
            f"Forward and backward of {settings.batch} sequence(s), {settings.layers} layer(s) of"
            f" width {settings.width}, in {settings.precision}; the median of"
            f" {settings.repeats} readings after the pass whose memory was read"
            + (
                f", or of fewer where the table says so, for {settings.limit:g} seconds are what a"
                " length may take."
                if fewer
                else "."
            ),
            "Operations are torch's own that compute, and moved are the bytes that they read and"
            " write: counted, the same in every run. Kernels of our own are not among them.",
            "Peak memory is what torch's allocator held at most beyond weights and input.",
            "Exponents are of the least reading, which others on the machine disturb least: least"
            " squares of logarithms over all lengths; beside them that between"
            " the two longest, which counts: what is short leaves a machine idle, and is kept for"
            " the backward pass where what is long is computed again.",
        ),
        tables=(_exponents(settings, by), _readings(settings, rows)),
        charts=tuple(
            Chart(
                name=what,
                title=title,
                caption="Lines of one slope grow alike; a linear cost climbs by the same factor"
                " as the length.",
                x="steps of a sequence",
                y=y,
                lines=tuple(
                    line(name=name, x=found["length"], y=[scale * v for v in found[what]])
                    for name, found in series.items()
                    if found["length"]
                ),
            )
            for what, title, y, scale in (
                ("seconds", "Time of a training pass", "seconds", 1.0),
                ("peak_bytes", "Peak memory of a training pass", "MiB", 2.0**-20),
            )
        ),
        rows=(*rows, *slopes),
    )


def _measured(name: str, rows: list[Row]) -> dict[str, list[int | float]]:
    own = [row for row in rows if row["system"] == name and not row["left_out"]]
    names = ("length", "seconds", "low", *COUNTED)
    return {what: [row[what] for row in own] for what in names}


def _exponents(settings: GrowthSettings, by: dict[tuple[str, str], Row]) -> Table:
    rows = []
    for name in settings.systems:
        if (name, "seconds") not in by:
            continue
        cells = [name, words.steps(by[name, "seconds"]["longest"])]
        for what in ("seconds", "moved_bytes", "peak_bytes"):
            one = by[name, what]
            cells += [words.number(one["over_all"]), words.number(one["over_the_last"])]
        rows.append(tuple(cells))
    end = "at the end"
    header = ("system", "longest", "seconds", end, "bytes moved", end, "peak memory", end)
    return Table(title="Exponents of growth", header=header, rows=tuple(rows))


def _readings(settings: GrowthSettings, rows: list[Row]) -> Table:
    by = {(row["system"], row["length"]): row for row in rows}
    found = []
    for name in settings.systems:
        cells = [name]
        for length in settings.lengths:
            row = by.get((name, length))
            told = row is not None and not row["left_out"]
            cells.append(
                f"{words.seconds(row['seconds'])}, {words.size(row['peak_bytes'])}"
                + (f" ({row['repeats']} readings)" if row["repeats"] < settings.repeats else "")
                if told and row is not None
                else words.ABSENT
            )
        found.append(tuple(cells))
    header = ("system", *(words.steps(length) for length in settings.lengths))
    return Table(title="Seconds and peak memory", header=header, rows=tuple(found))


STUDY = Study(
    question="What do a training pass's time and memory cost as sequences grow?",
    settings=GrowthSettings,
    full={
        "width": 128,
        "layers": 2,
        "precision": "bf16",
        "lengths": (4096, 16384, 65536, 262144),
        "limit": 20.0,
        "own": {
            "rmt": {"segment": 512},
            "titans": {"chunk": 256},
            "compressive_transformer": {"segment": 240, "memory": 240, "compressed": 60},
        },
    },
    run=measure,
)
