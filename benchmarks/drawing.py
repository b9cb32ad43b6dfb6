"""Draws a chart as PNG, with matplotlib."""

from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.charts import Axis, Bars, Chart, Lines
from benchmarks.results import say

INK, MUTED, GRID, PAPER = "#1c2024", "#60646c", "#e0e1e6", "#fffffe"
SERIES: Final = ("#0b62c4", "#c2410c", "#107d67", "#8145b5")
"""Colour-blind people can tell them apart, and they are legible on white. Each line has its name beside it."""
OTHERS: Final = "#8b8d98"
STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": PAPER,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "xtick.major.size": 0,
    "xtick.major.pad": 7,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
}
WIDTH: Final = 7.2
"""Of a picture, in inches."""
NAMES: Final = 1.5
"""Space on the right for the names of the lines, in inches."""
APART: Final = 13.0
"""Smallest distance between two names, in points."""
LETTER: Final = 5.8
"""Average width of a letter, in points."""


def png(chart: Chart, path: Path) -> None:
    with mpl.rc_context(STYLE):
        _draw(chart).savefig(path, dpi=200, metadata={"Software": None})


def _draw(chart: Chart) -> Figure:
    # All in inches.
    top = 0.66
    left, right, bottom, inside = (
        (0.65, NAMES, 0.6, 3.2) if isinstance(chart, Lines) else (1.75, 0.8, 0.1, 0.42 * len(chart.bars))
    )
    height = top + inside + bottom
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, inside / height))
    figure.text(0.15 / WIDTH, 1 - 0.14 / height, chart.title, va="top", size=12, weight="bold")
    if isinstance(chart, Lines):
        _lines(axes, chart)
    else:
        _bars(axes, chart)
    return figure


def _lines(axes: Axes, chart: Lines) -> None:
    for colour, points in zip(cycle(SERIES), chart.lines.values(), strict=False):
        shown = {x: span for x, span in points.items() if chart.y.scale != "log" or span.low > 0}
        xs = [*shown]
        axes.plot(xs, [span.median for span in shown.values()], color=colour, linewidth=2, marker="o", markersize=4.5)
        lows, highs = [span.low for span in shown.values()], [span.high for span in shown.values()]
        axes.fill_between(xs, lows, highs, color=colour, alpha=0.15, linewidth=0)
    if chart.limit is not None:
        axes.axhline(chart.limit[0], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    _scale(axes, chart)
    axes.grid(axis="y")
    axes.set_xlabel(chart.x.label, loc="left")
    axes.set_title(chart.y.label, loc="left", size=10.5, color=MUTED, pad=8)
    _names(axes, chart)


def _scale(axes: Axes, chart: Lines) -> None:
    places = sorted({x for points in chart.lines.values() for x in points})
    axes.set_xscale(chart.x.scale)
    axes.set_yscale(chart.y.scale)
    if chart.y.scale == "linear":
        axes.set_ylim(bottom=0)
        axes.margins(y=0.1)
    _ticks(axes, chart.x, places)
    if chart.y.scale == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: say(y)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())


def _ticks(axes: Axes, x: Axis, places: list[float]) -> None:
    """Label every place, except where the label would touch the one before."""
    ticks: dict[float, str] = {}
    end = float("-inf")
    for place in places:
        words = x.say(place)
        middle, half = axes.transData.transform((place, 1))[0] * 72 / axes.figure.dpi, LETTER * len(words) / 2
        if middle - half > end:
            ticks[place] = words
            end = middle + half + LETTER
    axes.set_xticks([*ticks], [*ticks.values()])


def _names(axes: Axes, chart: Lines) -> None:
    """Write each line's name at its end. Names that would overlap are moved apart."""
    ends = [
        (colour, name, [*points.values()][-1].median)
        for colour, (name, points) in zip(cycle(SERIES), chart.lines.items(), strict=False)
    ]
    if chart.limit is not None:
        ends.append((MUTED, chart.limit[1], chart.limit[0]))
    ends.sort(key=lambda end: end[2])
    right = axes.get_xlim()[1]
    ideal = [axes.transData.transform((right, y))[1] * 72 / axes.figure.dpi for _, _, y in ends]
    placed = [*ideal]
    for _ in range(100):
        for below, above in pairwise(range(len(placed))):
            push = max(0.0, APART - (placed[above] - placed[below])) / 2
            placed[below] -= push
            placed[above] += push
    for (colour, name, y), at, place in zip(ends, ideal, placed, strict=True):
        _beside(axes, name, (right, y), place - at, colour)


def _bars(axes: Axes, chart: Bars) -> None:
    places = range(len(chart.bars))
    spans = [*chart.bars.values()]
    colours = [SERIES[0] if name.startswith(chart.highlighted) else OTHERS for name in chart.bars]
    axes.barh(places, [span.median for span in spans], color=colours, height=0.62)
    for place, span in zip(places, spans, strict=True):
        _beside(axes, say(span.median), (span.median, place))
    axes.set_yticks(places, chart.bars.keys())
    axes.tick_params(axis="y", labelcolor=INK)
    axes.invert_yaxis()
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_title(chart.label, loc="left", size=10.5, color=MUTED, pad=8)


def _beside(axes: Axes, text: str, place: tuple[float, float], above: float = 0.0, colour: str = INK) -> None:
    """Write `text` to the right of a place, `above` points higher."""
    axes.annotate(
        text,
        place,
        (6, above),
        textcoords="offset points",
        va="center",
        color=colour,
        annotation_clip=False,
    )
