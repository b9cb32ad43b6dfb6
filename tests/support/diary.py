"""A device that remembers every text it wrote, and what a database must hold of them after its history changed."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from atlas_sync.chat import create_message, rename_conversation
from atlas_sync.mutation import Applied, Insert, Update
from atlas_sync.outbox import EntryState
from atlas_sync.session import Acknowledged, Event, Welcomed
from tests.support.client_device import ClientDevice
from tests.support.oracle import select_everything
from tests.support.people import add_conversation, add_user
from tests.support.waiting import LIMIT, eventually


class Diarist(ClientDevice):
    """Writes in one conversation, each time another text. A text that is applied twice is twice in the audit."""

    def __init__(self, url: str, user: UUID, conversation: UUID) -> None:
        super().__init__(url, user)
        self.conversation = conversation
        self.said: list[str] = []
        self.due: list[str] = []
        """Texts that the database must apply once, in this order: held when the history changed, or written since."""
        self.epochs: list[str] = []
        """The epochs that welcomed it, without immediate repeats."""
        self.applied: list[str] = []
        """Texts acknowledged as applied (not as repeated), each as often as it was acknowledged."""
        self._texts: dict[int, str] = {}

    def say(self, times: int = 1) -> None:
        for _ in range(times):
            text = f"{self.user} says {len(self.said)} on {self.client_id}"
            if len(self.said) % 3 == 2:
                self.outbox.add(create_message(uuid4(), self.conversation, "user", text, self.now()))
            else:
                self.outbox.add(rename_conversation(self.conversation, text, self.now()))
            self.said.append(text)
            self.due.append(text)
        self._remember_numbers()

    @property
    def held(self) -> list[str]:
        """Texts without a result, or acknowledged and not yet back through the feed."""
        return [self._text(entry.mutation) for entry in self.outbox.entries if entry.state is not EntryState.REJECTED]

    @property
    def all_acked(self) -> bool:
        """Everything that is held has been acknowledged."""
        return all(entry.state is EntryState.ACKED for entry in self.outbox.entries)

    def part(self) -> None:
        """The history changes here. No database owes a text any more that the device has removed from its outbox."""
        self.due = self.held

    def check_said(self, audit: Sequence[str]) -> None:
        """`audit`: every text that was ever written to the database, in order."""
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
        assert isinstance(mutation, Insert | Update)
        return str(mutation.columns["content" if isinstance(mutation, Insert) else "title"])


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
    """Run the devices, live, until the end of the block. Raises what a device objected to."""
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
    """Wait until every outbox is empty and every device holds what SELECT finds. Each due text must be here once."""

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
    """Wait until every due text was written to this database. Each must be there once."""

    async def are_given() -> bool:
        return {text for device in devices for text in device.due} <= set(await texts(sql))

    with contextlib.suppress(AssertionError):
        await eventually(are_given, limit)
    audit = await texts(sql)
    for device in devices:
        device.check_said(audit)


async def texts(sql: Any) -> list[str]:
    """Every text that was ever written to the database, in order."""
    return [row["said"] for row in await sql.fetch("SELECT said FROM audit ORDER BY n")]
