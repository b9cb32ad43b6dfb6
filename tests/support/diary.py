"""A device that remembers all it said, and what a database must have of it after the history of another has parted."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from atlas_sync.mutation import Applied, CreateMessage, RenameConversation
from atlas_sync.outbox import EntryState
from atlas_sync.session import Acknowledged, Event, Welcomed
from tests.support.client_device import ClientDevice
from tests.support.oracle import select_everything
from tests.support.people import add_conversation, add_user
from tests.support.waiting import LIMIT, eventually


class Diarist(ClientDevice):
    """It writes in one conversation, each time another text. What is applied twice is twice in the database's audit."""

    def __init__(self, url: str, user: UUID, conversation: UUID) -> None:
        super().__init__(url, user)
        self.conversation = conversation
        self.said: list[str] = []
        self.due: list[str] = []
        """What the database must have applied, once and in this order: held when the history parted, or said since."""
        self.epochs: list[str] = []
        """Of the histories that it was welcomed by; one that follows itself is there once."""
        self.applied: list[str] = []
        """What it was told to be applied now, and not before; a text is here as often as that was said."""
        self._texts: dict[int, str] = {}

    def say(self, times: int = 1) -> None:
        for _ in range(times):
            text = f"{self.user} says {len(self.said)} on {self.client_id}"
            if len(self.said) % 3 == 2:
                self.outbox.add(CreateMessage(uuid4(), self.conversation, "user", text, self.now()))
            else:
                self.outbox.add(RenameConversation(self.conversation, text, self.now()))
            self.said.append(text)
            self.due.append(text)
        self._remember_numbers()

    @property
    def held(self) -> list[str]:
        """What is not settled: without a result, or acknowledged and not yet back through the feed."""
        return [self._text(entry.mutation) for entry in self.outbox.entries if entry.state is not EntryState.REJECTED]

    @property
    def all_acked(self) -> bool:
        """Everything that is held has been acknowledged."""
        return all(entry.state is EntryState.ACKED for entry in self.outbox.entries)

    def part(self) -> None:
        """The history parts here: what the device has let go of is no database's duty any more."""
        self.due = self.held

    def check_said(self, audit: Sequence[str]) -> None:
        """`audit`: every text that the database was ever given, by anybody, in its order."""
        mine = set(self.said)
        there = [text for text in audit if text in mine]
        lost = [text for text in self.due if text not in there]
        assert not lost, f"lost: {lost}"
        ordered = [text for text in self.said if text in there]
        assert there == ordered, f"twice, or in another order: {there}"
        assert not self.outbox.quarantine, self.outbox.quarantine

    def _on_event(self, event: Event) -> None:
        super()._on_event(event)
        if isinstance(event, Welcomed) and self.epochs[-1:] != [event.epoch]:
            self.epochs.append(event.epoch)
            self.part()
            # Another history may count its own way.
            self._newest.clear()
        if isinstance(event, Acknowledged):
            self.applied += [self._texts[result.n] for result in event.results if isinstance(result, Applied)]
        self._remember_numbers()

    def _remember_numbers(self) -> None:
        self._texts.update((entry.n, self._text(entry.mutation)) for entry in self.outbox.entries)

    @staticmethod
    def _text(mutation: object) -> str:
        assert isinstance(mutation, CreateMessage | RenameConversation)
        text = mutation.content if isinstance(mutation, CreateMessage) else mutation.title
        assert text is not None
        return text


async def diarists(sql: Any, *urls: str) -> list[Diarist]:
    """A device at each of these URLs, all of one user and in one conversation."""
    user = await add_user(sql)
    conversation = await add_conversation(sql, user, f"{user} begins")
    return [Diarist(url, user, conversation) for url in urls]


async def diarist(sql: Any, url: str) -> Diarist:
    """One of a user of its own."""
    (device,) = await diarists(sql, url)
    return device


@contextlib.asynccontextmanager
async def living(*devices: Diarist) -> AsyncIterator[None]:
    """They are live; in the end they are stopped, and what one objected to is raised."""
    for device in devices:
        device.start()
    try:
        for device in devices:
            assert device.device is not None
            await device.device.wait_live(LIMIT)
        yield
    finally:
        for device in devices:
            await device.stop()


async def settled(sql: Any, *devices: Diarist, limit: float = LIMIT) -> None:
    """Wait until each has let go of everything and holds what SELECT finds. Then all that is due is here, once."""

    async def is_settled(device: Diarist) -> bool:
        device.check()
        return not device.outbox.entries and device.state() == await select_everything(sql, device.user)

    for device in devices:
        try:
            await eventually(partial(is_settled, device), limit)
        except AssertionError:
            device.check()
            assert not device.held, f"still held: {device.held}"
            found = await select_everything(sql, device.user)
            wrong = dict(found.items() ^ device.state().items())
            assert not wrong, f"held or found, but not both: {wrong}"
    await given(sql, *devices, limit=0)


async def given(sql: Any, *devices: Diarist, limit: float = LIMIT) -> None:
    """Wait until the database was given all that is due here; each once."""

    async def are_given() -> bool:
        return {text for device in devices for text in device.due} <= set(await texts(sql))

    with contextlib.suppress(AssertionError):
        await eventually(are_given, limit)
    audit = await texts(sql)
    for device in devices:
        device.check_said(audit)


async def texts(sql: Any) -> list[str]:
    """Everything that the database was ever given to keep, in its order."""
    return [row["said"] for row in await sql.fetch("SELECT said FROM audit ORDER BY n")]
