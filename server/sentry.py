"""Reports failures to Sentry: types and places, never a value that may belong to a user."""

import contextlib
import linecache
import re
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from server.exceptions import CHAIN, AtlasError, ConfigError, Link, chain
from server.logs import Failure, Report

if TYPE_CHECKING:
    from sentry_sdk import Client

FLUSH_SECONDS: Final = 2.0
"""How long a process waits at its end for reports that are not sent yet."""
BURST: Final = 60
"""Failures sent at once; then one every `REFILL_SECONDS`. A storm of failures repeats the same report, takes the event
loop's time, and uses up Sentry's quota."""
REFILL_SECONDS: Final = 1.0
FRAMES: Final = 40
"""Innermost calls reported of one exception."""
OURS: Final = ("server", "protocol")
IDS: Final = ("connection", "user")
AN_ID: Final = re.compile(r"[\w./:-]{1,64}")
"""A token is longer."""
LEFT_OUT: Final = "…"


@contextlib.contextmanager
def reporting(dsn: str | None) -> Iterator[Report | None]:
    """Yield the `report` for logs.configure: it sends failures to `dsn`, or is None if `dsn` is.

    An exception that ends the block is reported, too. A thread with a queue of 100 sends the reports; the end of the
    block waits for it for 2 s at most. Raises ConfigError if `dsn` is invalid or sentry-sdk is not installed.
    """
    if dsn is None:
        yield None
        return
    reporter = Reporter(_client(dsn))
    try:
        yield reporter.report
    except Exception as error:
        reporter.report(Failure("the process ends", "fatal", "server", {}, error))
        raise
    finally:
        reporter.close()


class Reporter:
    """Sends failures through `client`, at a limited rate."""

    def __init__(self, client: "Client", clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._left = float(BURST)
        self._at = clock()
        self._held_back = 0

    def report(self, failure: Failure) -> None:
        now = self._clock()
        self._left = min(float(BURST), self._left + (now - self._at) / REFILL_SECONDS)
        self._at = now
        if self._left < 1.0:
            self._held_back += 1
            return
        self._left -= 1.0
        # An error in reporting must not become an error of the server.
        with contextlib.suppress(Exception):
            event = describe(failure)
            if self._held_back:
                event["extra"]["held_back"] = self._held_back
                self._held_back = 0
            self._client.capture_event(event)  # type: ignore[arg-type]  # their Event is a TypedDict of all there is

    def close(self) -> None:
        """Send the queued reports, for 2 s at most."""
        with contextlib.suppress(Exception):
            self._client.close(timeout=FLUSH_SECONDS)


def describe(failure: Failure) -> dict[str, Any]:
    """Return the event for Sentry. It is built only from values known to be harmless (an allow-list), so nothing has to
    be found and removed."""
    tags = {"event": failure.event}
    extra: dict[str, int | float] = {}
    for name, value in failure.fields.items():
        if name in IDS and AN_ID.fullmatch(str(value)):
            tags[name] = str(value)
        elif isinstance(value, int | float):
            extra[name] = value
    event: dict[str, Any] = {
        "level": failure.level,
        "logger": failure.logger,
        "logentry": {"message": failure.event},
        "tags": tags,
        "extra": extra,
    }
    if failure.error is not None:
        handled = failure.level != "fatal"
        # Sentry wants the exception that was raised last at the end.
        event["exception"] = {"values": [_exception(link, handled) for link in reversed(chain(failure.error))]}
    return event


def _exception(link: Link, handled: bool) -> dict[str, Any]:
    kind = type(link.error)
    mechanism: dict[str, Any] = {"type": "chained", "handled": handled, "exception_id": link.number}
    if link.parent is None:
        mechanism["type"] = "generic"
    else:
        mechanism |= {"parent_id": link.parent, "source": link.how}
    if isinstance(link.error, BaseExceptionGroup):
        mechanism["is_exception_group"] = True
    told: dict[str, Any] = {"type": kind.__qualname__, "module": kind.__module__, "mechanism": mechanism}
    if isinstance(link.error, AtlasError):
        told["value"] = _sentence(link.error)
    if frames := _frames(link.error):
        told["stacktrace"] = {"frames": frames}
    return told


def _sentence(error: AtlasError) -> str:
    """Return our message without what it quotes of other exceptions."""
    sentence = str(error)
    origin: BaseException | None = error
    for _ in range(CHAIN):
        origin = origin and (origin.__cause__ or origin.__context__)
        if origin is None:
            break
        if not isinstance(origin, AtlasError):
            # The longest first: the whole message contains its arguments.
            for quoted in sorted({str(origin), *map(str, origin.args)}, key=len, reverse=True):
                if len(quoted) > 2:
                    sentence = sentence.replace(quoted, LEFT_OUT)
    return sentence


def _frames(error: BaseException) -> list[dict[str, Any]]:
    """Return the calls, the innermost last. Without locals: tokens and contents are among them."""
    frames = []
    for frame, line in list(traceback.walk_tb(error.__traceback__))[-FRAMES:]:
        code = frame.f_code
        module = str(frame.f_globals.get("__name__", ""))
        parts = code.co_filename.replace("\\", "/").split("/")
        frames.append(
            {
                # As it is imported, without the folder where it is installed.
                "filename": "/".join(parts[-max(1, module.count(".") + 1) :]),
                "module": module,
                "function": code.co_qualname,
                "lineno": line,
                "context_line": linecache.getline(code.co_filename, line, frame.f_globals).rstrip("\n"),
                "in_app": module.partition(".")[0] in OURS,
            }
        )
    return frames


def _client(dsn: str) -> "Client":
    try:
        from sentry_sdk import Client
        from sentry_sdk.utils import BadDsn
    except ImportError:
        raise ConfigError(
            "SENTRY_DSN is set, but sentry-sdk is not installed. Run `pip install 'atlas-sync[sentry]'`, or unset it."
        ) from None
    try:
        # Not the global client: no scope adds to its events, and no library finds it.
        return Client(
            dsn=dsn,
            release=_release(),
            server_name="atlas-sync",
            default_integrations=False,
            auto_enabling_integrations=False,
            auto_session_tracking=False,
            enable_backpressure_handling=False,
            include_local_variables=False,
            max_breadcrumbs=0,
            send_client_reports=False,
            spotlight=False,
            debug=False,
        )
    except BadDsn:
        raise ConfigError("SENTRY_DSN is not a DSN. Copy it from your Sentry project's settings.") from None


def _release() -> str:
    try:
        return f"atlas-sync@{version('atlas-sync')}"
    except PackageNotFoundError:  # run from a folder, without being installed
        return "atlas-sync@unknown"
