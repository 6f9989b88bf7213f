"""What every figure of the report shares: colours, style, and SVG that is always the same."""

import io
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kt_forecast.report.kinds import AnyRecord
from kt_forecast.report.record import Score
from kt_forecast.report.words import baselines_by_score, shown

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

PAPER = "#ffffff"
INK = "#1c2330"
MUTED = "#5a6475"
LINES = "#d8dde6"
MODEL = "#1f5fbf"
BAND = "#dbe7fa"
RIVALS = ("#b4500f", "#0b7a5c", "#8747ad", "#8c6d00", "#b3306b", "#4f6272")
"""Baselines in order of score; each also has its own marker, so that colour is never alone."""
MARKERS = ("s", "^", "D", "v", "P", "X")
NARROW_INCHES = 4.6
WIDE_INCHES = 9.4
NAME_LENGTH = 22
LETTER_INCHES, HANDLE_INCHES = 0.08, 0.45
"""Width of a letter of a legend, and of all else that a column of it holds."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One figure of the report.

    Attributes:
        name: file name without its ending, and prefix of every id in the page.
        title: heading.
        caption: how to read it.
        alt: what it shows, for those who cannot see it.
        svg: the drawing.
        wide: whether it needs the whole width of the page.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: bytes
    wide: bool = False


@contextmanager
def _style() -> Iterator[None]:
    """Set what matplotlib can only be told globally, for as long as one figure is drawn.

    Text stays text in the file, so that the browser's own fonts serve glyphs that the measuring
    font lacks; its warning about them is therefore not heard.
    """
    import matplotlib as mpl

    settings: dict[str, Any] = {
        "axes.edgecolor": LINES,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.labelcolor": MUTED,
        "axes.linewidth": 0.8,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.unicode_minus": True,
        "figure.facecolor": PAPER,
        "font.family": ["DejaVu Sans"],
        "font.size": 10,
        "grid.color": LINES,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.labelcolor": INK,
        "lines.linewidth": 1.6,
        "savefig.facecolor": "auto",
        "svg.fonttype": "none",
        "svg.hashsalt": "kt_forecast",
        "text.color": INK,
        "text.parse_math": False,
        "xtick.color": LINES,
        "xtick.labelcolor": MUTED,
        "ytick.color": LINES,
        "ytick.labelcolor": MUTED,
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support")
        yield


def drawn(width: float, height: float, draw: Callable[["matplotlib.figure.Figure"], None]) -> bytes:
    """Return what ``draw`` puts on a figure of so many inches."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        file = io.BytesIO()
        unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=unsaid)
    return file.getvalue()


def finite(score: Score | None) -> bool:
    """Return whether there is a score to draw."""
    return score is not None and math.isfinite(score.value)


def written(name: str, longest: int = NAME_LENGTH) -> str:
    """Return a name for a figure; a zero-width space keeps a leading underscore in legends."""
    text = shown(name, longest)
    return f"\N{ZERO WIDTH SPACE}{text}" if text.startswith("_") else text


def series(record: AnyRecord, names: Collection[str]) -> list[tuple[str, str, str]]:
    """Return name, colour and marker: the model, then the baselines from best to worst."""
    order = baselines_by_score(record.protocols[0]) if record.protocols else []
    rivals = [n for n in order if n in names]
    rivals += sorted(n for n in names if n not in order and n != record.system.name)
    first = [(record.system.name, MODEL, "o")] if record.system.name in names else []
    return first + [
        (name, RIVALS[i % len(RIVALS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(rivals)
    ]


def columns_that_fit(labels: Sequence[str], inches: float) -> int:
    """Return how many columns of a legend fit into a width; its rows are as few as that allows."""
    for columns in range(len(labels), 1, -1):
        short, longer = divmod(len(labels), columns)
        sizes = [short + (place < longer) for place in range(columns)]
        starts = [sum(sizes[:place]) for place in range(columns)]
        widths = [
            max(len(label) for label in labels[start : start + size])
            for start, size in zip(starts, sizes, strict=True)
        ]
        if sum(LETTER_INCHES * width + HANDLE_INCHES for width in widths) <= inches:
            return columns
    return 1


def legend(axes: "matplotlib.axes.Axes", columns: int = 3) -> None:
    """Put the legend above the axes, where it hides nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=columns,
        columnspacing=1.2,
        handlelength=1.6,
        handletextpad=0.5,
        borderaxespad=0.2,
    )
