"""A cursor comes back as it was made, is bound to its user, and bytes that are no cursor are recognised as such."""

from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st

from protocol.cursor import SIZE, Cursor, Position, owner_digest
from protocol.frames import MAX_CURSOR

BIGINTS = st.integers(0, 2**63 - 1)
EPOCHS = st.binary(min_size=8, max_size=8).map(bytes.hex)
CURSORS = st.builds(Cursor.of, EPOCHS, st.uuids(), st.builds(Position, BIGINTS, BIGINTS, BIGINTS))


@given(CURSORS)
@example(Cursor.of("0" * 16, UUID(int=0), Position(0)))
@example(Cursor.of("f" * 16, UUID(int=2**128 - 1), Position(2**63 - 1, 2**63 - 1, 2**63 - 1)))
def test_a_cursor_comes_back_as_it_was_made(cursor: Cursor) -> None:
    assert Cursor.decode(cursor.encode()) == cursor


@given(CURSORS)
def test_a_cursor_has_the_size_that_it_says_and_fits_into_a_frame(cursor: Cursor) -> None:
    assert len(cursor.encode()) == SIZE <= MAX_CURSOR


@given(st.one_of(st.binary(max_size=2 * SIZE), st.binary(min_size=SIZE, max_size=SIZE)))
def test_random_bytes_are_no_cursor_or_exactly_one(data: bytes) -> None:
    cursor = Cursor.decode(data)
    assert cursor is None or cursor.encode() == data or data[0] == 1


@given(CURSORS, st.integers(0, SIZE - 1))
def test_a_cursor_cut_short_is_none(cursor: Cursor, length: int) -> None:
    assert Cursor.decode(cursor.encode()[:length]) is None


@given(CURSORS, st.binary(min_size=1, max_size=MAX_CURSOR - SIZE))
def test_a_cursor_with_something_behind_it_is_none(cursor: Cursor, more: bytes) -> None:
    assert Cursor.decode(cursor.encode() + more) is None


@given(CURSORS, st.integers(0, 255))
def test_a_cursor_of_another_version_is_none(cursor: Cursor, version: int) -> None:
    data = cursor.encode()
    assert version == data[0] or Cursor.decode(bytes([version]) + data[1:]) is None


@given(CURSORS)
def test_a_cursor_of_the_version_before_is_read_and_names_no_transaction(cursor: Cursor) -> None:
    before = bytes([1]) + cursor.encode()[1:-8]
    assert Cursor.decode(before) == cursor._replace(position=cursor.position._replace(mark=0))


@given(CURSORS, st.integers(2**63, 2**64 - 1), st.sampled_from([8, 16, 24]))
def test_a_number_that_no_bigint_holds_is_none(cursor: Cursor, number: int, place: int) -> None:
    data, wide = cursor.encode(), number.to_bytes(8, "big")
    assert Cursor.decode(data[:-place] + wide + data[len(data) - place + 8 :]) is None


@given(CURSORS)
def test_another_position_is_another_cursor(cursor: Cursor) -> None:
    seq, n, mark = cursor.position
    others = [Position(seq ^ 1, n, mark), Position(seq, n ^ 1, mark), Position(seq, n, mark ^ 1)]
    assert len({cursor.encode(), *(cursor._replace(position=other).encode() for other in others)}) == 4


@given(st.uuids(), st.sets(st.uuids(), min_size=2))
def test_the_owner_of_a_cursor_is_told_by_a_digest_of_the_user(user: UUID, users: set[UUID]) -> None:
    assert owner_digest(user) == owner_digest(UUID(str(user)))
    assert len(owner_digest(user)) == 4
    # Four bytes may meet by chance, one time in four thousand million: never for all of them.
    assert len({owner_digest(each) for each in users}) > 1


def test_neighbouring_users_have_different_digests() -> None:
    assert len({owner_digest(UUID(int=number)) for number in range(1000)}) == 1000


@given(CURSORS)
def test_a_cursor_does_not_contain_the_user_in_clear(cursor: Cursor) -> None:
    user = UUID("f47ac10b-58cc-4372-a567-0e02b2c3d479")
    data = Cursor.of(cursor.epoch, user, cursor.position).encode()
    assert user.bytes not in data
    assert cursor.owner in cursor.encode()
