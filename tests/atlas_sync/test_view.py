"""The rows that an app shows: its own writes at once, over the synced rows, each with its certainty."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_sync.mutation import (
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    Mutation,
    RenameConversation,
)
from atlas_sync.outbox import Entry, EntryState
from atlas_sync.replica import Conversation, Message, Replica, Row
from atlas_sync.view import Certainty, View, build_view

A, B, M, N = (UUID(int=n) for n in range(1, 5))
A_ROW = Conversation(5, A, "as synced", 100, 200)
M_ROW = Message(5, M, A, "user", "as synced", 150, 150)


def replica(*rows: Row) -> Replica:
    held = Replica()
    held.apply(rows)
    return held


def pending(*mutations: Mutation) -> list[Entry]:
    return [Entry(n, n, mutation) for n, mutation in enumerate(mutations, 1)]


def rejected(mutation: Mutation) -> Entry:
    return Entry(90, 90, mutation, EntryState.REJECTED, code="refused", message="said for people")


def acked(mutation: Mutation) -> Entry:
    return Entry(80, 80, mutation, EntryState.ACKED, seq=9)


def titles(shown: View) -> dict[UUID, str | None]:
    return {key: item.row.title for key, item in shown.conversations.items()}


def contents(shown: View) -> dict[UUID, str]:
    return {key: item.row.content for key, item in shown.messages.items()}


def test_without_an_outbox_the_rows_are_the_synced_ones() -> None:
    shown = build_view(replica(A_ROW, M_ROW), [])
    assert (shown.conversations[A].row, shown.messages[M].row) == (A_ROW, M_ROW)
    assert {shown.conversations[A].certainty, shown.messages[M].certainty} == {Certainty.SYNCED}


def test_a_new_mutation_is_shown_at_once_and_the_synced_rows_do_not_change() -> None:
    synced = replica(A_ROW, M_ROW)
    shown = build_view(
        synced,
        pending(
            CreateConversation(B, "new", 300),
            CreateMessage(N, B, "user", "hi", 310),
            RenameConversation(A, "renamed", 320),
            EditMessage(M, 150, "edited", 330),
        ),
    )
    assert titles(shown) == {A: "renamed", B: "new"}
    assert contents(shown) == {M: "edited", N: "hi"}
    assert {item.certainty for item in shown.conversations.values()} == {Certainty.PENDING}
    assert {item.certainty for item in shown.messages.values()} == {Certainty.PENDING}
    assert shown.messages[M].row.updated_at == 330
    assert (synced.conversations, synced.messages) == ({A: A_ROW}, {M: M_ROW})


def test_a_row_names_the_last_entry_that_changed_it_and_is_as_certain_as_the_least_certain_one() -> None:
    first, second = acked(RenameConversation(A, "a", 300)), Entry(99, 99, RenameConversation(A, "b", 310))
    shown = build_view(replica(A_ROW), [first])
    assert (shown.conversations[A].certainty, shown.conversations[A].entry) == (Certainty.ACKED, first)
    shown = build_view(replica(A_ROW), [first, second])
    assert (shown.conversations[A].certainty, shown.conversations[A].entry) == (Certainty.PENDING, second)


def test_a_conversation_deleted_in_the_outbox_hides_messages_before_and_after_the_deletion() -> None:
    deleted = pending(DeleteConversation(A))
    assert build_view(replica(A_ROW, M_ROW), deleted) == View()
    late = replica(A_ROW, M_ROW, Message(9, N, A, "user", "from another device", 1, 1))
    assert build_view(late, deleted) == View()
    written = pending(
        CreateMessage(N, A, "user", "x", 1), DeleteConversation(A), CreateMessage(UUID(int=9), A, "", "", 1)
    )
    assert build_view(replica(A_ROW), written) == View()


def test_a_conversation_created_again_under_its_id_has_only_its_new_messages() -> None:
    shown = build_view(
        replica(A_ROW, M_ROW),
        pending(DeleteConversation(A), CreateConversation(A, "anew", 300), CreateMessage(N, A, "user", "hi", 310)),
    )
    assert (titles(shown), contents(shown)) == ({A: "anew"}, {N: "hi"})


@pytest.mark.parametrize(
    "mutation",
    [
        RenameConversation(B, "x", 300),
        EditMessage(N, 150, "x", 300),
        EditMessage(M, 151, "x", 300),  # another message that had this id
        DeleteMessage(M, 151),
        DeleteMessage(N, 150),
        DeleteConversation(B),
        CreateConversation(A, "x", 300),
        CreateMessage(M, A, "user", "x", 150),
    ],
    ids=repr,
)
def test_a_mutation_without_effect_on_the_server_shows_nothing(mutation: Mutation) -> None:
    synced = replica(A_ROW, M_ROW)
    assert build_view(synced, pending(mutation)) == build_view(synced, [])


def test_a_message_into_a_conversation_outside_of_the_window_is_shown() -> None:
    shown = build_view(replica(), pending(CreateMessage(M, A, "user", "hi", 300)))
    assert (titles(shown), contents(shown)) == ({}, {M: "hi"})


def test_a_new_message_moves_its_conversation_up_and_does_not_change_its_certainty() -> None:
    conversation = build_view(replica(A_ROW), pending(CreateMessage(N, A, "user", "x", 300))).conversations[A]
    assert (conversation.row.updated_at, conversation.certainty) == (300, Certainty.SYNCED)
    conversation = build_view(replica(A_ROW), pending(CreateMessage(N, A, "user", "x", 50))).conversations[A]
    assert conversation.row.updated_at == 200


def test_an_own_write_that_arrived_through_the_feed_is_shown_once() -> None:
    shown = build_view(replica(A_ROW, M_ROW), pending(CreateMessage(M, A, "user", "as synced", 150)))
    assert (len(shown.messages), shown.messages[M].certainty) == (1, Certainty.SYNCED)


def test_a_rejected_creation_stays_visible_with_its_reason() -> None:
    message, conversation = rejected(CreateMessage(N, A, "user", "hi", 300)), rejected(CreateConversation(B, "b", 300))
    shown = build_view(replica(A_ROW), [message, conversation])
    assert (shown.messages[N].certainty, shown.conversations[B].certainty) == (Certainty.REJECTED, Certainty.REJECTED)
    assert (shown.messages[N].entry, shown.conversations[B].entry) == (message, conversation)
    assert shown.conversations[A].row.updated_at == 200


def test_a_retry_or_a_deletion_replaces_a_rejected_creation() -> None:
    message, conversation = rejected(CreateMessage(N, A, "user", "hi", 300)), rejected(CreateConversation(B, "b", 300))
    (again,) = pending(CreateMessage(N, A, "user", "hi", 300))
    assert build_view(replica(A_ROW), [message, again]).messages[N].certainty is Certainty.PENDING
    for gone in (DeleteMessage(N, 300), DeleteConversation(A)):
        assert N not in build_view(replica(A_ROW), [message, *pending(gone)]).messages
    assert B not in build_view(replica(), [conversation, *pending(DeleteConversation(B))]).conversations


@pytest.mark.parametrize(
    "mutation",
    [RenameConversation(A, "x", 300), EditMessage(M, 150, "x", 300), DeleteMessage(M, 150), DeleteConversation(A)],
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
            return CreateConversation(conversation, f"made {at}", at)
        case "~c":
            return RenameConversation(conversation, f"named {at}", at)
        case "-c":
            return DeleteConversation(conversation)
        case "+m":
            return CreateMessage(MESSAGES[key.int % 2], HOME[MESSAGES[key.int % 2]], "user", "said", 1)
        case "~m":
            return EditMessage(MESSAGES[key.int % 2], 1, f"edited {at}", at)
    return DeleteMessage(MESSAGES[key.int % 2], 1)


def applied_by_a_server(mutations: list[Mutation]) -> Replica:
    """SPEC 8.3, implemented by the test; a message into a missing conversation is rejected."""
    c: dict[UUID, Conversation] = {}
    m: dict[UUID, Message] = {}
    for mutation in mutations:
        match mutation:
            case CreateConversation(key, title, at) if key not in c:
                c[key] = Conversation(0, key, title, at, at)
            case RenameConversation(key, title, at) if key in c:
                c[key] = Conversation(0, key, title, c[key].created_at, max(at, c[key].updated_at))
            case DeleteConversation(key):
                c.pop(key, None)
                m = {k: row for k, row in m.items() if row.conversation_id != key}
            case CreateMessage(key, home, role, content, at) if key not in m and home in c:
                m[key] = Message(0, key, home, role, content, at, at)
                c[home] = Conversation(0, home, c[home].title, c[home].created_at, max(at, c[home].updated_at))
            case EditMessage(key, _, content, at) if key in m:
                m[key] = Message(0, key, m[key].conversation_id, "user", content, 1, max(at, m[key].updated_at))
            case DeleteMessage(key):
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
    mutations: list[Mutation] = [CreateConversation(A, "a", 1), CreateConversation(B, "b", 1)]
    for at, (kind, key) in enumerate(steps, 2):
        mutation = mutation_at(at, kind, key)
        there = applied_by_a_server(mutations).conversations
        if not isinstance(mutation, CreateMessage) or mutation.conversation_id in there:
            mutations.append(mutation)
    done = max(2, min(done, len(mutations)))
    shown = build_view(applied_by_a_server(mutations[:done]), pending(*mutations[done:]))
    server = applied_by_a_server(mutations)
    assert {key: item.row for key, item in shown.conversations.items()} == server.conversations
    assert {key: item.row for key, item in shown.messages.items()} == server.messages
