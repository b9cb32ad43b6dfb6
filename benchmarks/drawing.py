"""Draws a chart, with matplotlib: as SVG whose colours are the page's to decide, or as PNG with its title in it."""

import io
import re
import textwrap
from html import escape
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
"""Told apart by colour-blind people, and legible on white; each line carries its name as well."""
OTHERS: Final = "#8b8d98"
VARIABLES: Final = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    OTHERS: "--others",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES, 1)},
}
"""Names of the page's style sheet for the colours."""
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
    "svg.fonttype": "none",  # text stays text: it can be selected, and is drawn in the reader's font
    "svg.hashsalt": "benchmarks",
}
WIDTH: Final = 7.2
"""Inches, of which a picture has 200 dots each."""
NAMES: Final = 1.5
"""Inches on the right for the names of the lines."""
APART: Final = 13.0
"""Points between two names, at the least."""
LETTER: Final = 5.8
"""Points, on average."""


def svg(chart: Chart, name: str, about: str) -> str:
    """An element for a page with others of its kind: ids carry its name, colours are variables."""
    text = io.StringIO()
    with mpl.rc_context(STYLE):
        _draw(chart).savefig(text, format="svg", metadata={"Date": None})
    drawn = text.getvalue()[text.getvalue().index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", drawn)
    for colour, variable in VARIABLES.items():
        drawn = drawn.replace(colour, f"var({variable})")
    size = re.search(r'viewBox="[^"]*"', drawn)
    assert size is not None
    return (
        f'<svg {size[0]} xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'aria-labelledby="{name}-title {name}-about">\n<title id="{name}-title">{escape(chart.title)}</title>\n'
        f'<desc id="{name}-about">{escape(about)}</desc>\n{drawn[drawn.index(">") + 1 :].strip()}'
    )


def png(chart: Chart, path: Path) -> None:
    with mpl.rc_context(STYLE):
        figure = _draw(chart, title=True)
        figure.savefig(path, dpi=200, metadata={"Software": None})


def _draw(chart: Chart, *, title: bool = False) -> Figure:
    words = textwrap.wrap(chart.title, 74) if title else []
    # Inches, from here on.
    top = 0.4 + 0.26 * len(words)
    left, right, bottom, inside = (
        (0.65, NAMES, 0.6, 3.2) if isinstance(chart, Lines) else (1.75, 0.8, 0.1, 0.42 * len(chart.bars))
    )
    height = top + inside + bottom
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, inside / height))
    figure.text(0.15 / WIDTH, 1 - 0.14 / height, "\n".join(words), va="top", size=12, weight="bold", linespacing=1.3)
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
    """Every place has its words, unless they would touch the ones before; the table has them all."""
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
    """Each line's name at its end, moved apart from the others where they would touch."""
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
    colours = [SERIES[0] if name in chart.ours else OTHERS for name in chart.bars]
    axes.barh(places, [span.median for span in spans], color=colours, height=0.62)
    for place, span in zip(places, spans, strict=True):
        _beside(axes, say(span.median), (span.median, place))
    axes.set_yticks(places, chart.bars.keys())
    axes.tick_params(axis="y", labelcolor=INK)
    axes.invert_yaxis()
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_title(chart.axis.label, loc="left", size=10.5, color=MUTED, pad=8)


def _beside(axes: Axes, text: str, place: tuple[float, float], above: float = 0.0, colour: str = INK) -> None:
    """Words to the right of a place, and so many points above it."""
    axes.annotate(
        text,
        place,
        (6, above),
        textcoords="offset points",
        va="center",
        color=colour,
        annotation_clip=False,
    )
