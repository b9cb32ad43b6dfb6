"""The pictures of the documentation, as data: which figures of the saved results each shows. `drawing` draws them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from benchmarks.live import SHARES, percentile
from benchmarks.peer import PEERS
from benchmarks.results import Result, Span, say

Points = dict[float, Span]
"""x → y."""


@dataclass(frozen=True, slots=True)
class Axis:
    label: str
    scale: Literal["linear", "log", "logit"] = "linear"
    names: dict[float, str] | None = None
    """Tick labels of the places that have one; the others show the number."""

    def say(self, value: float) -> str:
        return (self.names or {}).get(value) or say(value)


@dataclass(frozen=True, slots=True)
class Lines:
    title: str
    x: Axis
    y: Axis
    lines: dict[str, Points]
    limit: tuple[float, str] | None = None
    """A horizontal line with its name, such as a promise."""


@dataclass(frozen=True, slots=True)
class Bars:
    title: str
    label: str
    bars: dict[str, Span]
    highlighted: str
    """How the names of those bars begin."""


Chart = Lines | Bars

REACHED: Final = 0.9
"""Share of the requested changes that must be committed for a rate to count as reached."""


def _latency(results: Sequence[Result]) -> Chart:
    by_rate = {result.figure("changes"): result for result in results if result.arguments.get("doorbells") != "wal"}
    # Where Postgres could not commit as many as were requested, the result belongs to a lower rate.
    reached = {rate: by_rate[rate] for rate in by_rate if by_rate[rate].figure("changes_per_second") >= REACHED * rate}
    rates = reached or by_rate
    return Lines(
        "Delay from a commit to the device",
        Axis("of all changes have arrived", "logit", {share / 100: f"{share} %" for share in SHARES}),
        Axis("ms after the commit", "log"),
        {
            f"{say(rate)} per second": {share / 100: rates[rate].span(percentile(share)) for share in SHARES}
            for rate in sorted(rates)
        },
    )


def _poll_staleness(results: Sequence[Result]) -> Chart:
    result = results[-1]
    every = say(result.figure("interval_seconds"))
    ways = {f"full poll every {every} s": "full", f"delta poll every {every} s": "delta", "Atlas Sync": "atlas"}
    return Bars(
        "Age of a change when it reaches the device",
        "ms from the commit until half of all changes have arrived",
        {name: result.span(f"{way}_staleness_p50_ms") for name, way in ways.items()},
        "Atlas Sync",
    )


def _connections(results: Sequence[Result]) -> Chart:
    # The newest result at a place counts: results come oldest first.
    memory = {result.figure("sockets"): result.span("kib_per_connection") for result in results}
    return Lines(
        "Server memory of a connection on which nothing happens",
        Axis("connections", "log"),
        Axis("KiB per connection"),
        {"Atlas Sync": dict(sorted(memory.items()))},
        (10.0, "promised: 10 KiB"),
    )


def _newest(results: Sequence[Result]) -> Result:
    """The newest on the disk as it is; on a slowed one if there is no other."""
    return ([result for result in results if not result.figures.get("flush_ms")] or results)[-1]


def _commits(results: Sequence[Result]) -> Chart:
    result = _newest(results)
    ways = {"without triggers": "none", "triggers, silent": "trigger", "NOTIFY": "notify", "the WAL": "wal"}
    counts = sorted({int(found[1]) for key in result.figures if (found := re.fullmatch(r"none_(\d+)_per_second", key))})
    return Lines(
        "Commits a second, by how servers hear of them",
        Axis("concurrent writers", "log"),
        Axis("commits a second"),
        {
            name: {float(count): result.span(f"{way}_{count}_per_second") for count in counts}
            for name, way in ways.items()
            if f"{way}_{counts[0]}_per_second" in result.figures
        },
    )


def _peers(figure: str, title: str, label: str) -> Callable[[Sequence[Result]], Chart]:
    def chart(results: Sequence[Result]) -> Chart:
        result = _newest(results)
        measured = [peer for peer in PEERS.values() if f"{peer.name}_{figure}" in result.figures]
        return Bars(title, label, {peer.label: result.span(f"{peer.name}_{figure}") for peer in measured}, "Atlas Sync")

    return chart


PICTURES: Final[dict[str, tuple[str, Callable[[Sequence[Result]], Chart]]]] = {
    "latency": ("live", _latency),
    "poll-staleness": ("baseline", _poll_staleness),
    "connections": ("idle", _connections),
    "commits": ("doorbell", _commits),
    "peers-delay": (
        "peers",
        _peers(
            "p50_ms",
            "Delay from a commit to the device, beside others",
            "ms from the commit until half of all changes have arrived",
        ),
    ),
    "peers-commits": (
        "peers",
        _peers(
            "ramp_32_delivered_per_second",
            "As fast as 32 writers can, beside others",
            "changes a second at their devices",
        ),
    ),
}
"""File name → the benchmark whose results it shows, and the chart. Results come oldest first."""
