"""What the report shows: from saved results to charts, each with a sentence that says what it found. Nothing is drawn
here; a new plot is one more function and one more line in PLOTS."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from benchmarks.live import SHARES, percentile
from benchmarks.results import Result, Span, say

Points = dict[float, Span]


@dataclass(frozen=True, slots=True)
class Axis:
    label: str
    scale: Literal["linear", "log", "logit"] = "linear"
    words: dict[float, str] | None = None
    """Names of the places that have one; else the numbers themselves."""

    def say(self, value: float) -> str:
        return (self.words or {}).get(value) or say(value)


@dataclass(frozen=True, slots=True)
class Lines:
    """Ours comes first; `limit` is what was promised, or what it is compared with."""

    title: str
    x: Axis
    y: Axis
    lines: dict[str, Points]
    limit: tuple[float, str] | None = None


@dataclass(frozen=True, slots=True)
class Bars:
    """`ours` are the names of those that stand out."""

    title: str
    axis: Axis
    bars: dict[str, Span]
    ours: tuple[str, ...]


Chart = Lines | Bars


@dataclass(frozen=True, slots=True)
class Plot:
    name: str
    benchmark: str
    about: str
    """What was measured, and how to read it."""
    commands: tuple[str, ...]
    """What measures it, after `python -m benchmarks`."""
    chart: Callable[[Sequence[Result]], Chart]


def _rough(value: float) -> str:
    """As `say`, for what was measured: no more than three digits count."""
    return say(float(f"{value:.3g}"))


def _over(results: Iterable[Result], x: str, y: str) -> Points:
    """One figure against another. Results come oldest first, so the newest at a place counts."""
    return dict(sorted({result.figure(x): result.span(y) for result in results}.items()))


def _last(points: Points) -> float:
    return [*points.values()][-1].median


def _ms(value: float) -> str:
    return f"{_rough(value)}\N{NO-BREAK SPACE}ms" if value < 1000 else f"{_rough(value / 1000)}\N{NO-BREAK SPACE}s"


REACHED: Final = 0.9
"""Share of the changes asked for that a rate needs to count as reached."""


def _live(results: Sequence[Result]) -> Chart:
    asked = {result.figure("changes"): result for result in results}
    # Where Postgres could not commit as many as were asked for, it is a lower rate once more.
    rates = {
        rate: result for rate, result in asked.items() if result.figure("changes_per_second") >= REACHED * rate
    } or asked
    lowest = min(rates)
    p50, p99 = (rates[lowest].figure(key) for key in ("p50_ms", "p99_ms"))
    return Lines(
        f"At {say(lowest)} changes a second, half are on the device {_ms(p50)} after their commit, "
        f"and 99 of 100 after {_ms(p99)}",
        Axis(
            "of all changes have arrived",
            "logit",
            {share / 100: f"{share} %" for share in SHARES},
        ),
        Axis("ms after the commit", "log"),
        {
            f"{say(rate)} a second": {share / 100: rates[rate].span(percentile(share)) for share in SHARES}
            for rate in sorted(rates)
        },
    )


def _idle(results: Sequence[Result]) -> Chart:
    memory = _over(results, "sockets", "kib_per_connection")
    return Lines(
        f"With {say(max(memory))} connections on which nothing happens, each takes "
        f"{say(_last(memory))}\N{NO-BREAK SPACE}KiB of the server",
        Axis("connections", "log"),
        Axis("KiB for each connection"),
        {"Atlas Sync": memory},
        (10.0, "promised: 10 KiB"),
    )


def _fanout(results: Sequence[Result]) -> Chart:
    steady = _over(results, "sockets", "cpu_ratio_to_c")
    burst = _over(results, "sockets", "cpu_ratio_to_c_burst")
    return Lines(
        f"A change on {say(max(steady))} sockets costs {say(_last(steady))} times the CPU of bare send() in C, "
        f"and each of 160 at once {say(_last(burst))} times",
        Axis("sockets of one user", "log"),
        Axis("server CPU for each delivered change, as a multiple of the C program's", "log"),
        {"20 a second": steady, "160 at once": burst},
        (1.0, "send() in C"),
    )


def _missed(results: Sequence[Result]) -> Chart:
    result = max(results, key=lambda result: result.figure("messages"))
    counts = _counts(result)
    most = result.figure(f"rows_{counts[-1]}_ms")
    return Lines(
        f"A device that missed {say(counts[-1])} messages has them after {_ms(most)}: "
        f"{_rough(1000 * counts[-1] / most)} a second",
        Axis("messages missed", "log"),
        Axis("ms", "log"),
        {
            name: {float(count): result.span(f"rows_{count}_{key}") for count in counts}
            for name, key in (
                ("until it is live", "ms"),
                ("server's CPU", "server_ms"),
                ("Postgres' CPU", "postgres_ms"),
            )
        },
    )


def _size(results: Sequence[Result]) -> Chart:
    rows = results[-1].figure("rows")
    alike = [result for result in results if result.figure("rows") == rows]
    counts = _counts(alike[-1])
    chosen = dict.fromkeys((counts[0], counts[min(1, len(counts) - 1)], counts[-1]))
    lines = {f"{say(count)} missed": _over(alike, "messages", f"rows_{count}_ms") for count in chosen}
    shown = [*lines.values()][-1]
    return Lines(
        f"With {say(min(shown))} messages of others in the tables, a device that missed {say(rows)} is live after "
        f"{_ms(shown[min(shown)].median)}; with {say(max(shown))}, after {_ms(shown[max(shown)].median)}",
        Axis("messages of others in the tables", "log"),
        Axis("ms until it is live", "log"),
        lines,
    )


WAYS: Final = {"full poll": "full", "delta poll": "delta", "Atlas Sync": "atlas"}


def _statements(results: Sequence[Result]) -> Chart:
    result = results[-1]
    full, ours = (result.figure(f"{kind}_busy_statements_per_second") for kind in ("full", "atlas"))
    return Bars(
        f"At {say(result.figure('changes_per_second'))} changes a second, the poll of 1,000 users runs {_rough(full)} "
        f"statements a second and Atlas Sync {_rough(ours)}; "
        f"when nothing changes, {_rough(result.figure('atlas_idle_statements_per_second'))}",
        Axis("statements a second for 1,000 users"),
        {name: result.span(f"{kind}_busy_statements_per_second") for name, kind in WAYS.items()},
        ("Atlas Sync",),
    )


def _staleness(results: Sequence[Result]) -> Chart:
    result = results[-1]
    interval = result.figure("interval_seconds")
    return Bars(
        f"Half of all changes are on the device after {_ms(result.figure('atlas_staleness_p50_ms'))}; "
        f"a poll every {say(interval)} s has them after {_ms(result.figure('full_staleness_p50_ms'))}",
        Axis("ms from the commit until half of all changes are on the device"),
        {name: result.span(f"{kind}_staleness_p50_ms") for name, kind in WAYS.items()},
        ("Atlas Sync",),
    )


def _cores(results: Sequence[Result]) -> Chart:
    result = results[-1]
    polled, asked, served = (
        result.span(f"{key}_cores_at_100k")
        for key in ("full_busy_postgres", "atlas_busy_postgres", "atlas_busy_server")
    )
    return Bars(
        f"100,000 users who poll would keep {_rough(polled.median)} cores of Postgres busy; with Atlas Sync it is "
        f"{_rough(asked.median)}, and {_rough(served.median)} for the server",
        Axis("cores for 100,000 users: a hundred times those of 1,000"),
        {
            "full poll: Postgres": polled,
            "delta poll: Postgres": result.span("delta_busy_postgres_cores_at_100k"),
            "Atlas Sync: Postgres": asked,
            "Atlas Sync: server": served,
        },
        ("Atlas Sync: Postgres", "Atlas Sync: server"),
    )


AGES: Final = {60.0: "a_minute", 86_400.0: "a_day", 80 * 86_400.0: "80_days"}


def _age(results: Sequence[Result]) -> Chart:
    result = max(results, key=lambda result: result.figure("messages"))
    recent, old = (result.figure(f"away_{AGES[age]}_ms") for age in (min(AGES), max(AGES)))
    return Lines(
        f"A device that was away for 80 days is live after {_ms(old)}, "
        f"one that was away for a minute after {_ms(recent)}",
        Axis("away for", "log", {age: name.replace("_", " ") for age, name in AGES.items()}),
        Axis("ms until it is live"),
        {
            name: {age: result.span(f"{what}_{word}_ms") for age, word in AGES.items()}
            for name, what in (
                (f"{say(result.figure('rows') // 500)} missed", "away"),
                ("nothing missed", "away_for_nothing"),
            )
        },
    )


def _counts(result: Result) -> list[int]:
    """How many messages were missed, each case."""
    found = (re.fullmatch(r"rows_(\d+)_ms", key) for key in result.figures)
    return sorted(int(match[1]) for match in found if match)


def _doorbell(results: Sequence[Result]) -> Chart:
    result = results[-1]
    found = (re.fullmatch(r"notify_(\d+)_per_second", key) for key in result.figures)
    writers = sorted(int(match[1]) for match in found if match)
    lines = {
        name: {float(count): result.span(f"{kind}_{count}_per_second") for count in writers}
        for name, kind in (("as it is", "notify"), ("without NOTIFY", "trigger"), ("without triggers", "none"))
    }
    notify, trigger, none = (points[writers[-1]].median for points in lines.values())
    return Lines(
        f"{writers[-1]} writers commit {_rough(notify)} changes a second; without NOTIFY it would be "
        f"{_rough(trigger)}, and without any trigger {_rough(none)}",
        Axis("writers at once", "log"),
        Axis("commits a second"),
        lines,
    )


def _push(results: Sequence[Result]) -> Chart:
    (result,) = results[-1:]
    most, single = result.span("most_acked_per_second"), result.span("one_by_one_acked_per_second")
    return Bars(
        f"Committed in groups, {_rough(most.median)} mutations a second are durable: "
        f"{_rough(most.median / single.median)} times as many as with a commit for each",
        Axis("durable, acknowledged mutations a second"),
        {"a commit for each": single, "in groups": most},
        ("in groups",),
    )


PLOTS: Final = (
    Plot(
        "latency",
        "live",
        "From the answer to COMMIT to the device's read(), each change a transaction of its own. Below 0 (not drawn), "
        "the device had it before the writer had its answer.",
        ("live", "live --changes 1000"),
        _live,
    ),
    Plot(
        "poll-staleness",
        "baseline",
        "The poll that Atlas Sync replaces reads everything of a user every 30 seconds; a delta poll, what is newer.",
        ("baseline",),
        _staleness,
    ),
    Plot(
        "poll-statements",
        "baseline",
        "The same three. A user has 49 conversations; the full poll is a statement for their list and one for each.",
        ("baseline",),
        _statements,
    ),
    Plot(
        "poll-cores",
        "baseline",
        "The same three, with the same changes; what writing these takes is in all of them.",
        ("baseline",),
        _cores,
    ),
    Plot(
        "fan-out",
        "fanout",
        "The server and a C program that calls send() for each socket take turns, in the same rhythm, each with a "
        "load generator of its own. Of changes at once the server puts several into a frame; the C program never does.",
        tuple(f"fanout --sockets {sockets}" for sockets in (1, 10, 100, 1_000, 10_000)),
        _fanout,
    ),
    Plot(
        "connections",
        "idle",
        "Memory of the server's processes beyond what they take without connections, for each authenticated, "
        "subscribed connection of a client that sends a browser's headers.",
        tuple(f"idle --sockets {sockets}" for sockets in (1_000, 10_000, 50_000, 100_000)),
        _idle,
    ),
    Plot(
        "missed",
        "catchup",
        "From the device's connect until it is live. The newest result with the most messages in the tables.",
        ("catchup",),
        _missed,
    ),
    Plot(
        "table-size",
        "catchup",
        "From the device's connect until it is live. Each point is a database of its own, whose messages and change "
        "log reach back 90 days.",
        tuple(f"catchup --messages {messages}" for messages in (100_000, 1_000_000, 10_000_000)),
        _size,
    ),
    Plot(
        "cursor-age",
        "catchup",
        "From the device's connect until it is live. What it missed is spread evenly over its absence, among the "
        "messages of everybody else.",
        ("catchup",),
        _age,
    ),
    Plot(
        "doorbell",
        "doorbell",
        "Each writer inserts one message after the other, in a transaction of its own. NOTIFY takes a lock, one for "
        "the whole cluster, that is held until the commit is on the disk.",
        ("doorbell",),
        _doorbell,
    ),
    Plot(
        "push",
        "push",
        "Each device writes as soon as its last push is answered.",
        ("push",),
        _push,
    ),
)
"""In the order of the page."""
