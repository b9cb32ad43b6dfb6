"""`atlas-sync top`: shows the server's metrics in a terminal, and what to do about those that are bad."""

import asyncio
import contextlib
import math
import signal
import textwrap
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

import httpx
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from server import fetch
from server.exceptions import ConfigError, UnavailableError
from server.fetch import AnswerError
from server.metrics import Question
from server.monitoring.rules import INTERVALS, Figure, Health, judge
from server.monitoring.scrapes import Interval, NotMetricsError, Scrape, between, parse
from server.terminal.device import printable, run

TIMEOUT: Final = 5.0
"""Seconds to wait for a response; the server itself waits 3 for Postgres."""
PAGE_BYTES: Final = 8 * 1024 * 1024
NO_ADDRESS: Final = "--url is not an address. Name one like http://127.0.0.1:8000/metrics."
TWO_COLUMNS: Final = 72
"""Width of the terminal from which there are two columns."""
NAME: Final = 17
STYLE: Final = {Health.FINE: "", Health.BAD: "bold red", Health.UNKNOWN: "dim"}


def top(url: str, token: str, every: float, console: Console, *, once: bool) -> None:
    """Show the metrics until SIGINT or SIGTERM, and update them every `every` seconds. With `once`, or without a
    terminal, print those of one interval.

    Raises ConfigError for a wrong `url` or `token`, and UnavailableError if the first request fails.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(NO_ADDRESS)
    live = not once and console.is_terminal and not console.is_dumb_terminal
    run(lambda: _follow(url, token, every, console) if live else _print(url, token, every, console))


class Source:
    """The address of the metrics."""

    def __init__(self, client: httpx.AsyncClient, url: str, token: str) -> None:
        self._client = client
        self.url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def scrape(self) -> Scrape:
        """Raises UnavailableError if the server does not answer, ConfigError if the response contains no metrics."""
        strange = ConfigError(f"{self.url} does not show Atlas Sync's metrics. Name its /metrics with --url.")
        try:
            status, page = await fetch.get(
                self._client, self.url, seconds=TIMEOUT, limit=PAGE_BYTES, headers=self._headers
            )
        except AnswerError:
            raise strange from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError):
            raise ConfigError(NO_ADDRESS) from None
        except (httpx.HTTPError, TimeoutError):
            raise UnavailableError(
                f"{self.url} does not answer. Start the server, or name its address with --url."
            ) from None
        at = time.monotonic()
        match status:
            case 200:
                with contextlib.suppress(NotMetricsError):
                    return parse(page.decode(errors="replace"), at)
            case 401 | 403:
                raise ConfigError(
                    "The server refuses the token. Set its ATLAS_METRICS_TOKEN here too, or pass it with --token."
                )
            case 404:
                raise ConfigError(
                    f"{self.url} shows no metrics. Set ATLAS_METRICS_TOKEN for the server and here, or set "
                    "ATLAS_METRICS_PORT and name that port with --url."
                )
            case _ if status >= 500:
                raise UnavailableError(
                    f"{self.url} fails with status {status}. Look at the log of the server, or the proxy's."
                )
        raise strange


async def _print(url: str, token: str, every: float, console: Console) -> None:
    async with fetch.client() as client:
        source = Source(client, url, token)
        before = await source.scrape()
        await asyncio.sleep(every)
        after = await source.scrape()
    for line in plain(judge([between(None, before), between(before, after)])):
        console.print(line, soft_wrap=True)


async def _follow(url: str, token: str, every: float, console: Console) -> None:
    intervals: list[Interval] = []
    resized = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with fetch.client() as client:
        source = Source(client, url, token)
        before = await source.scrape()
        intervals.append(between(None, before))
        loop.add_signal_handler(signal.SIGWINCH, resized.set)
        trouble: str | None = None
        due = loop.time()
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                due = max(due + every, loop.time())
                when = datetime.now().astimezone()
                while True:
                    title = f"Atlas Sync · {when:%H:%M:%S} · every {every:g} s · {printable(url)}"
                    lines = draw(title, trouble, judge(intervals), console.width, console.height)
                    live.update(Group(*lines), refresh=True)
                    resized.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout_at(due):
                            await resized.wait()
                    if loop.time() >= due:
                        break
                try:
                    after = await source.scrape()
                except (UnavailableError, ConfigError) as error:
                    trouble = f"{error} These are the last metrics received."
                else:
                    trouble = None
                    intervals = [*intervals[1 - INTERVALS :], between(before, after)]
                    before = after


def plain(figures: Sequence[Figure]) -> list[str]:
    """Return the metrics for a file or a pipe, one line each, by the names that /metrics uses."""
    lines = []
    width = max(len(figure.name) for figure in figures)
    for question in Question:
        lines.append(question.value)
        for figure in figures:
            if figure.question is question:
                mark = "!" if figure.health is Health.BAD else " "
                parts = f"  ({printable(', '.join(figure.parts))})" if figure.parts else ""
                lines.append(f"{mark} {figure.name:<{width}}  {figure.says}{parts}")
    lines += [f"! {figure.name}: {figure.when_bad}" for figure in figures if figure.health is Health.BAD]
    return lines


def draw(title: str, trouble: str | None, figures: Sequence[Figure], width: int, height: int) -> list[Text]:
    """Return at most `height` lines of at most `width` cells. Without room, metrics are left out, bad ones last."""
    columns = 2 if width >= TWO_COLUMNS else 1
    notes = _notes(trouble, figures, width, max(1, min(height - 2, max(3, height // 4))))
    kept = _kept(figures, columns, height - 1 - len(notes))
    lines = [Text(title, "bold reverse" if trouble is None else "bold white on red")]
    spare = height - 1 - len(notes) - _rows(kept, columns)
    for question in Question:
        if group := [figure for figure in kept if figure.question is question]:
            if spare > 0:
                lines.append(Text())
                spare -= 1
            lines.append(Text(question.value, "bold cyan"))
            lines += _table(group, columns, width)
    if spare > 0:
        lines.append(Text())
    lines = [*lines[: max(0, height - len(notes))], *notes][:height]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _table(group: Sequence[Figure], columns: int, width: int) -> list[Text]:
    """Fill the first column, then the second."""
    cell = (width - (columns - 1)) // columns
    rows = math.ceil(len(group) / columns)
    lines = []
    for row in range(rows):
        line = Text()
        for column, figure in enumerate(group[row::rows]):
            line.append(" " * (column * (cell + 1) - line.cell_len))
            text = _cell(figure, cell)
            text.truncate(cell, overflow="ellipsis")
            line.append_text(text)
        lines.append(line)
    return lines


def _cell(figure: Figure, width: int) -> Text:
    style = STYLE[figure.health]
    mark = "!" if figure.health is Health.BAD else " "
    text = Text.assemble((f"{mark}{figure.short[: NAME - 1]:<{NAME}}", style or "dim"), (figure.says, style or "bold"))
    for part in figure.parts:
        part = f" {printable(part)}"
        if text.cell_len + len(part) > width:
            break
        text.append(part, style or "dim")
    return text


def _notes(trouble: str | None, figures: Sequence[Figure], width: int, rows: int) -> list[Text]:
    """Return what to do, in at most `rows` lines."""
    bad = [figure for figure in figures if figure.health is Health.BAD]
    said = [] if trouble is None else [(printable(trouble), "bold red")]
    said += [(f"! {figure.short}: {figure.when_bad}", "red") for figure in bad]
    if not said:
        return [Text("Nothing here needs you. Ctrl-C ends this.", "dim")]
    lines = [Text(line, style) for words, style in said for line in textwrap.wrap(words, max(1, width))]
    if len(lines) > rows:
        lines = lines[:rows]
        lines[-1].truncate(max(1, width - 2))
        lines[-1].append(" …")
    return lines


def _rows(figures: Sequence[Figure], columns: int) -> int:
    counts = [sum(figure.question is question for figure in figures) for question in Question]
    return sum(1 + math.ceil(count / columns) for count in counts if count)


def _kept(figures: Sequence[Figure], columns: int, rows: int) -> list[Figure]:
    kept = list(figures)
    ranks = {Health.UNKNOWN: 0, Health.FINE: 2, Health.BAD: 3}

    def rank(at: int) -> tuple[int, int, int]:
        """The smallest is left out first: unknown metrics, then those that cannot be bad, then those that are fine.
        Among equals it is the last of the longest group."""
        figure = kept[at]
        beside = sum(other.question is figure.question for other in kept)
        return ranks[figure.health] - (figure.health is Health.FINE and not figure.judged), -beside, -at

    while kept and _rows(kept, columns) > rows:
        del kept[min(range(len(kept)), key=rank)]
    return kept
