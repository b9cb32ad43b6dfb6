"""The server's side of one connection's conversation, as a table of states. Sans-I/O: frames in, commands out.

    NEW ──hello──▶ CHECKING ──accepted──▶ JOINING ──welcomed──▶ OPEN
     any state ── a frame that the state does not allow, or an end that the edge reports ──▶ CLOSED

`HANDLERS`, at the end, says what each state does with each frame. The edge decodes frames, carries out the commands and
reports the results (`accepted`, `refused`, …).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final
from uuid import UUID

from protocol import errors
from protocol.errors import ERRORS
from protocol.frames import (
    STREAMS,
    Ack,
    AskPage,
    Error,
    Hello,
    Milliseconds,
    Ping,
    Pong,
    Push,
    Refresh,
    Refreshed,
    Stop,
    Stopped,
    ToClient,
    ToServer,
)
from server.feed.ports import Window

PAGES_IN_FLIGHT: Final = 4
"""Unanswered pages of one connection. Each occupies the database, so their number is limited."""
STOPS_IN_FLIGHT: Final = 8
"""Unanswered stops of one connection. Each occupies the database."""
STOP_DELAY: Final = Milliseconds(1_000)
"""Until a client that stops too much may try again."""
FLOOD_DELAY: Final = Milliseconds(30_000)
"""Until a client that sent too much may come back."""


class State(Enum):
    NEW = auto()
    """Connected; `hello` is awaited."""
    CHECKING = auto()
    """`hello` arrived; its token is being checked."""
    JOINING = auto()
    """The reader is registered. The database has not said yet whether its user syncs at all."""
    OPEN = auto()
    """Welcomed."""
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class Claims:
    """The contents of a valid token. `expires` is in seconds since 1970."""

    user: UUID
    expires: int


@dataclass(frozen=True, slots=True)
class Send:
    frame: ToClient


@dataclass(frozen=True, slots=True)
class Close:
    """Send this error, then close with the code that `errors.ERRORS` gives it."""

    error: Error


@dataclass(frozen=True, slots=True)
class CheckToken:
    """Verify the token, then report `accepted` or `refused`."""

    token: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Register a reader for this user, at the position of its cursor."""

    user: UUID
    client_id: UUID
    cursor: bytes | None
    window: Window
    generation: int | None


@dataclass(frozen=True, slots=True)
class ReadPage:
    """Answer the request, then report `page_answered`."""

    ask: AskPage


@dataclass(frozen=True, slots=True)
class ApplyPush:
    """Apply the push, then report `push_answered`."""

    push: Push
    claims_client_id: bool
    """No push of this connection has been acknowledged yet, so it claims the client_id from any other connection."""


@dataclass(frozen=True, slots=True)
class EndStream:
    """End the stream, then report `stop_answered`."""

    stop: Stop


Command = Send | Close | CheckToken | Subscribe | ReadPage | ApplyPush | EndStream


class Session:
    """Every call returns the commands to carry out, in order."""

    __slots__ = (
        "_acknowledged",
        "_checking",
        "_hello",
        "_mutations",
        "_pages",
        "_pushing",
        "_stops",
        "claims",
        "client_id",
        "generation",
        "schema",
        "state",
        "streams",
    )

    def __init__(self, mutations: int) -> None:
        """`mutations`: the most that one push may have."""
        self._mutations = mutations
        self.state = State.NEW
        self.claims: Claims | None = None
        """Set once `hello` was accepted; `refresh` replaces them."""
        self.client_id: UUID | None = None
        """Set by `hello`."""
        self.generation: int | None = None
        """Set by `hello`, if the client numbers its connections."""
        self.schema: str | None = None
        """Set by `hello`: the hash of the schema that the client has. None: it wants to be sent none."""
        self.streams = False
        """Set by `hello`: whether the client asked for streams."""
        self._hello: Hello | None = None
        self._checking = False
        """Whether a token is being checked. One at a time: else a flood of `refresh` would be a flood of signatures."""
        self._pages = 0
        self._stops = 0
        self._pushing = False
        """Whether a push is unanswered. One at a time: the device collects further mutations for its next push."""
        self._acknowledged = False
        """Whether a push of this connection was acknowledged; then it has claimed the client_id."""

    # --- frames of the client

    def receive(self, frame: ToServer) -> list[Command]:
        """The client sent `frame`."""
        return HANDLERS[self.state][type(frame)](self, frame)

    def malformed(self, problem: str) -> list[Command]:
        """The client sent something that is not a frame."""
        return self._close(errors.BAD_FRAME.frame(problem))

    def unknown(self, problem: str) -> list[Command]:
        """The client sent a frame that this version of the protocol does not have."""
        if self.state is State.NEW:
            return self._close(errors.HELLO_FIRST.frame())
        if self.state is State.CLOSED:
            return []
        return [Send(errors.UNKNOWN_FRAME.frame(problem))]

    def _begin(self, frame: Hello) -> list[Command]:
        self.state = State.CHECKING
        self._hello = frame
        self.client_id = frame.client_id
        self.generation = frame.generation
        self.schema = frame.schema
        self.streams = STREAMS in (frame.extras or ())
        self._checking = True
        return [CheckToken(frame.token)]

    def _hello_first(self, frame: ToServer) -> list[Command]:
        return self._close(errors.HELLO_FIRST.frame(answers=str(frame.__struct_config__.tag)))

    def _second_hello(self, frame: Hello) -> list[Command]:
        return self._close(errors.SECOND_HELLO.frame(answers="hello"))

    def _pong(self, frame: Ping) -> list[Command]:
        return [Send(Pong())]

    def _refresh(self, frame: Refresh) -> list[Command]:
        if self._checking:
            problem = "A token is being checked. Send the next one when that is answered."
            return [Send(errors.TOKEN_REFUSED.frame(problem, answers="refresh"))]
        self._checking = True
        return [CheckToken(frame.token)]

    def _page(self, frame: AskPage) -> list[Command]:
        if self._pages >= PAGES_IN_FLIGHT:
            return self._page_too_many(frame)
        self._pages += 1
        return [ReadPage(frame)]

    def _page_too_many(self, frame: AskPage) -> list[Command]:
        message = f"Ask for pages after `welcome`, and for at most {PAGES_IN_FLIGHT} before the first is answered."
        return [Send(errors.TOO_MANY_PAGES.frame(message, answers="page", id=frame.id))]

    def _push(self, frame: Push) -> list[Command]:
        if self._pushing:
            return self._push_too_many(frame)
        if problem := self._problem_of(frame):
            return self.malformed(problem)
        self._pushing = True
        return [ApplyPush(frame, claims_client_id=not self._acknowledged)]

    def _push_too_many(self, frame: Push) -> list[Command]:
        if problem := self._problem_of(frame):
            return self.malformed(problem)
        return [Send(errors.TOO_MANY_PUSHES.frame(answers="push", id=frame.n))]

    def _stop(self, frame: Stop) -> list[Command]:
        if self._stops >= STOPS_IN_FLIGHT:
            return self._stop_too_many(frame)
        self._stops += 1
        return [EndStream(frame)]

    def _stop_too_many(self, frame: Stop) -> list[Command]:
        message = f"Stop after `welcome`, and at most {STOPS_IN_FLIGHT} before the first is answered."
        return [Send(errors.SLOW_DOWN.frame(message, answers="stop", id=frame.n, retry_after=STOP_DELAY))]

    def _problem_of(self, frame: Push) -> str | None:
        if len(frame.mutations) > self._mutations:
            return f"A push has at most {self._mutations} mutations."
        if frame.held is not None and frame.held > frame.n:
            return "A push carries only mutations that the device holds: `held` is at most `n`."
        return None

    def _ignored(self, frame: ToServer) -> list[Command]:
        return []

    # --- reports of the edge

    def accepted(self, claims: Claims) -> list[Command]:
        """The token that was being checked is valid."""
        self._checking = False
        if self.state is State.CHECKING:
            assert self._hello is not None
            hello, self._hello = self._hello, None
            self.state = State.JOINING
            self.claims = claims
            return [Subscribe(claims.user, hello.client_id, hello.cursor, hello.window or {}, hello.generation)]
        if self.state not in (State.JOINING, State.OPEN):
            return []
        assert self.claims is not None
        if claims.user != self.claims.user:
            return self._close(errors.TOKEN_REFUSED.frame("This token is another user's.", answers="refresh"))
        # A refresh with an older token must not shorten the connection's life: both tokens are valid.
        self.claims = Claims(claims.user, max(claims.expires, self.claims.expires))
        return [Send(Refreshed(expires=self.claims.expires * 1_000_000))]

    def refused(self, problem: str) -> list[Command]:
        """The token that was being checked is not valid."""
        self._checking = False
        if self.state is State.CHECKING:
            return self._close(errors.TOKEN_REFUSED.frame(problem, answers="hello"))
        if self.state not in (State.JOINING, State.OPEN):
            return []
        return [Send(errors.TOKEN_REFUSED.frame(problem, answers="refresh"))]

    def welcomed(self) -> None:
        """`welcome` was sent."""
        if self.state is State.JOINING:
            self.state = State.OPEN

    def page_answered(self) -> None:
        """A page that was being read has been sent, or its connection has ended."""
        self._pages -= 1

    def stop_answered(self, answer: Stopped | Error) -> list[Command]:
        """The stream has ended, or could not be ended."""
        self._stops -= 1
        return [] if self.state is State.CLOSED else [Send(answer)]

    def push_answered(self, answer: Ack | Error) -> list[Command]:
        """The push that was being applied has its answer."""
        self._pushing = False
        if self.state is State.CLOSED:
            return []
        if isinstance(answer, Error) and ERRORS[answer.code].close is not None:
            return self._close(answer)
        self._acknowledged = self._acknowledged or isinstance(answer, Ack)
        return [Send(answer)]

    def expired(self) -> list[Command]:
        """The token in use has expired."""
        return self._close(errors.TOKEN_EXPIRED.frame())

    def flooded(self) -> list[Command]:
        """The client sends more than is permitted."""
        return self._close(errors.TOO_MANY_FRAMES.frame(retry_after=FLOOD_DELAY))

    def silent(self) -> list[Command]:
        """No `hello` arrived in time."""
        return self._close(errors.HELLO_TIMEOUT.frame())

    def ended(self) -> None:
        """The connection has ended, for whatever reason."""
        self.state = State.CLOSED

    def _close(self, error: Error) -> list[Command]:
        if self.state is State.CLOSED:
            return []
        self.state = State.CLOSED
        return [Close(error)]


HANDLERS: Final[Mapping[State, Mapping[type[ToServer], Callable[[Session, Any], list[Command]]]]] = {
    State.NEW: {
        Hello: Session._begin,
        AskPage: Session._hello_first,
        Push: Session._hello_first,
        Refresh: Session._hello_first,
        Ping: Session._hello_first,
        Stop: Session._hello_first,
    },
    State.CHECKING: {
        Hello: Session._second_hello,
        AskPage: Session._page_too_many,
        Push: Session._push_too_many,
        Refresh: Session._refresh,
        Ping: Session._pong,
        Stop: Session._stop_too_many,
    },
    State.JOINING: {
        Hello: Session._second_hello,
        AskPage: Session._page_too_many,
        Push: Session._push_too_many,
        Refresh: Session._refresh,
        Ping: Session._pong,
        Stop: Session._stop_too_many,
    },
    State.OPEN: {
        Hello: Session._second_hello,
        AskPage: Session._page,
        Push: Session._push,
        Refresh: Session._refresh,
        Ping: Session._pong,
        Stop: Session._stop,
    },
    State.CLOSED: dict.fromkeys((Hello, AskPage, Push, Refresh, Ping, Stop), Session._ignored),
}
"""What each state does with each frame of a client."""
