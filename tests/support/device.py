"""A device on the wire that writes: it numbers mutations and receives their results."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import msgspec
from websockets.asyncio.client import ClientConnection

from protocol.codec import MSGPACK, Codec
from protocol.frames import (
    Ack,
    Applied,
    Changes,
    Error,
    Hello,
    Live,
    Push,
    Rejected,
    Result,
    ToClient,
)
from tests.support import rows
from tests.support.oracle import State
from tests.support.peer import Peer, peer
from tests.support.rows import Mutation
from tests.support.serving import token

Raw: TypeAlias = msgspec.Raw
Said: TypeAlias = Mutation | Raw
"""A mutation, or bytes that stand where one should."""
UNLIMITED: dict[str, Any] = {"push_rate": 1e9, "push_burst": 1_000_000, "hellos_per_minute": 1_000_000}
"""Settings for tests that are not about the rate."""
_PACKER = msgspec.msgpack.Encoder(uuid_format="bytes")
NOBODYS = UUID(int=0)
EVERYTHING = {"conversation": 500, "message": 200}


def now() -> int:
    """This instant."""
    return int(time.time() * 1e6)


def encoded(value: object, codec: Codec = MSGPACK) -> bytes:
    """Any value."""
    return msgspec.json.encode(value) if codec.text else _PACKER.encode(value)


def raw(value: object, codec: Codec = MSGPACK) -> Raw:
    """Any value, in a mutation's place."""
    return Raw(encoded(value, codec))


class PushingDevice(Peer):
    """One connection of one device. It keeps every row of `changes`, and the position (SPEC.md 6.2)."""

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
        self.rows: list[Any] = []
        """Everything that came in `changes`."""

    async def hear(self) -> ToClient:
        frame = await super().hear()
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
        data = [each if isinstance(each, Raw) else rows.encoded(each, self.codec) for each in mutations]
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


@contextlib.asynccontextmanager
async def greeting_device(
    url: str,
    user: UUID,
    client_id: UUID | None = None,
    codec: Codec = MSGPACK,
    *,
    n: int = 1,
    generation: int | None = None,
) -> AsyncIterator[PushingDevice]:
    """A device that has sent `hello` and has received nothing yet."""
    async with peer(url, codec) as one:
        device = PushingDevice(one.socket, codec, user, client_id or uuid4(), n, generation)
        await device.hello()
        yield device


@contextlib.asynccontextmanager
async def live_device(
    url: str, user: UUID, client_id: UUID | None = None, codec: Codec = MSGPACK, *, n: int = 1
) -> AsyncIterator[PushingDevice]:
    """A device that is live."""
    async with greeting_device(url, user, client_id, codec, n=n) as device:
        await device.hear_a(Live)
        yield device


def results_without_seq(results: Sequence[Result]) -> list[tuple[str, int]]:
    return [(type(result).__name__, result.n) for result in results]
