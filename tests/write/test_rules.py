"""What is refused, and what is said of a push's outcome."""

import json
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol.codec import CODECS, JSON, MSGPACK, Codec
from protocol.frames import Ack, Applied, Error, Rejected, Repeated
from protocol.schema import KEY_TYPES, Type
from server.declaration.chat import CHAT
from server.declaration.model import Declaration, Kind
from server.write.push import Change, Outcome, OwnedPush, Rejection
from server.write.rules import AHEAD, DEFAULT_BYTES, EARLIEST, SENTENCES, answer, check
from tests.support.rows import (
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    Mutation,
    RenameConversation,
    encoded,
)
from tests.support.second import SECOND
from tests.support.values import KEYS, SENT

ID, OTHER = UUID(int=1), UUID(int=2)
NOW = 1_800_000_000_000_000
_PACKER = msgspec.msgpack.Encoder(uuid_format="bytes")
both = pytest.mark.parametrize("codec", list(CODECS.values()), ids=lambda codec: "json" if codec.text else "msgpack")


def judged(mutation: Mutation, codec: Codec = MSGPACK) -> Change | Rejection:
    return check(codec.mutation(encoded(mutation, codec)), CHAT, codec, NOW)


def sent(array: object, codec: Codec = MSGPACK, declaration: Declaration = SECOND) -> Change | Rejection:
    """What becomes of anything in a mutation's place."""
    data = msgspec.json.encode(array) if codec.text else _PACKER.encode(array)
    return check(codec.mutation(msgspec.Raw(data)), declaration, codec, NOW)


def refused(code: str) -> Rejection:
    return Rejection(code)


def with_text(text: str) -> list[Mutation]:
    return [CreateMessage(ID, OTHER, "user", text, NOW), EditMessage(ID, NOW, text, NOW)]


def at(instant: int) -> list[Mutation]:
    return [
        CreateMessage(ID, OTHER, "user", "", instant),
        EditMessage(ID, NOW, "", instant),
        CreateConversation(ID, None, instant),
        RenameConversation(ID, None, instant),
    ]


# ---- The chat schema -----------------------------------------------------------------------------------------------


@both
def test_postgres_gets_what_the_device_wrote_alike_from_both_encodings(codec: Codec) -> None:
    assert [
        judged(mutation, codec)
        for mutation in (
            CreateConversation(ID, "a title", NOW),
            RenameConversation(ID, None, NOW),
            DeleteConversation(ID),
            CreateMessage(ID, OTHER, "user", "hello", NOW),
            EditMessage(ID, NOW - 5, "hello", NOW),
            DeleteMessage(ID, NOW - 5),
        )
    ] == [
        Change("c", "+", (str(ID),), '{"title":"a title"}', NOW),
        Change("c", "~", (str(ID),), '{"title":null}', NOW),
        Change("c", "-", (str(ID),)),
        Change("m", "+", (str(ID),), f'{{"content":"hello","conversation_id":"{OTHER}","role":"user"}}', NOW),
        Change("m", "~", (str(ID), str(NOW - 5)), '{"content":"hello"}', NOW),
        Change("m", "-", (str(ID), str(NOW - 5))),
    ]


@pytest.mark.parametrize("instant", [EARLIEST, NOW, NOW + AHEAD])
def test_an_instant_within_its_bounds_is_accepted(instant: int) -> None:
    assert all(isinstance(judged(mutation), Change) for mutation in at(instant))


@pytest.mark.parametrize("instant", [EARLIEST - 1, NOW + AHEAD + 1, 0, -1, (1 << 63) - 1])
def test_an_instant_beyond_them_is_not(instant: int) -> None:
    assert all(judged(mutation) == Rejection("bad_time") for mutation in at(instant))


@pytest.mark.parametrize("instant", [1 << 63, 1 << 80, -(1 << 80)])
def test_a_number_that_is_no_instant_at_all_is_refused_and_is_no_part_of_a_digest(instant: int) -> None:
    for mutation in at(instant):
        found = judged(mutation, JSON)
        assert found == Rejection("bad_time")
        assert isinstance(found, Rejection)
        assert found.change is None


@pytest.mark.parametrize("text", ["", "x" * 100_000, "ä" * 50_000, "🔑" * 25_000])
def test_a_content_of_the_longest_length_is_accepted(text: str) -> None:
    assert all(isinstance(judged(mutation), Change) for mutation in with_text(text))


@pytest.mark.parametrize("text", ["x" * 100_001, "ä" * 50_000 + "x", "🔑" * 25_000 + "x"])
def test_a_byte_more_is_too_long(text: str) -> None:
    assert all(judged(mutation) == Rejection("too_long:content") for mutation in with_text(text))


@pytest.mark.parametrize("kind", [CreateConversation, RenameConversation])
def test_titles_have_a_limit_of_their_own(kind: type[CreateConversation | RenameConversation]) -> None:
    assert isinstance(judged(kind(ID, "x" * 1_000, NOW)), Change)
    assert judged(kind(ID, "x" * 1_001, NOW)) == Rejection("too_long:title")


def test_what_postgres_cannot_keep_is_refused() -> None:
    assert all(judged(mutation) == Rejection("bad_text:content") for mutation in with_text("a\0b"))


@both
def test_half_a_surrogate_pair_is_refused_as_such(codec: Codec) -> None:
    whole = encoded(RenameConversation(ID, "pair: ....!", NOW), codec)
    frame = {"t": "push", "n": 1, "mutations": [whole]}
    if codec.text:
        data = msgspec.json.encode(frame).replace(b"....", b"\\ud83d")
    else:
        data = _PACKER.encode(frame).replace(b"pair: ....!", b"pair.:\xed\xa0\xbd..")
    push = codec.decode_to_server(data)
    ((raw),) = push.mutations  # type: ignore[union-attr]  # a push
    assert check(codec.mutation(raw), CHAT, codec, NOW) == Rejection("bad_text:title")


@pytest.mark.parametrize("role", ["", "admin", "User", "user ", "system", "assistant"])
def test_a_message_is_of_a_role_that_devices_may_write(role: str) -> None:
    assert judged(CreateMessage(ID, OTHER, role, "", NOW)) == Rejection("bad_value:role")


def test_a_deletion_far_back_in_time_is_not_objected_to() -> None:
    for mutation in (DeleteMessage(ID, -(1 << 53) + 1), DeleteConversation(ID)):
        assert isinstance(judged(mutation), Change)


def test_what_could_not_be_decoded_is_malformed() -> None:
    assert check(None, CHAT, MSGPACK, NOW) == Rejection("malformed")


# ---- Any schema ----------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("mutation", "code"),
    [
        (["+", "z", "A", {}, NOW], "not_allowed"),
        (["-", "a", 5], "not_allowed"),
        (["~", "0", [ID, "x"], {}, NOW], "not_allowed"),
        (["+", "s", "A", {"Owner": str(OTHER)}, NOW], "not_allowed"),
        (["~", "s", "A", {"Owner": str(OTHER)}, NOW], "not_allowed"),
        (["~", "s", "A", {"changedAt": 5}, NOW], "not_allowed"),
        (["~", "s", "A", {"Code": "B"}, NOW], "not_allowed"),
        (["~", "b", 7, {"shelf": "B"}, NOW], "not_allowed:shelf"),
        (["~", "b", 7, {"added_at": NOW}, NOW], "not_allowed:added_at"),
        (["+", "b", 7, {"shelf": "B", "edited_at": NOW}, NOW], "not_allowed:edited_at"),
        (["+", "M", [7, 1], {"book": 7, "user": str(OTHER)}, NOW], "not_allowed"),
        (["~", "M", [7, 1], {"book": 8}, NOW], "not_allowed:book"),
        (["+", "M", [7, 1], {"book": 7, "shelf": "A"}, NOW], "not_allowed:shelf"),
        (["~", "M", [7, 1], {}, NOW], "malformed"),
        (["~", "b", 7, {"mood": None}, NOW], "bad_value:mood"),
        (["+", "0", [ID, "x"], {"rank": 1}, NOW], "not_allowed:rank"),
        (["+", "b", 7, {"title": "x"}, NOW], "malformed:shelf"),
        (["+", "b", 7, {"shelf": None, "title": "x"}, NOW], "bad_value:shelf"),
        (["+", "M", [7, 1], {"book": 8}, NOW], "malformed:book"),
        (["+", "M", 7, {"book": 7}, NOW], "malformed"),
        (["+", "M", [7], {"book": 7}, NOW], "malformed"),
        (["+", "M", [7, 1, 1], {"book": 7}, NOW], "malformed"),
        (["+", "s", ["A", NOW], {}, NOW], "malformed"),
        (["+", "s", {"A": 1}, {}, NOW], "malformed"),
        (["+", "s", None, {}, NOW], "bad_value"),
        (["-", "s", 7], "bad_value"),
        (["-", "s", "a\0"], "bad_text"),
        (["-", "b", 1.5], "bad_value"),
        (["-", "b", "9223372036854775808"], "bad_value"),
        (["-", "M", [7, 1 << 31]], "bad_value"),
        (["~", "s", "A", {"name": [1]}, NOW], "malformed"),
        (["~", "s", "A", {"name": {}}, NOW], "malformed"),
        (["~", "s", "A", {"position": None}, NOW], "bad_value:position"),
        (["~", "s", "A", {"position": 1 << 15}, NOW], "bad_value:position"),
        (["~", "s", "A", {"name": "x" * 101}, NOW], "too_long:name"),
        (["~", "b", 7, {"mood": "wild"}, NOW], "bad_value:mood"),
        (["~", "b", 7, {"meta": '"' + "ä" * 32 + '"'}, NOW], "too_long:meta"),
        (["~", "b", 7, {"read_on": "2023-02-29"}, NOW], "bad_value:read_on"),
        (["~", "b", 7, {"source": " " * DEFAULT_BYTES + "1"}, NOW], "too_long:source"),
        (["~", "b", 7, {"title": "x"}, "soon"], "malformed"),
        (["~", "b", 7, {"title": "x"}], "malformed"),
        (["!", "b", 7], "malformed"),
    ],
)
def test_what_devices_may_not_write_is_rejected_with_its_reason(codec: Codec, mutation: list[Any], code: str) -> None:
    # JSON has no uuids.
    array = json.loads(msgspec.json.encode(mutation)) if codec.text else mutation
    assert sent(array, codec) == refused(code)


def test_a_limit_on_bytes_counts_those_of_the_value_and_not_of_its_encoding() -> None:
    for codec, longest in ((MSGPACK, b"x" * DEFAULT_BYTES), (JSON, None)):
        value = longest if longest is not None else msgspec.json.decode(msgspec.json.encode(b"x" * DEFAULT_BYTES))
        assert isinstance(sent(["~", "b", 7, {"cover": value}, NOW], codec), Change)
    assert sent(["~", "b", 7, {"cover": b"x" * (DEFAULT_BYTES + 1)}, NOW]) == refused("too_long:cover")


def test_a_mutation_has_the_same_digest_in_both_encodings_and_whatever_the_order_of_its_columns() -> None:
    columns = {"shelf": "A", "title": "t", "borrower": ID, "isbn": 1 << 60, "cover": b"\xff\x00", "lent": True}
    text = {**columns, "borrower": str(ID), "isbn": str(1 << 60), "cover": "/wA="}
    binary = sent(["+", "b", 7, columns, NOW])
    assert isinstance(binary, Change)
    for array in (["+", "b", 7, text, NOW], ["+", "b", "7", dict(reversed(text.items())), NOW]):
        other = sent(array, JSON)
        assert isinstance(other, Change)
        assert (other, other.digest) == (binary, binary.digest)


# ---- Any mutation --------------------------------------------------------------------------------------------------

MUTABLE = [kind for kind in SECOND.kinds if kind.devices is not None]
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), st.floats(), st.text(), st.binary(max_size=20)
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
)
names = st.one_of(
    st.sampled_from(sorted({name for kind in SECOND.kinds for name in kind.column})),
    st.sampled_from(["Owner", "user", "Code", "id", "changedAt", "seq", "kind", "", "title\0", "__proto__"]),
    st.text(max_size=5),
)


def _fits(kind: Kind) -> st.SearchStrategy[dict[str, Any]]:
    """Columns with values of their types."""
    values = {c.name: SENT[c.field.of] | st.none() if c.field.nullable else SENT[c.field.of] for c in kind.columns}
    return st.fixed_dictionaries({}, optional=values)


@st.composite
def arrays(draw: st.DrawFn) -> list[Any]:
    """What looks like a mutation, more or less."""
    kind = draw(st.sampled_from(SECOND.kinds))
    key = [draw(KEYS[field.of]) for field in kind.key]
    id_ = draw(st.just(key[0] if len(key) == 1 else key) | anything)
    columns = draw(_fits(kind) | st.dictionaries(names, scalars, max_size=4) | anything)
    if kind.parent is not None and isinstance(columns, dict) and draw(st.booleans()):
        columns[kind.columns[0].name] = key[0] if len(key) > 1 else draw(KEYS[kind.parent.field.of])
    op = draw(st.sampled_from("+~-"))
    at = draw(st.integers(EARLIEST, NOW) | st.integers(-(1 << 63), (1 << 63) - 1))
    tag = draw(st.sampled_from([kind.tag, "z", "-b"]))
    return [op, tag, id_] if op == "-" and draw(st.booleans()) else [op, tag, id_, columns, at]


@both
@given(array=arrays() | anything)
def test_whatever_is_sent_nothing_passes_that_devices_may_not_write(codec: Codec, array: Any) -> None:
    if codec.text:
        array = json.loads(msgspec.json.encode(_printable(array)))
    found = sent(array, codec)
    if isinstance(found, Rejection):
        code, column, *rest = (*found.code.split(":"), "")
        assert code in SENTENCES
        assert not column or any(column in kind.column for kind in SECOND.kinds)
        assert all(not each for each in rest)
        return
    kind = SECOND.tagged[found.tag]
    devices = kind.devices
    assert devices is not None
    assert len(found.key) == len(kind.key)
    assert 0 < found.digest < 1 << 63
    patch = {} if found.patch is None else json.loads(found.patch)
    parent = None if kind.parent is None else kind.columns[0].name
    match found.op:
        case "+":
            assert devices.insert is not None
            assert patch.keys() <= {*devices.insert, parent}
            assert parent is None or patch[parent] is not None
        case "~":
            assert patch
            assert patch.keys() <= set(devices.update)
            assert parent not in patch
        case "-":
            assert devices.delete
            assert found.patch is None
    for name, value in patch.items():
        field = kind.column[name].field
        assert value is None or (isinstance(value, str) and "\0" not in value)
        assert value is not None or field.nullable
        limit = kind.limits.get(name, DEFAULT_BYTES)
        assert value is None or (value in limit if isinstance(limit, tuple) else len(value.encode()) <= limit)
        # Neither the key, nor whose the row is, nor what the server sets.
        theirs = {
            field.name for field in (*kind.key, kind.owner, devices.owner, devices.created, devices.updated) if field
        }
        assert name == parent or field.name not in theirs


def _printable(value: Any) -> Any:
    """What JSON can say of it."""
    match value:
        case float() if value != value or value in (float("inf"), float("-inf")):
            return None
        case str():
            return value.encode("utf-8", "replace").decode()
        case list():
            return [_printable(each) for each in value]
        case dict():
            return {_printable(name): _printable(each) for name, each in value.items()}
    return value


@both
@given(data=st.data())
def test_what_devices_may_write_passes_and_nothing_is_lost(codec: Codec, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(MUTABLE))
    assert kind.devices is not None
    key = [data.draw(KEYS[field.of]) for field in kind.key]
    op = data.draw(st.sampled_from("+~" if kind.devices.update else "+"))
    permitted = (kind.devices.insert or ()) if op == "+" else kind.devices.update
    columns = {
        name: data.draw(SENT[kind.column[name].field.of])
        for name in permitted
        if name not in kind.limits
        and kind.column[name].field.type not in ("smallint", "real")
        and data.draw(st.booleans())
    }
    if kind.parent is not None and op == "+":
        columns[kind.columns[0].name] = key[0] if len(key) > 1 else data.draw(KEYS[kind.parent.field.of])
    assume(columns or op == "+")
    array: Any = [op, kind.tag, key[0] if len(key) == 1 else key, columns, NOW]
    found = sent(json.loads(msgspec.json.encode(array)) if codec.text else array, codec)
    assert isinstance(found, Change), found
    assert found.patch is not None
    assert json.loads(found.patch).keys() == columns.keys()


# ---- Outcomes ------------------------------------------------------------------------------------------------------


Refused = Literal["replaced", "local_only"]


def push(first: int, mutations: int) -> OwnedPush:
    return OwnedPush(
        user=ID,
        client_id=OTHER,
        session="s",
        claims_client_id=True,
        first=first,
        mutations=[Change("c", "-", (str(ID),))] * mutations,
    )


def outcome(before: int, after: int, rejected: dict[int, str] | None = None, refusal: Refused | None = None) -> Outcome:
    return Outcome(before, after, 77, rejected or {}, refusal)


def test_every_number_gets_its_result() -> None:
    told = answer(push(3, 4), outcome(before=4, after=6, rejected={3: "bad_id", 6: "too_long"}))
    assert told == Ack(
        results=[
            Rejected(3, "bad_id", SENTENCES["bad_id"]),
            Repeated(4, 77),
            Applied(5, 77),
            Rejected(6, "too_long", SENTENCES["too_long"]),
        ]
    )


@pytest.mark.parametrize(
    ("happened", "code", "expected"),
    [
        (outcome(before=1, after=1), "gap", 2),
        (outcome(before=2, after=2, refusal="replaced"), "replaced", None),
        (outcome(before=2, after=2, refusal="local_only"), "local_only", None),
    ],
)
def test_a_push_without_results_names_what_it_answers(happened: Outcome, code: str, expected: int | None) -> None:
    told = answer(push(3, 4), happened)
    assert isinstance(told, Error)
    assert (told.code, told.answers, told.id, told.expected) == (code, "push", 3, expected)
    assert told.retryable == (code == "gap")


@given(first=st.integers(1, 100), mutations=st.integers(1, 50), before=st.integers(0, 200), done=st.integers(0, 50))
def test_nothing_is_acknowledged_that_was_not_consumed(first: int, mutations: int, before: int, done: int) -> None:
    after = before if first > before + 1 else max(before, min(before + done, first + mutations - 1))
    if outcome(before, after).unfinished(push(first, mutations)):
        assert after < first + mutations - 1
        return
    told = answer(push(first, mutations), outcome(before, after))
    if isinstance(told, Ack):
        assert [result.n for result in told.results] == list(range(first, first + mutations))
        assert all(result.n <= after for result in told.results)
        assert all((result.n <= before) == isinstance(result, Repeated) for result in told.results)
    else:
        assert told.retryable
        assert first + mutations - 1 > after


@pytest.mark.parametrize(
    ("said", "result"),
    [
        ("bad_value:role", Rejected(1, "bad_value", SENTENCES["bad_value"], "role")),
        ("refused", Rejected(1, "refused", SENTENCES["refused"])),
        ("refused:title", Rejected(1, "refused", SENTENCES["refused"], "title")),
        ("refused::one_a_day", Rejected(1, "refused", f"{SENTENCES['refused']} (one_a_day)")),
        ("refused:title:a:b", Rejected(1, "refused", f"{SENTENCES['refused']} (a:b)", "title")),
        ("of_a_newer_server", Rejected(1, "of_a_newer_server", SENTENCES["refused"])),
    ],
)
def test_a_rejection_names_the_column_and_the_constraint_as_far_as_they_are_known(said: str, result: Rejected) -> None:
    assert answer(push(1, 1), outcome(0, 1, {1: said})) == Ack(results=[result])


def test_the_sentence_about_an_id_says_what_each_type_of_key_must_be() -> None:
    types = {Type.UUID: "a random UUID", Type.TEXT: "a text of at most 1,000 bytes", Type.INT: "an integer"}
    assert {*types, Type.BIGINT, Type.INSTANT} == {*KEY_TYPES}, "an instant is never alone, and a bigint an integer"
    assert all(says in SENTENCES["bad_id"] for says in types.values())
