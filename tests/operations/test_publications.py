"""Which publications of messages are changed, which stop adoption, and what is said of the others."""

import pytest
from msgspec.structs import replace

from server.operations.catalog import Column, Facts, Publication, Table
from server.operations.publications import add, cautions, obstacles, remove, restore, under_the_roots_name

MINE = Publication(name="changes", owner="app", mine=True)
TABLE = Table(kind="r", owner="app", mine=True, secured=False, forced=False)
INSTANT = Column(type="timestamp with time zone", required=False)


def of(*publications: Publication) -> Facts:
    return Facts(
        now=0.0, tables={"messages": TABLE}, columns={"messages.updated_at": INSTANT}, publications=publications
    )


def test_one_that_names_messages_keeps_its_part_and_publishes_under_the_tables_name() -> None:
    facts = of(replace(MINE, columns="id, role", where="role = 'user'"))
    assert list(obstacles(facts)) == []
    assert remove(facts) == ["ALTER PUBLICATION changes DROP TABLE public.messages"]
    assert list(add(facts)) == ["ALTER PUBLICATION changes ADD TABLE public.messages (id, role) WHERE (role = 'user')"]
    assert under_the_roots_name(facts) == list(facts.publications)
    assert cautions(facts) == []


@pytest.mark.parametrize(
    ("publication", "says"),
    [
        (replace(MINE, mine=False), "belongs to app. Make this login a member of app"),
        (replace(MINE, mine=False, root=True), "belongs to app. Make this login a member of app"),
        (replace(MINE, partitioned=("events",)), "rows of events under the names of partitions"),
    ],
)
def test_one_that_would_publish_something_else_stops_it(publication: Publication, says: str) -> None:
    (said,) = obstacles(of(publication))
    assert says in said


def test_one_of_all_tables_is_its_owners_to_change() -> None:
    facts = of(replace(MINE, all=True))
    assert list(obstacles(facts)) == []
    assert (remove(facts), list(add(facts)), under_the_roots_name(facts)) == ([], [], [])
    (said,) = cautions(facts)
    assert "Let app run ALTER PUBLICATION changes SET (publish_via_partition_root = true)" in said
    assert cautions(of(replace(MINE, all=True, root=True))) == []


def test_subscribers_are_told_of_the_new_column() -> None:
    facts = replace(of(MINE), columns={})
    (said,) = cautions(facts)
    assert "On its subscribers, run ALTER TABLE messages ADD COLUMN updated_at" in said
    assert cautions(replace(facts, publications=(replace(MINE, columns="id"),))) == []


def test_undo_takes_back_only_what_adoption_set() -> None:
    now, before = of(replace(MINE, root=True)), of(MINE)
    back = "ALTER PUBLICATION changes SET (publish_via_partition_root = false)"
    assert back in list(restore(now, before))
    assert back not in list(restore(now, of(replace(MINE, root=True))))
    assert back not in list(restore(now, of()))
    assert back not in list(restore(of(replace(MINE, root=True, partitioned=("events",))), before))
