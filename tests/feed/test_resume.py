"""P7: a device resumes only from a cursor of its own, of the history that counts."""

from uuid import UUID

import pytest

from protocol.cursor import Cursor, Position
from server.feed.resume import Why, start

USER, STRANGER = UUID(int=101), UUID(int=102)
EPOCH = "0123456789abcdef"


@pytest.mark.parametrize(
    ("cursor", "expected"),
    [
        (None, Why.NEW),
        (b"", Why.UNREADABLE),
        (b"\x00" * 29, Why.UNREADABLE),
        (Cursor.of(EPOCH, STRANGER, Position(5)).encode(), Why.FOREIGN),
        (Cursor.of("f" * 16, USER, Position(5)).encode(), Why.EPOCH),
        (Cursor.of(EPOCH, USER, Position(5, 3)).encode(), Position(5, 3)),
    ],
)
def test_a_cursor_is_resumed_from_only_if_it_is_this_users_and_of_this_history(
    cursor: bytes | None, expected: Position | Why
) -> None:
    assert start(cursor, USER, EPOCH) == expected


def test_a_cursor_of_an_epoch_since_which_only_the_schema_changed_says_so() -> None:
    cursor = Cursor.of("f" * 16, USER, Position(5)).encode()
    assert start(cursor, USER, EPOCH, {"f" * 16}) is Why.SCHEMA
    assert start(cursor, USER, EPOCH, {"e" * 16}) is Why.EPOCH
