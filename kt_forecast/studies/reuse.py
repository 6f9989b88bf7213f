"""What Transformer-XL's memory saves when a long stream is predicted step by step.

Its paper compares with a model that encodes a whole window again for each step, because absolute
positions leave it no choice. A model whose positions are relative can keep a window of keys and
values instead, and that is the comparison that counts; both stand here. That memory and encoding
again give the same values is shown before anything is timed.
"""

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor

from kt_forecast.studies import words
from kt_forecast.studies.measuring import Timing, computed_in, timed
from kt_forecast.studies.record import Chart, Row, Table, line
from kt_forecast.studies.study import Clock, Found, Say, Study
from kt_forecast.studies.systems import StudySettings

EQUAL = 1e-9
"""Values in float64 closer than this are the same."""
AGAIN, STEPS, WINDOWED = "encoded again", "memory, a step at a time", "cached window"


class ReuseSettings(StudySettings):
    """Settings of the study of reuse.

    Attributes:
        windows: steps that a step reads in each layer.
        segments: steps that are read at a time from the memory.
        rows: how many windows are encoded at a time; the best of these counts.
        checked: steps at which both ways are compared.
    """

    windows: tuple[int, ...] = (128, 256, 512)
    segments: tuple[int, ...] = (64, 128)
    rows: tuple[int, ...] = (1, 8)
    checked: int = Field(5, gt=0)


def measure(settings: ReuseSettings, say: Say, clock: Clock) -> Iterator[Found]:
    """Measure every window; yield what is known after each.

    Raises:
        InputError: a setting cannot be used.
        RuntimeError: memory and encoding again give different values.
    """
    rows: list[Row] = []
    for window in settings.windows:
        if clock.over():
            return
        gap = equal(min(window, 64), settings)
        if gap > EQUAL:
            raise RuntimeError(f"memory and encoding again differ by {gap}")
        rows.append(_timed(window, settings) | {"difference": gap})
        one = rows[-1]
        say(
            f"window {window:,}: a step takes {words.seconds(one['again'])} encoded again and"
            f" {words.seconds(one['segments'])} from memory,"
            f" {words.times(one['against_again'])}"
        )
        yield shown(settings, rows)


@torch.no_grad()
def equal(window: int, settings: ReuseSettings) -> float:
    """Return the largest gap, in float64, between memory and encoding again all that is read.

    With more layers than one a step reads further than one window: through the steps it reads.
    """
    gaps = []
    for layers in {1, settings.layers}:
        sizes = {"window": window, "segment": max(1, window // 2), "layers": layers}
        stream = settings.mixer("transformer_xl", **sizes).double().eval()
        reach = layers * (window - 1) + 1
        length = 2 * reach + settings.checked
        draw = torch.Generator().manual_seed(settings.seed)
        x = torch.randn(1, length, settings.width, generator=draw, dtype=torch.float64)
        x = x.to(settings.device)
        state, parts = stream.init_state(1), []
        for piece in x.split(max(1, window // 3), 1):
            y, state = stream(piece, state)
            parts.append(y)
        remembered = torch.cat(parts, 1)
        for step in range(length - settings.checked, length):
            again, _ = stream(x[:, step - reach + 1 : step + 1])
            gaps.append(float((again[:, -1] - remembered[:, step]).abs().max()))
    return max(gaps)


@torch.no_grad()
def _timed(window: int, settings: ReuseSettings) -> Row:
    """Return seconds of a step in every way of reading it."""
    memory = settings.mixer("transformer_xl", window=window, segment=min(window, 128)).eval()
    whole = settings.mixer("transformer_xl", window=window, segment=window).eval()
    cached = settings.mixer("gpt", window=window).eval()
    draw = torch.Generator().manual_seed(settings.seed)
    longest = max(settings.segments)
    stream = torch.randn(1, window + longest, settings.width, generator=draw)
    stream = stream.to(settings.device)
    _, after = memory(stream[:, :window], memory.init_state(1))
    _, held = cached(stream[:, :window], cached.init_state(1))

    def read(mixer: torch.nn.Module, x: Tensor, state: object, steps: int) -> Timing:
        def call() -> None:
            with computed_in(settings.device, settings.precision):
                mixer(x, state)

        inner = 4 if x.shape[1] == 1 and state is not None else 1
        found = timed(call, settings.device, repeats=settings.repeats, inner=inner, warm_up=2)
        return Timing(found.seconds / steps, found.low / steps, found.high / steps, found.repeats)

    again = {}
    for rows in settings.rows:
        try:
            x = stream[:, :window].expand(rows, -1, -1).contiguous()
            again[rows] = read(whole, x, None, rows)
        except torch.OutOfMemoryError:
            break
    best = min(again, key=lambda rows: again[rows].seconds)
    row: Row = {
        "window": window,
        "rows": best,
        "repeats": again[best].repeats,
        "again": again[best].seconds,
        "again_low": again[best].low,
        "again_high": again[best].high,
        "ratio_of_products": expected(window, settings.width),
    }
    row["step"] = read(memory, stream[:, window : window + 1], after, 1).seconds
    row["window_step"] = read(cached, stream[:, window : window + 1], held, 1).seconds
    best_segment = {}
    for segment in settings.segments:
        x = stream[:, window : window + segment]
        best_segment[segment] = read(memory, x, after, segment)
        row[f"segment_{segment}"] = best_segment[segment].seconds
        row[f"window_segment_{segment}"] = read(cached, x, held, segment).seconds
    row["segments"] = min(one.seconds for one in best_segment.values())
    row["window_segments"] = min(row[f"window_segment_{one}"] for one in settings.segments)
    row["against_again"] = row["again"] / row["segments"]
    row["steps_against_again"] = row["again"] / row["step"]
    row["against_window"] = row["window_segments"] / row["segments"]
    row["steps_against_window"] = row["window_step"] / row["step"]
    return row


def expected(window: int, width: int) -> float:
    """Return how many times the multiplications of a step from memory encoding again needs."""
    return window * (12 * width + window) / (12 * width + 2 * window)


def shown(settings: ReuseSettings, rows: list[Row]) -> Found:
    """Return ratios, tables and charts of what was measured."""
    last = rows[-1]
    x = tuple(row["window"] for row in rows)
    answers = (
        f"Against encoding a window of {last['window']:,} again for each step, memory is"
        f" {words.times(last['against_again'])} as fast in segments and"
        f" {words.times(last['steps_against_again'])} step by step.",
        "Against attention that keeps its window of keys and values it is"
        f" {words.times(last['against_window'])} as fast in segments and"
        f" {words.times(last['steps_against_window'])} step by step: what is saved is saved by"
        " keeping, whoever keeps.",
    )
    return Found(
        answers=answers,
        how=(
            "Equal weights in both ways of Transformer-XL; memory and encoding again all that a"
            f" step reads agree to {max(row['difference'] for row in rows):.1e} in float64, with"
            f" one layer and with {settings.layers}.",
            "As in the paper one window is encoded again, which with more layers than one is less"
            " than a step from memory reads: the comparison favours encoding again.",
            f"Encoded again in batches of {list(settings.rows)} windows, the fastest of which"
            " counts; the stream from memory is one student alone.",
            f"Width {settings.width}, {settings.layers} layer(s), {settings.precision}; the median"
            f" of {settings.repeats} readings after a warm-up.",
        ),
        tables=(
            Table(
                title="Time of a step",
                header=(
                    "window",
                    AGAIN,
                    STEPS,
                    *(f"memory, {segment} at a time" for segment in settings.segments),
                    f"{WINDOWED}, a step at a time",
                    *(f"{WINDOWED}, {segment} at a time" for segment in settings.segments),
                ),
                rows=tuple(
                    (
                        words.steps(row["window"]),
                        *(
                            words.seconds(row[name])
                            for name in (
                                "again",
                                "step",
                                *(f"segment_{one}" for one in settings.segments),
                                "window_step",
                                *(f"window_segment_{one}" for one in settings.segments),
                            )
                        ),
                    )
                    for row in rows
                ),
            ),
            Table(
                title="How many times as fast memory is",
                header=(
                    "window",
                    "as encoding again",
                    "step by step",
                    "by multiplications",
                    "as a cached window",
                    "step by step",
                ),
                rows=tuple(
                    (
                        words.steps(row["window"]),
                        *(
                            words.times(row[name])
                            for name in (
                                "against_again",
                                "steps_against_again",
                                "ratio_of_products",
                                "against_window",
                                "steps_against_window",
                            )
                        ),
                    )
                    for row in rows
                ),
            ),
        ),
        charts=(
            Chart(
                name="speed",
                title="How many times as fast memory is",
                caption="Against encoding again the gain grows with the window; against a cached"
                " window it does not: both keep what they read.",
                x="window",
                y="times as fast",
                level=1.0,
                lines=tuple(
                    line(name=name, x=x, y=tuple(row[what] for row in rows))
                    for name, what in (
                        ("as encoding again", "against_again"),
                        ("by multiplications", "ratio_of_products"),
                        ("as a cached window", "against_window"),
                        ("the same, step by step", "steps_against_window"),
                    )
                ),
            ),
        ),
        rows=tuple(rows),
    )


STUDY = Study(
    question="What does Transformer-XL's memory save when a stream is predicted?",
    settings=ReuseSettings,
    full={
        "width": 128,
        "layers": 4,
        "windows": (512, 1024, 2048, 3800),
        "segments": (64, 128, 512),
        "rows": (1, 8, 32),
    },
    run=measure,
)
