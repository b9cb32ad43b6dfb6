"""What may be said when: one connection's conversation as a table of states. Pure: frames in, commands out.

    NEW ──hello──▶ CHECKING ──accepted──▶ JOINING ──welcomed──▶ OPEN
     any state ── a frame that is not allowed there, or an end that the edge reports ──▶ CLOSED

The edge decodes, carries out the commands, and reports back what happened (`accepted`, `refused`, …).
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final
from uuid import UUID

from protocol.close import CloseCode
from protocol.frames import (
    DEFAULT_ROWS,
    Ack,
    AskPage,
    Error,
    Hello,
    Ping,
    Pong,
    Push,
    Refresh,
    Refreshed,
    ToClient,
    ToServer,
)
from server.feed.ports import Window

PAGES_IN_FLIGHT: Final = 4
"""Unanswered pages of one connection: a page waits for the database, and so must not be free."""
FLOODED: Final = 30_000
"""Milliseconds until a client that sent too much may come back."""


DEADLY: Final = {"replaced": CloseCode.REPLACED, "local_only": CloseCode.LOCAL_ONLY}
"""Answers to a push that end the connection."""


class State(Enum):
    NEW = auto()
    """Connected; `hello` is awaited."""
    CHECKING = auto()
    """`hello` came; its token is being checked."""
    JOINING = auto()
    """The reader is registered; whether its user syncs at all, the database has not said yet."""
    OPEN = auto()
    """Welcomed."""
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says. `expires` is in seconds since 1970."""

    user: UUID
    expires: int


@dataclass(frozen=True, slots=True)
class Send:
    frame: ToClient


@dataclass(frozen=True, slots=True)
class Close:
    code: CloseCode
    error: Error


@dataclass(frozen=True, slots=True)
class CheckToken:
    """Verify, then report `accepted` or `refused`."""

    token: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Register a reader for this user, where its cursor says."""

    user: UUID
    client_id: UUID
    cursor: bytes | None
    window: Window
    generation: int | None


@dataclass(frozen=True, slots=True)
class ReadPage:
    """Answer this, then report `page_answered`."""

    ask: AskPage


@dataclass(frozen=True, slots=True)
class Write:
    """Have this written, then report `push_answered`. `takes`: it is the connection's first."""

    push: Push
    takes: bool


Command = Send | Close | CheckToken | Subscribe | ReadPage | Write


class Session:
    """One connection's side of the protocol. Every call returns the commands to carry out, in order."""

    __slots__ = (
        "_checking",
        "_hello",
        "_mutations",
        "_pages",
        "_pushing",
        "_took",
        "claims",
        "client_id",
        "generation",
        "state",
    )

    def __init__(self, mutations: int) -> None:
        """`mutations`: of one push, at most."""
        self._mutations = mutations
        self.state = State.NEW
        self.claims: Claims | None = None
        """Set once `hello` was accepted; moved by `refresh`."""
        self.client_id: UUID | None = None
        """Set by `hello`."""
        self.generation: int | None = None
        """Set by `hello`, if the client says which of its connections this is."""
        self._hello: Hello | None = None
        self._checking = False
        """A token is being checked; one at a time, or a flood of `refresh` would be a flood of signatures."""
        self._pages = 0
        self._pushing = False
        """One at a time: what a device makes meanwhile travels in its next push."""
        self._took = False
        """A push of this connection was acknowledged, so it has the client_id, or had it."""

    def receive(self, frame: ToServer) -> list[Command]:
        """The client said `frame`."""
        if self.state is State.CLOSED:
            return []
        if isinstance(frame, Hello):
            if self.state is not State.NEW:
                return self._close(
                    CloseCode.BAD_FRAME, "second_hello", "`hello` is said once, as the first frame.", answers="hello"
                )
            self.state = State.CHECKING
            self._hello = frame
            self.client_id = frame.client_id
            self.generation = frame.generation
            self._checking = True
            return [CheckToken(frame.token)]
        if self.state is State.NEW:
            return self._hello_first(str(frame.__struct_config__.tag))
        if isinstance(frame, Ping):
            return [Send(Pong())]
        if isinstance(frame, Refresh):
            return self._refresh(frame)
        if isinstance(frame, Push):
            return self._push(frame)
        return self._page(frame)

    def _refresh(self, frame: Refresh) -> list[Command]:
        if self._checking:
            return [Send(refusal("A token is being checked already; send the next one when that is answered."))]
        self._checking = True
        return [CheckToken(frame.token)]

    def _page(self, frame: AskPage) -> list[Command]:
        if self.state is not State.OPEN or self._pages >= PAGES_IN_FLIGHT:
            message = f"Ask for pages after `welcome`, and at most {PAGES_IN_FLIGHT} before the first is answered."
            return [Send(Error(code="too_many_pages", message=message, retryable=True, answers="page", id=frame.id))]
        self._pages += 1
        return [ReadPage(frame)]

    def _push(self, frame: Push) -> list[Command]:
        if len(frame.mutations) > self._mutations:
            return self.malformed(f"A push has at most {self._mutations} mutations.")
        if frame.held is not None and frame.held > frame.n:
            return self.malformed("What a push carries is held: `held` is `n` at most.")
        if self.state is not State.OPEN or self._pushing:
            message = "Push after `welcome`, and when the last push is answered."
            return [Send(Error(code="too_many_pushes", message=message, retryable=True, answers="push", id=frame.n))]
        self._pushing = True
        return [Write(frame, takes=not self._took)]

    def malformed(self, problem: str) -> list[Command]:
        """The client sent something that is no frame."""
        return self._close(CloseCode.BAD_FRAME, "bad_frame", problem)

    def unknown(self, problem: str) -> list[Command]:
        """The client sent a frame of a later version of this protocol."""
        if self.state is State.NEW:
            return self._hello_first(None)
        if self.state is State.CLOSED:
            return []
        return [Send(Error(code="unknown_frame", message=problem, retryable=False))]

    def accepted(self, claims: Claims) -> list[Command]:
        """The token that was being checked is good."""
        self._checking = False
        if self.state is State.CHECKING:
            assert self._hello is not None
            hello, self._hello = self._hello, None
            self.state = State.JOINING
            self.claims = claims
            return [Subscribe(claims.user, hello.client_id, hello.cursor, _window(hello), hello.generation)]
        if self.state not in (State.JOINING, State.OPEN):
            return []
        assert self.claims is not None
        if claims.user != self.claims.user:
            return self._close(
                CloseCode.TOKEN_REFUSED, "token_refused", "This token is another user's.", answers="refresh", again=True
            )
        # An older token than the one in use must not shorten the connection's life: both are valid.
        self.claims = Claims(claims.user, max(claims.expires, self.claims.expires))
        return [Send(Refreshed(expires=self.claims.expires * 1_000_000))]

    def refused(self, problem: str) -> list[Command]:
        """The token that was being checked is not good."""
        self._checking = False
        if self.state is State.CHECKING:
            return self._close(CloseCode.TOKEN_REFUSED, "token_refused", problem, answers="hello", again=True)
        return [Send(refusal(problem))] if self.state in (State.JOINING, State.OPEN) else []

    def welcomed(self) -> None:
        """The hello is answered."""
        if self.state is State.JOINING:
            self.state = State.OPEN

    def page_answered(self) -> None:
        self._pages -= 1

    def push_answered(self, answer: Ack | Error) -> list[Command]:
        """The push that was being written has its answer."""
        self._pushing = False
        if self.state is State.CLOSED:
            return []
        if isinstance(answer, Error) and answer.code in DEADLY:
            self.state = State.CLOSED
            return [Close(DEADLY[answer.code], answer)]
        self._took = self._took or isinstance(answer, Ack)
        return [Send(answer)]

    def expired(self) -> list[Command]:
        """The token in use has ended."""
        return self._close(
            CloseCode.TOKEN_EXPIRED, "token_expired", "The token has ended. Come back with a new one.", again=True
        )

    def flooded(self) -> list[Command]:
        """The client sends more than is permitted."""
        message = "This connection sends more than is permitted. Come back after the delay, and send less."
        return self._close(CloseCode.TOO_MANY_FRAMES, "too_many_frames", message, again=True, retry_after=FLOODED)

    def silent(self) -> list[Command]:
        """No hello came in time."""
        return self._close(CloseCode.HELLO_TIMEOUT, "hello_timeout", "No `hello` came in time.", again=True)

    def ended(self) -> None:
        """The connection is over, for whatever reason."""
        self.state = State.CLOSED

    def _hello_first(self, answers: str | None) -> list[Command]:
        message = "The first frame of a connection is `hello`."
        return self._close(CloseCode.BAD_FRAME, "hello_first", message, answers=answers)

    def _close(
        self,
        code: CloseCode,
        name: str,
        message: str,
        *,
        answers: str | None = None,
        again: bool = False,
        retry_after: int | None = None,
    ) -> list[Command]:
        if self.state is State.CLOSED:
            return []
        self.state = State.CLOSED
        error = Error(code=name, message=message, retryable=again, answers=answers, retry_after=retry_after)
        return [Close(code, error)]


def _window(hello: Hello) -> Window:
    asked = hello.window
    conversations, messages = (None, None) if asked is None else (asked.conversations, asked.messages)
    return Window(
        DEFAULT_ROWS if conversations is None else conversations, DEFAULT_ROWS if messages is None else messages
    )


def refusal(problem: str) -> Error:
    return Error(code="token_refused", message=problem, retryable=True, answers="refresh")
