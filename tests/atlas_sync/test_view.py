"""The rows that an app shows: its own writes at once, over the synced rows, each with its certainty."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_sync.chat import (
    create_conversation,
    create_message,
    delete_conversation,
    delete_message,
    edit_message,
    rename_conversation,
)
from atlas_sync.mutation import Delete, Insert, Mutation, Update, split
from atlas_sync.outbox import Entry, EntryState
from atlas_sync.replica import Replica
from atlas_sync.rows import Key, Row
from atlas_sync.schema import Schema
from atlas_sync.view import Certainty, View, build_view
from tests.atlas_sync.chat_rows import conversation_row, message_row

A, B, M, N = (UUID(int=n) for n in range(1, 5))
A_ROW = conversation_row(5, A, "as synced", 100, 200)
M_ROW = message_row(5, M, A, "user", "as synced", 150, 150)


def replica(*rows: Row) -> Replica:
    held = Replica(Schema.chat())
    held.apply(rows)
    return held


def pending(*mutations: Mutation) -> list[Entry]:
    return [Entry(n, n, mutation) for n, mutation in enumerate(mutations, 1)]


def rejected(mutation: Mutation) -> Entry:
    return Entry(90, 90, mutation, EntryState.REJECTED, code="refused", message="said for people")


def acked(mutation: Mutation) -> Entry:
    return Entry(80, 80, mutation, EntryState.ACKED, seq=9)


NOTHING = View({"profile": {}, "conversation": {}, "message": {}})


def titles(shown: View) -> dict[Key, str | None]:
    return {key: item.row.title for key, item in shown.rows["conversation"].items()}


def contents(shown: View) -> dict[Key, str]:
    return {key: item.row.content for key, item in shown.rows["message"].items()}


def test_without_an_outbox_the_rows_are_the_synced_ones() -> None:
    shown = build_view(replica(A_ROW, M_ROW), [])
    assert (shown.rows["conversation"][A].row, shown.rows["message"][M].row) == (A_ROW, M_ROW)
    assert {shown.rows["conversation"][A].certainty, shown.rows["message"][M].certainty} == {Certainty.SYNCED}


def test_a_new_mutation_is_shown_at_once_and_the_synced_rows_do_not_change() -> None:
    synced = replica(A_ROW, M_ROW)
    shown = build_view(
        synced,
        pending(
            create_conversation(B, "new", 300),
            create_message(N, B, "user", "hi", 310),
            rename_conversation(A, "renamed", 320),
            edit_message(M, 150, "edited", 330),
        ),
    )
    assert titles(shown) == {A: "renamed", B: "new"}
    assert contents(shown) == {M: "edited", N: "hi"}
    assert {item.certainty for item in shown.rows["conversation"].values()} == {Certainty.PENDING}
    assert {item.certainty for item in shown.rows["message"].values()} == {Certainty.PENDING}
    assert shown.rows["message"][M].row.updated_at == 330
    assert (synced.rows["conversation"], synced.rows["message"]) == ({A: A_ROW}, {M: M_ROW})


def test_a_row_names_the_last_entry_that_changed_it_and_is_as_certain_as_the_least_certain_one() -> None:
    first, second = acked(rename_conversation(A, "a", 300)), Entry(99, 99, rename_conversation(A, "b", 310))
    shown = build_view(replica(A_ROW), [first])
    assert (shown.rows["conversation"][A].certainty, shown.rows["conversation"][A].entry) == (Certainty.ACKED, first)
    shown = build_view(replica(A_ROW), [first, second])
    assert (shown.rows["conversation"][A].certainty, shown.rows["conversation"][A].entry) == (Certainty.PENDING, second)


def test_a_conversation_deleted_in_the_outbox_hides_messages_before_and_after_the_deletion() -> None:
    deleted = pending(delete_conversation(A))
    assert build_view(replica(A_ROW, M_ROW), deleted) == NOTHING
    late = replica(A_ROW, M_ROW, message_row(9, N, A, "user", "from another device", 1, 1))
    assert build_view(late, deleted) == NOTHING
    written = pending(
        create_message(N, A, "user", "x", 1), delete_conversation(A), create_message(UUID(int=9), A, "", "", 1)
    )
    assert build_view(replica(A_ROW), written) == NOTHING


def test_a_conversation_created_again_under_its_id_has_only_its_new_messages() -> None:
    shown = build_view(
        replica(A_ROW, M_ROW),
        pending(delete_conversation(A), create_conversation(A, "anew", 300), create_message(N, A, "user", "hi", 310)),
    )
    assert (titles(shown), contents(shown)) == ({A: "anew"}, {N: "hi"})


@pytest.mark.parametrize(
    "mutation",
    [
        rename_conversation(B, "x", 300),
        edit_message(N, 150, "x", 300),
        edit_message(M, 151, "x", 300),  # another message that had this id
        delete_message(M, 151),
        delete_message(N, 150),
        delete_conversation(B),
        create_conversation(A, "x", 300),
        create_message(M, A, "user", "x", 150),
    ],
    ids=repr,
)
def test_a_mutation_without_effect_on_the_server_shows_nothing(mutation: Mutation) -> None:
    synced = replica(A_ROW, M_ROW)
    assert build_view(synced, pending(mutation)) == build_view(synced, [])


def test_a_message_into_a_conversation_outside_of_the_window_is_shown() -> None:
    shown = build_view(replica(), pending(create_message(M, A, "user", "hi", 300)))
    assert (titles(shown), contents(shown)) == ({}, {M: "hi"})


def test_a_new_message_moves_its_conversation_up_and_does_not_change_its_certainty() -> None:
    conversation = build_view(replica(A_ROW), pending(create_message(N, A, "user", "x", 300))).rows["conversation"][A]
    assert (conversation.row.updated_at, conversation.certainty) == (300, Certainty.SYNCED)
    conversation = build_view(replica(A_ROW), pending(create_message(N, A, "user", "x", 50))).rows["conversation"][A]
    assert conversation.row.updated_at == 200


def test_an_own_write_that_arrived_through_the_feed_is_shown_once() -> None:
    shown = build_view(replica(A_ROW, M_ROW), pending(create_message(M, A, "user", "as synced", 150)))
    assert (len(shown.rows["message"]), shown.rows["message"][M].certainty) == (1, Certainty.SYNCED)


def test_a_rejected_creation_stays_visible_with_its_reason() -> None:
    message = rejected(create_message(N, A, "user", "hi", 300))
    conversation = rejected(create_conversation(B, "b", 300))
    shown = build_view(replica(A_ROW), [message, conversation])
    for item, entry in ((shown.rows["message"][N], message), (shown.rows["conversation"][B], conversation)):
        assert (item.certainty, item.entry) == (Certainty.REJECTED, entry)
    assert shown.rows["conversation"][A].row.updated_at == 200


def test_a_retry_or_a_deletion_replaces_a_rejected_creation() -> None:
    message = rejected(create_message(N, A, "user", "hi", 300))
    conversation = rejected(create_conversation(B, "b", 300))
    (again,) = pending(create_message(N, A, "user", "hi", 300))
    assert build_view(replica(A_ROW), [message, again]).rows["message"][N].certainty is Certainty.PENDING
    for gone in (delete_message(N, 300), delete_conversation(A)):
        assert N not in build_view(replica(A_ROW), [message, *pending(gone)]).rows["message"]
    assert B not in build_view(replica(), [conversation, *pending(delete_conversation(B))]).rows["conversation"]


@pytest.mark.parametrize(
    "mutation",
    [rename_conversation(A, "x", 300), edit_message(M, 150, "x", 300), delete_message(M, 150), delete_conversation(A)],
    ids=repr,
)
def test_a_rejected_change_is_not_shown(mutation: Mutation) -> None:
    synced = replica(A_ROW, M_ROW)
    assert build_view(synced, [rejected(mutation)]) == build_view(synced, [])


# ---- Against a server ----------------------------------------------------------------------------------------------

CONVERSATIONS, MESSAGES = [A, B], [M, N]
HOME = {M: A, N: B}


def mutation_at(at: int, kind: str, key: UUID) -> Mutation:
    """An id names one row for ever: a message has one conversation and one instant of creation."""
    conversation = key if key in CONVERSATIONS else HOME[key]
    match kind:
        case "+c":
            return create_conversation(conversation, f"made {at}", at)
        case "~c":
            return rename_conversation(conversation, f"named {at}", at)
        case "-c":
            return delete_conversation(conversation)
        case "+m":
            return create_message(MESSAGES[key.int % 2], HOME[MESSAGES[key.int % 2]], "user", "said", 1)
        case "~m":
            return edit_message(MESSAGES[key.int % 2], 1, f"edited {at}", at)
    return delete_message(MESSAGES[key.int % 2], 1)


def applied_by_a_server(mutations: list[Mutation]) -> Replica:
    """SPEC 8.3, implemented by the test; a message into a missing conversation is rejected."""
    c: dict[UUID, Row] = {}
    m: dict[UUID, Row] = {}
    for mutation in mutations:
        key, _ = split(mutation.id, Schema.chat()[mutation.kind])
        assert isinstance(key, UUID)
        match mutation, mutation.kind:
            case Insert(_, _, columns, at), "conversation" if key not in c:
                c[key] = conversation_row(0, key, columns["title"], at, at)
            case Update(_, _, columns, at), "conversation" if key in c:
                c[key] = conversation_row(0, key, columns["title"], c[key].created_at, max(at, c[key].updated_at))
            case Delete(), "conversation":
                c.pop(key, None)
                m = {k: row for k, row in m.items() if row.conversation_id != key}
            case Insert(_, _, columns, at), "message" if key not in m and (home := columns["conversation_id"]) in c:
                m[key] = message_row(0, key, home, columns["role"], columns["content"], at, at)
                c[home] = conversation_row(0, home, c[home].title, c[home].created_at, max(at, c[home].updated_at))
            case Update(_, _, columns, at), "message" if key in m:
                home, updated = m[key].conversation_id, max(at, m[key].updated_at)
                m[key] = message_row(0, key, home, "user", columns["content"], 1, updated)
            case Delete(), "message":
                m.pop(key, None)
    return replica(*c.values(), *m.values())


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["+c", "~c", "-c", "+m", "~m", "-m"]), st.sampled_from([A, B, M, N])), max_size=20
    ),
    done=st.integers(0, 22),
)
def test_the_view_shows_the_rows_that_the_server_will_have(steps: list[tuple[str, UUID]], done: int) -> None:
    """However many of them the feed has delivered; all write into existing conversations."""
    mutations: list[Mutation] = [create_conversation(A, "a", 1), create_conversation(B, "b", 1)]
    for at, (kind, key) in enumerate(steps, 2):
        mutation = mutation_at(at, kind, key)
        there = applied_by_a_server(mutations).rows["conversation"]
        home = mutation.columns.get("conversation_id") if isinstance(mutation, Insert) else None
        if home is None or home in there:
            mutations.append(mutation)
    done = max(2, min(done, len(mutations)))
    shown = build_view(applied_by_a_server(mutations[:done]), pending(*mutations[done:]))
    server = applied_by_a_server(mutations)
    assert {key: item.row for key, item in shown.rows["conversation"].items()} == server.rows["conversation"]
    assert {key: item.row for key, item in shown.rows["message"].items()} == server.rows["message"]
