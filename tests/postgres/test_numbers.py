"""A mutation number means one mutation: only the same mutation is answered with `repeated`, in every history."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from server.declaration.chat import CHAT
from server.declaration.synced import Synced
from server.postgres.writer import PostgresWriter
from server.write.push import Change, Outcome, OwnedPush, Rejection
from tests.support.checked import checked
from tests.support.cluster import Database
from tests.support.people import add_conversation, add_user
from tests.support.pools import pool_of_one
from tests.support.rows import RenameConversation

SECONDS = 10.0
SLACK = 16
"""Digests that are kept below what the device holds."""


@pytest.fixture
async def writer(every_database: Database) -> AsyncIterator[PostgresWriter]:
    pool = pool_of_one(every_database)
    yield PostgresWriter(pool, Synced(CHAT))
    pool.terminate()


@pytest.fixture
async def admin(every_database: Database) -> AsyncIterator[Any]:
    connection = await every_database.connect()
    yield connection
    await connection.close()


class Device:
    """One installation, which pushes what a test says."""

    def __init__(self, writer: PostgresWriter, user: UUID, conversation: UUID) -> None:
        self.writer = writer
        self.conversation = conversation
        self.bare = OwnedPush(
            user=user,
            client_id=uuid4(),
            session="one",
            claims_client_id=True,
            first=1,
            mutations=[],
            generation=1,
            held=1,
        )

    def rename(self, title: str) -> Change:
        return checked(RenameConversation(self.conversation, title, 1_600_000_000_000_000 + hash(title) % 1_000))

    async def push(self, first: int, titles: Sequence[str | None], held: int | None = None, **more: Any) -> Outcome:
        """None stands for a mutation that gives its number away."""
        mutations: list[Change | Rejection] = [
            Rejection("malformed") if title is None else self.rename(title) for title in titles
        ]
        push = replace(self.bare, first=first, mutations=mutations, held=first if held is None else held, **more)
        (outcome,) = await self.writer.write([push], SECONDS)
        return outcome


@pytest.fixture
async def device(writer: PostgresWriter, admin: Any) -> Device:
    user = await add_user(admin)
    device = Device(writer, user, await add_conversation(admin, user))
    await admin.execute(
        """
        CREATE TABLE renamed (n int GENERATED ALWAYS AS IDENTITY, title text);
        CREATE FUNCTION note_title() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
            'BEGIN INSERT INTO public.renamed (title) VALUES (NEW.title); RETURN NEW; END';
        CREATE TRIGGER note AFTER UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION note_title();
        """
    )
    return device


async def titles(admin: Any) -> list[str]:
    """What was applied, in its order."""
    return [row["title"] for row in await admin.fetch("SELECT title FROM renamed ORDER BY n")]


async def test_the_same_mutations_are_repeated_and_others_under_their_numbers_are_a_gap(
    device: Device, admin: Any
) -> None:
    await device.push(1, ["a", "b", "c"])
    again = await device.push(1, ["a", "b", "c", "d"])
    assert (again.before, again.after, again.error) == (3, 4, None)
    other = await device.push(3, ["x", "y"])
    assert (other.before, other.after, other.error) == (4, 4, "gap")
    assert await titles(admin) == ["a", "b", "c", "d"]


async def test_a_renumbered_mutation_is_applied_unless_it_was_under_its_former_number(
    device: Device, admin: Any
) -> None:
    await device.push(1, ["a", "b", "c", "d"], held=2)
    # In another history its device was told to begin at 2 again, and there wrote "new" between.
    assert (await device.push(2, ["b", "c", "new", "d"], held=2)).error == "gap"
    moved = await device.push(5, ["b", "c", "new", "d"])
    assert (moved.before, moved.after, moved.rejected) == (4, 8, {})
    assert await titles(admin) == ["a", "b", "c", "d", "new"]
    # Once: the same words again are another mutation, and so is what comes later.
    await device.push(9, ["b", "late"], claims_client_id=False)
    assert await titles(admin) == ["a", "b", "c", "d", "new", "b", "late"]


async def test_numbers_below_those_that_a_device_held_are_a_gap(device: Device, admin: Any) -> None:
    for n in range(1, 41):
        await device.push(n, [f"{n}"])
    below = await device.push(40 - SLACK - 1, ["another"])
    assert (below.before, below.error) == (40, "gap")
    assert (await device.push(41, ["another"])).after == 41
    assert (await titles(admin))[-2:] == ["40", "another"]


async def test_a_device_that_does_not_say_what_it_holds_has_its_old_numbers_repeated(device: Device) -> None:
    bare = replace(device.bare, held=None, generation=None)
    for first in range(1, 301, 100):
        mutations = [device.rename(f"{n}") for n in range(first, first + 100)]
        await device.writer.write([replace(bare, first=first, mutations=mutations)], SECONDS)
    (again,) = await device.writer.write([replace(bare, first=100, mutations=[device.rename("other")])], SECONDS)
    assert (again.before, again.after, again.error) == (300, 300, None)


async def test_a_number_may_be_given_away_and_then_stands_for_no_mutation(device: Device, admin: Any) -> None:
    await device.push(1, ["a", None, "c"])
    assert (await device.push(1, ["a", None, None, "d"], held=1)).after == 4
    assert (await device.push(2, ["never applied"], held=2)).error == "gap"
    assert await titles(admin) == ["a", "c", "d"]


async def test_a_rejected_mutation_is_tried_again_under_its_new_number(device: Device, admin: Any) -> None:
    missing = replace(device.bare, mutations=[checked(RenameConversation(uuid4(), "of nobody", 1_600_000_000_000_000))])
    (rejected,) = await device.writer.write([missing], SECONDS)
    assert rejected.rejected == {1: "unknown_row"}
    assert (await device.push(1, ["other"])).error == "gap"
    (again,) = await device.writer.write([replace(missing, first=2, held=2)], SECONDS)
    assert (again.after, again.rejected) == (2, {2: "unknown_row"})


async def test_the_connection_of_the_larger_generation_has_the_client_id_in_whatever_order_pushes_arrive(
    device: Device, admin: Any
) -> None:
    await device.push(1, ["older"], generation=5, session="old")
    await device.push(2, ["younger"], generation=6, session="new")
    late = await device.push(2, ["late"], generation=5, session="old", claims_client_id=True)
    assert (late.after, late.error) == (2, "replaced")
    assert (await device.push(3, ["on"], generation=6, session="new", claims_client_id=False)).after == 3
    assert await titles(admin) == ["older", "younger", "on"]


async def test_one_push_of_a_group_may_have_other_numbers_without_harm_to_the_others(
    device: Device, admin: Any
) -> None:
    other = Device(device.writer, device.bare.user, device.conversation)
    await device.push(1, ["a"])
    await other.push(1, ["b"])
    pushes = [
        replace(device.bare, first=1, mutations=[device.rename("x")]),
        replace(other.bare, first=2, mutations=[other.rename("c")], held=2),
    ]
    pushes.sort(key=lambda push: push.client_id.bytes)
    outcomes = await device.writer.write(pushes, SECONDS)
    assert {push.first: outcome.error for push, outcome in zip(pushes, outcomes, strict=True)} == {1: "gap", 2: None}
    assert await titles(admin) == ["a", "b", "c"]
