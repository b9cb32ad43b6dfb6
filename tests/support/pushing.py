"""A device that writes: it numbers mutations, hears their results, and keeps what the feed brings back."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from protocol.codec import MSGPACK, Codec
from protocol.frames import (
    Ack,
    Applied,
    Changes,
    Conversation,
    ConversationDeleted,
    CreateConversation,
    CreateMessage,
    DeleteMessage,
    EditMessage,
    Error,
    Hello,
    Live,
    Message,
    MessageDeleted,
    Mutation,
    Profile,
    ProfileDeleted,
    Push,
    Rejected,
    RenameConversation,
    Result,
    Row,
    Snapshot,
    ToClient,
    Welcome,
    Window,
)
from tests.support.cluster import Database
from tests.support.oracle import State, select_everything
from tests.support.peer import Peer, peer
from tests.support.serving import token

Raw: TypeAlias = msgspec.Raw
Said: TypeAlias = Mutation | Raw
"""A mutation, or bytes that stand where one should."""
UNLIMITED: dict[str, Any] = {"push_rate": 1e9, "push_burst": 1_000_000, "hellos_per_minute": 1_000_000}
"""Settings for tests that are not about the rate."""
_PACKER = msgspec.msgpack.Encoder(uuid_format="bytes")
NOBODYS = UUID(int=0)
EVERYTHING = Window(conversations=500, messages=200)


def now() -> int:
    """This instant."""
    return int(time.time() * 1e6)


def encoded(value: object, codec: Codec = MSGPACK) -> bytes:
    """Any value."""
    return msgspec.json.encode(value) if codec.text else _PACKER.encode(value)


def raw(value: object, codec: Codec = MSGPACK) -> Raw:
    """Any value, in a mutation's place."""
    return Raw(encoded(value, codec))


@contextlib.asynccontextmanager
async def administrator(database: Database) -> AsyncIterator[Any]:
    """A connection that is closed whatever happens: one that is left open hangs the end of the test's loop."""
    connection = await database.connect()
    try:
        yield connection
    finally:
        await connection.close()


class PushingDevice(Peer):
    def __init__(
        self,
        socket: ClientConnection,
        codec: Codec,
        user: UUID,
        client_id: UUID,
        next_number: int,
        generation: int | None = None,
    ) -> None:
        super().__init__(socket, codec)
        self.user = user
        self.client_id = client_id
        self.generation = generation
        self.number = next_number
        """Of the next mutation."""
        self.position = 0
        """What the last `changes` or `live` said (SPEC.md 6.2)."""
        self.rows: list[Row] = []
        """Everything that came in `changes`."""
        self._held: dict[tuple[str, UUID], tuple[int, tuple[object, ...] | None]] = {}
        self.welcome: Welcome | None = None

    async def hear(self) -> ToClient:
        frame = await super().hear()
        if isinstance(frame, Changes | Snapshot):
            for row in frame.rows:
                self._apply(row)
        if isinstance(frame, Changes):
            self.rows += frame.rows
        if isinstance(frame, Changes | Live) and frame.seq is not None:
            assert frame.seq >= self.position, "the position went back"
            self.position = frame.seq
        return frame

    async def hello(self, **token_options: Any) -> None:
        bearer = token(self.user, **token_options)
        hello = Hello(
            token=bearer,
            client_id=self.client_id,
            cursor=self.cursor,
            window=EVERYTHING,
            generation=self.generation,
        )
        await self.say(hello)

    async def say_push(self, *mutations: Said, n: int | None = None, held: int | None = None) -> int:
        """Without waiting for the answer; returns the first number."""
        first = self.number if n is None else n
        data = [each if isinstance(each, Raw) else self.codec.encode_mutation(each) for each in mutations]
        await self.say(Push(n=first, mutations=data, held=held))
        return first

    async def answer(self) -> Ack | Error:
        """The answer to a push."""
        while True:
            frame = await self.hear()
            if isinstance(frame, Ack) or (isinstance(frame, Error) and frame.answers == "push"):
                return frame

    async def push(self, *mutations: Said, n: int | None = None) -> list[Result]:
        """The results. Numbers go on from the last push, if `n` does not say otherwise."""
        first = await self.say_push(*mutations, n=n)
        answer = await self.answer()
        assert isinstance(answer, Ack), answer
        assert [result.n for result in answer.results] == list(range(first, first + len(mutations)))
        self.number = first + len(mutations)
        return answer.results

    async def apply(self, *mutations: Said, n: int | None = None) -> int:
        """Push what must be applied, all of it; returns the highest seq."""
        results = await self.push(*mutations, n=n)
        assert [type(result) for result in results] == [Applied] * len(mutations), results
        return max(result.seq for result in results if isinstance(result, Applied))

    async def rejection(self, mutation: Said, *, n: int | None = None) -> Rejected:
        (result,) = await self.push(mutation, n=n)
        assert isinstance(result, Rejected), result
        return result

    async def refused_push(self, *mutations: Said, n: int | None = None) -> Error:
        """Push what must be answered with an error."""
        first = await self.say_push(*mutations, n=n)
        answer = await self.answer()
        assert isinstance(answer, Error), answer
        assert answer.id == first
        return answer

    async def patient_push(self, *mutations: Said, n: int | None = None) -> list[Result]:
        """The results, after as many errors as it takes; each as late as it asks for (SPEC.md 8.6)."""
        first = self.number if n is None else n
        while True:
            await self.say_push(*mutations, n=first)
            answer = await self.answer()
            if isinstance(answer, Ack):
                self.number = first + len(mutations)
                return answer.results
            assert answer.retryable, answer
            await asyncio.sleep((answer.retry_after or 0) / 1_000)

    async def reach(self, seq: int) -> State:
        """Hear until the position is there: what is held then."""
        while self.position < seq:
            await self.hear()
        return self.state()

    def state(self) -> State:
        return {key: row for key, (_, row) in self._held.items() if row is not None}

    def _apply(self, row: Row) -> None:
        """SPEC.md 5.2 and 5.3."""
        kind = {
            Profile: "p",
            ProfileDeleted: "p",
            Conversation: "c",
            ConversationDeleted: "c",
            Message: "m",
            MessageDeleted: "m",
        }[type(row)]
        if row.seq >= self._held.get((kind, row.id), (0, None))[0]:
            columns: tuple[object, ...] | None = msgspec.structs.astuple(row)[2:]
            self._held[kind, row.id] = row.seq, columns or None
        if isinstance(row, ConversationDeleted):
            for key, (seq, columns) in self._held.items():
                if key[0] == "m" and columns is not None and columns[0] == row.id and seq <= row.seq:
                    self._held[key] = row.seq, None


@contextlib.asynccontextmanager
async def said_hello(
    url: str,
    user: UUID,
    client_id: UUID | None = None,
    codec: Codec = MSGPACK,
    *,
    n: int = 1,
    generation: int | None = None,
) -> AsyncIterator[PushingDevice]:
    """One that has said hello, and waited for nothing."""
    async with peer(url, codec) as one:
        device = PushingDevice(one.socket, codec, user, client_id or uuid4(), n, generation)
        await device.hello()
        yield device


@contextlib.asynccontextmanager
async def pushing(
    url: str, user: UUID, client_id: UUID | None = None, codec: Codec = MSGPACK, *, n: int = 1
) -> AsyncIterator[PushingDevice]:
    """One that is live."""
    async with said_hello(url, user, client_id, codec, n=n) as device:
        device.welcome = await device.hear_a(Welcome)
        await device.hear_a(Live)
        yield device


# ---- The database's own memory of what was done to it --------------------------------------------------------------


async def keep_audit(sql: Any) -> None:
    """As an app may: every change of a text, in the order of the changes. What is done twice is here twice."""
    await sql.execute(
        """
        CREATE TABLE public.audit (n bigserial PRIMARY KEY, op text, id uuid, said text);
        CREATE FUNCTION public.keep_audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        DECLARE
            changed jsonb := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END);
        BEGIN
            INSERT INTO public.audit (op, id, said)
            VALUES (TG_OP, (changed ->> 'id')::uuid, coalesce(changed ->> 'content', changed ->> 'title'));
            RETURN NULL;
        END
        $$;
        CREATE TRIGGER keep_audit AFTER INSERT OR DELETE OR UPDATE OF title ON public.conversations
            FOR EACH ROW EXECUTE FUNCTION public.keep_audit();
        CREATE TRIGGER keep_audit AFTER INSERT OR DELETE OR UPDATE OF content ON public.messages
            FOR EACH ROW EXECUTE FUNCTION public.keep_audit();
        """
    )


RULES: dict[str, str] = {
    "a check": "ALTER TABLE messages ADD CHECK (content NOT LIKE '%darn%')",
    "a trigger that raises": """
        CREATE FUNCTION public.rule() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF NEW.content LIKE '%darn%' THEN RAISE EXCEPTION 'No %', NEW.content; END IF; RETURN NEW; END $$;
        CREATE TRIGGER rule BEFORE INSERT OR UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION public.rule()""",
    "a trigger that raises afterwards": """
        CREATE FUNCTION public.rule() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF NEW.content LIKE '%darn%' THEN RAISE EXCEPTION 'No %', NEW.content; END IF; RETURN NULL; END $$;
        CREATE TRIGGER rule AFTER INSERT OR UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION public.rule()""",
    "a trigger that raises at commit": """
        CREATE FUNCTION public.rule() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF NEW.content LIKE '%darn%' THEN RAISE EXCEPTION 'No %', NEW.content; END IF; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER rule AFTER INSERT OR UPDATE ON messages DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION public.rule()""",
    "a trigger that forbids": """
        CREATE FUNCTION public.rule() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF NEW.content LIKE '%darn%' THEN
            RAISE insufficient_privilege USING MESSAGE = 'No ' || NEW.content; END IF; RETURN NEW; END $$;
        CREATE TRIGGER rule BEFORE INSERT OR UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION public.rule()""",
    "a trigger that divides by zero": """
        CREATE FUNCTION public.rule() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM 1 / (NEW.content NOT LIKE '%darn%')::int; RETURN NEW; END $$;
        CREATE TRIGGER rule BEFORE INSERT OR UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION public.rule()""",
    "a unique index": """
        CREATE TABLE public.said (what text UNIQUE); INSERT INTO public.said VALUES ('darn');
        CREATE FUNCTION public.rule() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN INSERT INTO public.said SELECT 'darn' WHERE NEW.content LIKE '%darn%'; RETURN NEW; END $$;
        CREATE TRIGGER rule BEFORE INSERT OR UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION public.rule()""",
}
"""What an app may have against a message whose content says «darn»."""


Audit = list[tuple[str, UUID, str]]


async def audit(sql: Any, *ids: UUID) -> Audit:
    """Of these rows."""
    records = await sql.fetch("SELECT op, id, said FROM public.audit WHERE id = ANY($1) ORDER BY n", list(ids))
    return [(record["op"], UUID(str(record["id"])), record["said"]) for record in records]


class Story:
    """What somebody did in one conversation, offline or not: mutations, some of them bad, each with a text of its own,
    and what the audit must say when each was applied exactly once, in order."""

    def __init__(self, rng: random.Random, length: int) -> None:
        self.conversation = uuid4()
        self.mutations: list[Mutation] = []
        self.audit: Audit = []
        self.rejected: dict[int, str] = {}
        self.ids = [self.conversation]
        self._rng = rng
        self._messages: list[tuple[UUID, int, str]] = []
        self._add(CreateConversation(self.conversation, "0", now()), ("INSERT", self.conversation, "0"))
        while len(self.mutations) < length:
            self._go_on(str(len(self.mutations)))

    def _add(self, mutation: Mutation, audited: tuple[str, UUID, str] | None) -> None:
        self.mutations.append(mutation)
        if audited is not None:
            self.audit.append(audited)

    def _go_on(self, text: str) -> None:
        choice = self._rng.random()
        if choice < 0.3:
            self._add(RenameConversation(self.conversation, text, now()), ("UPDATE", self.conversation, text))
        elif choice < 0.6 or not self._messages:
            message, at = uuid4(), now()
            self.ids.append(message)
            self._messages.append((message, at, text))
            self._add(CreateMessage(message, self.conversation, "user", text, at), ("INSERT", message, text))
        elif choice < 0.8:
            which = self._rng.randrange(len(self._messages))
            message, at, _ = self._messages[which]
            self._messages[which] = message, at, text
            self._add(EditMessage(message, at, text, now()), ("UPDATE", message, text))
        elif choice < 0.9:
            message, at, last = self._messages.pop(self._rng.randrange(len(self._messages)))
            self._add(DeleteMessage(message, at), ("DELETE", message, last))
        else:
            self.rejected[len(self.mutations) + 1] = "unknown_conversation"
            self._add(RenameConversation(NOBODYS, text, now()), None)

    async def told(self, sql: Any) -> Audit:
        return await audit(sql, *self.ids)


# ---- Rejections -----------------------------------------------------------------------------------------------------

CONTENT = "nobody-else-may-read-this"


def is_fit_to_show(result: Rejected) -> None:
    """A sentence for people, with nothing of what was written and nothing of our insides."""
    message = result.message
    assert 10 < len(message) < 300, result
    assert message[0].isupper(), result
    assert message[-1] in ".!?", result
    assert "\n" not in message, result
    for never in (CONTENT, "psql", "asyncpg", "sync.", "public.", "violates", "constraint", "Traceback", "msgspec"):
        assert never not in message, result


async def between_good_ones(device: PushingDevice, sql: Any, *bad: Said) -> list[Rejected]:
    """Push them, each between two that must be applied. Their rejections."""
    conversation, at = uuid4(), now()
    good: list[Said] = [
        CreateConversation(conversation, f"{CONTENT} 0", at),
        *(RenameConversation(conversation, f"{CONTENT} {number}", at) for number in range(1, len(bad) + 1)),
    ]
    pushed: list[Said] = [good[0]]
    for one, other in zip(bad, good[1:], strict=True):
        pushed += [one, other]
    before = await select_everything(sql, device.user)
    results = await device.push(*pushed)
    assert [type(result) for result in results[::2]] == [Applied] * len(good), results
    after = await select_everything(sql, device.user)
    assert after == {**before, ("c", conversation): (f"{CONTENT} {len(bad)}", at, at)}
    assert await device.reach(max(result.seq for result in results if isinstance(result, Applied))) == after
    rejections = []
    for mutation, result in zip(pushed[1::2], results[1::2], strict=True):
        assert isinstance(result, Rejected), (mutation, result)
        is_fit_to_show(result)
        rejections.append(result)
    # Its number is consumed, and the same rejection is told again.
    repeated = await device.push(*pushed, n=device.number - len(pushed))
    assert repeated[1::2] == rejections
    return rejections


# ---- What is sent until it has a result -----------------------------------------------------------------------------

CUT_OFF = (ConnectionClosed, InvalidHandshake, OSError, EOFError, TimeoutError)
"""How a connection ends that somebody breaks."""


class Outbox:
    """A story that is told to a server which may go away at any moment: what has no result is sent again."""

    def __init__(self, user: UUID, story: Story, rng: random.Random) -> None:
        self.user = user
        self.story = story
        self.client_id = uuid4()
        self.results: list[Result] = []
        self.connections = 0
        self.errors: Counter[str] = Counter()
        self._rng = rng

    @property
    def done(self) -> bool:
        return len(self.results) == len(self.story.mutations)

    def kinds(self) -> Counter[str]:
        return Counter(type(result).__name__ for result in self.results)

    async def deliver(self, url: str) -> None:
        """However often it takes: whoever calls bounds the time, for a server may be long in starting."""
        while True:
            try:
                self.connections += 1
                async with said_hello(url, self.user, self.client_id, generation=self.connections) as device:
                    await device.hear_a(Welcome)
                    await self._deliver_on(device)
                return
            except CUT_OFF:
                await asyncio.sleep(self._rng.random() * 0.02)

    async def _deliver_on(self, device: PushingDevice) -> None:
        while not self.done:
            rest = self.story.mutations[len(self.results) :][: self._rng.randint(1, 6)]
            first = len(self.results) + 1
            await device.say_push(*rest, n=first, held=first)
            answer = await device.answer()
            if isinstance(answer, Ack):
                assert [result.n - len(self.results) for result in answer.results] == list(range(1, len(rest) + 1))
                self.results += answer.results
            else:
                self.errors[answer.code] += 1
                assert answer.code in ("unavailable", "slow_down"), answer
                await asyncio.sleep((answer.retry_after or 0) / 1_000)

    async def check(self, sql: Any) -> None:
        """Every mutation has its result, and was done once and in order."""
        story = self.story
        assert self.done
        assert {result.n: result.code for result in self.results if isinstance(result, Rejected)} == story.rejected
        assert await story.told(sql) == story.audit


def results_without_seq(results: Sequence[Result]) -> list[tuple[str, int]]:
    return [(type(result).__name__, result.n) for result in results]
