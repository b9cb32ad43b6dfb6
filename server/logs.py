"""Structured logs: ids and positions, never a token, never a message's content."""

import logging
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from server.errors import AtlasError, chain

NOT_REPORTED: Final = ("sentry_sdk", "urllib3")
"""Who speaks about the sending of reports: told there as well, it would go round in circles."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What was logged at level error or above."""

    event: str
    """The same words each time, without values."""
    level: str
    """error or fatal."""
    logger: str
    fields: Mapping[str, object]
    error: BaseException | None


class Report(Protocol):
    """Tells somebody elsewhere about a failure. It neither waits nor raises."""

    def __call__(self, failure: Failure, /) -> None: ...


def configure(
    level: str = "info", form: str = "json", stream: TextIO | None = None, report: Report | None = None
) -> None:
    """Send our own logs and the libraries' to `stream` (standard error): one line an event, JSON or for people.

    `report` is told, beside, what is logged at level error or above.
    """
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(_told),
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=stream.isatty())
    )
    threshold = getattr(logging, level.upper())
    structlog.configure(
        processors=[*([] if report is None else [_reporting(report)]), *shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(_without_quotes)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler] if report is None else [handler, _Reporting(report)]
    root.setLevel(threshold)
    # What these say at «info» is said by our own events, and httpx names the address it asks.
    for name in ("uvicorn.error", "websockets.server", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))


def _without_quotes(record: logging.LogRecord) -> bool:
    """What a library puts together about a failure may quote anything: asyncio's texts quote arguments, exceptions."""
    if record.levelno >= logging.ERROR and not record.args:
        record.msg = _anonymous(record)
    return True


def _anonymous(record: logging.LogRecord) -> str:
    return f"{record.name} logged an error in {record.module}.{record.funcName}"


def _told(exc_info: ExcInfo) -> str:
    """Where it happened, and of which kind. What is not our own sentence may quote anything: Postgres quotes rows."""
    told = []
    for link in chain(exc_info[1]):
        kind = f"{type(link.error).__module__}.{type(link.error).__qualname__}"
        sentence = f": {link.error}" if isinstance(link.error, AtlasError) else ""
        calls = "".join(traceback.format_tb(link.error.__traceback__))
        told.append(f"{link.how}: {kind}{sentence}\n{calls}")
    return "".join(told)


def _reporting(report: Report) -> Processor:
    """For our own events."""

    def process(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if method in ("error", "exception", "critical", "fatal"):
            level = "error" if method in ("error", "exception") else "fatal"
            fields = {name: value for name, value in event.items() if name not in ("event", "exc_info")}
            report(Failure(str(event["event"]), level, "server", fields, _raised(event.get("exc_info"))))
        return event

    return process


class _Reporting(logging.Handler):
    """For what libraries log."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.ERROR)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in NOT_REPORTED:
            return
        # With arguments it is a template. Without, it may have been put together from anything: asyncio's «Exception
        # in callback …» quotes the callback's arguments.
        template = isinstance(record.msg, str) and bool(record.args)
        event = record.msg if template else _anonymous(record)
        level = "error" if record.levelno < logging.CRITICAL else "fatal"
        self._report(Failure(event, level, record.name, {"line": record.lineno}, _raised(record.exc_info)))


def _raised(exc_info: Any) -> BaseException | None:
    """The exception, in whichever of the ways logging allows it was given."""
    if isinstance(exc_info, BaseException):
        return exc_info
    raised = exc_info[1] if isinstance(exc_info, tuple) else sys.exc_info()[1] if exc_info else None
    return raised if isinstance(raised, BaseException) else None
