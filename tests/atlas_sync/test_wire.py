"""Rows, mutations and pages of the second schema: every type in both encodings."""

import json
import math
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_sync.checks import ProtocolError
from atlas_sync.codec import CODECS, Encoding
from atlas_sync.mutation import Delete, Insert, Mutation, Update, WriteError, check
from atlas_sync.rows import Deleted, Row
from atlas_sync.schema import Schema
from atlas_sync.stored import pack_mutation, pack_schema, unpack_mutation, unpack_schema
from atlas_sync.wire import Wire
from tests.atlas_sync.second_schema import SECOND

A, B = UUID(int=2), UUID(int=0xABC)
POST: dict[str, Any] = {
    "thread_id": 2**53 + 1,
    "topic_id": "é",
    "kind": "note",
    "body": {"parts": ["é", 1, 1.5, None, True]},
    "tags": ["a", "b"],
    "tokens": -(2**63),
    "votes": 3,
    "score": 1.5,
    "cost": Decimal("12.50"),
    "day": "2026-02-28",
    "digest": b"\x00\xff",
    "author": B,
    "hidden": False,
    "posted": -5,
}
WRITTEN = {name: value for name, value in POST.items() if name not in ("topic_id", "posted")}
BODY = '{"parts":["é",1,1.5,null,true]}'
both = pytest.mark.parametrize("encoding", ["msgpack", "json"])


def carried(encoding: Encoding, value: object) -> Any:
    """The value as the other end decodes it."""
    data = CODECS[encoding].encode({"v": value}, 10_000_000)
    return (msgpack.unpackb(data) if isinstance(data, bytes) else json.loads(data))["v"]


def wired(encoding: Encoding) -> Wire:
    return Wire(CODECS[encoding], SECOND)


def post(encoding: Encoding, **columns: Any) -> list[Any]:
    """The row POST as it travels, with other columns."""
    binary = encoding == "msgpack"
    usual = {
        "thread_id": "9007199254740993",
        "topic_id": "é",
        "kind": "note",
        "body": BODY,
        "tags": '["a","b"]',
        "tokens": "-9223372036854775808",
        "votes": 3,
        "score": 1.5,
        "cost": "12.50",
        "day": "2026-02-28",
        "digest": b"\x00\xff" if binary else "AP8=",
        "author": B.bytes if binary else str(B),
        "hidden": False,
        "posted": -5,
    }
    return ["P", 7, A.bytes if binary else str(A), *{**usual, **columns}.values()]


# ---- Rows ----------------------------------------------------------------------------------------------------------


@both
def test_every_type_is_read(encoding: Encoding) -> None:
    assert wired(encoding).rows([post(encoding)]) == (Row("post", 7, A, POST),)
    nils = dict.fromkeys(["tags", "tokens", "score", "cost", "day", "digest", "author", "hidden"])
    (row,) = wired(encoding).rows([post(encoding, **nils)])
    assert row == Row("post", 7, A, {**POST, **nils})


@both
@pytest.mark.parametrize(
    ("column", "value", "read"),
    [
        ("tokens", 2**53 - 1, 2**53 - 1),
        ("tokens", "5", 5),
        ("score", 2, 2.0),
        ("score", "Infinity", math.inf),
        ("score", "-Infinity", -math.inf),
        ("cost", "1e-3", Decimal("0.001")),
        ("cost", "-Infinity", Decimal("-Infinity")),
        ("day", "-infinity", "-infinity"),
        ("day", "0044-03-15 BC", "0044-03-15 BC"),
        ("body", "null", None),
        ("body", '"text"', "text"),
        ("body", "1" * 5000, float("inf")),
        ("body", "9007199254740993", 2**53 + 1),
        ("tags", "[]", []),
        ("tags", '["9007199254740993",null]', ["9007199254740993", None]),
    ],
)
def test_values_at_their_bounds_are_read(encoding: Encoding, column: str, value: Any, read: Any) -> None:
    (row,) = wired(encoding).rows([post(encoding, **{column: value})])
    assert isinstance(row, Row)
    assert row.values[column] == read
    assert type(row.values[column]) is type(read)


@both
def test_json_that_is_deeper_than_python_reads_stays_a_text(encoding: Encoding) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    (row,) = wired(encoding).rows([post(encoding, body=deep, tags=deep)])
    assert isinstance(row, Row)
    assert (row.body, row.tags) == (deep, deep)


@both
@pytest.mark.parametrize("column", ["score", "cost"])
def test_not_a_number_is_read(encoding: Encoding, column: str) -> None:
    (row,) = wired(encoding).rows([post(encoding, **{column: "NaN"})])
    assert isinstance(row, Row)
    assert row.values[column] != row.values[column]


@both
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("thread_id", None),
        ("thread_id", "7x"),
        ("thread_id", 7.0),
        ("kind", None),
        ("kind", 7),
        ("body", {}),
        ("body", "{"),
        ("body", None),
        ("tags", "{}"),
        ("tags", ["a"]),
        ("votes", "3"),
        ("votes", True),
        ("score", "1.5"),
        ("score", "nan"),
        ("score", True),
        ("cost", 12.5),
        ("cost", "twelve"),
        ("day", 7),
        ("digest", 7),
        ("author", 7),
        ("author", "7"),
        ("hidden", 0),
        ("posted", 1.5),
        ("posted", None),
    ],
)
def test_a_value_that_does_not_fit_its_column_is_refused_and_the_column_named(
    encoding: Encoding, column: str, value: Any
) -> None:
    with pytest.raises(ProtocolError, match=rf"^post\.{column}: "):
        wired(encoding).rows([post(encoding, **{column: value})])


@both
def test_keys_of_every_type_are_read(encoding: Encoding) -> None:
    rows = [
        ["t", 1, "ключ", "n", True, None],
        ["h", 1, "-9007199254740993", "ключ", None, None],
        ["9", 1, ["é", -1], True],
        ["-9", 2, ["é", -1]],
        ["s", 1, 0, "[]"],
        ["-s", 1, 0],
    ]
    assert wired(encoding).rows(rows) == (
        Row("topic", 1, "ключ", {"name": "n", "pinned": True, "touched": None}),
        Row("thread", 1, -(2**53) - 1, {"topic_id": "ключ", "title": None, "rank": None}),
        Row("vote", 1, ("é", -1), {"up": True}),
        Deleted("vote", 2, ("é", -1)),
        Row("setting", 1, 0, {"value": []}),
        Deleted("setting", 1, 0),
    )


@pytest.mark.parametrize(
    "row",
    [
        ["t", 1, 7, "n", True, None],
        ["t", 1, None, "n", True, None],
        ["9", 1, "é", True],
        ["9", 1, ["é"], True],
        ["9", 1, ["é", 1, 2], True],
        ["9", 1, ["é", "1"], True],
        ["-9", 1, [None, 1]],
        ["s", 1, 1.5, None],
        ["s", 1, True, None],
        ["t", 1, "a", "n", True],
        ["-t", 1],
        [],
        [7],
        7,
    ],
    ids=repr,
)
def test_a_row_with_another_key_or_too_few_columns_is_refused(row: Any) -> None:
    with pytest.raises(ProtocolError):
        wired("json").rows([row])


# ---- Mutations and pages -------------------------------------------------------------------------------------------


@both
def test_mutations_carry_every_type(encoding: Encoding) -> None:
    mutation = Insert("post", A, WRITTEN, 9)
    check(mutation, SECOND)
    expected = {name: value for name, value in zip(POST, post(encoding)[3:], strict=True) if name in WRITTEN}
    key = A.bytes if encoding == "msgpack" else str(A)
    assert carried(encoding, wired(encoding).mutation(mutation)) == ["+", "P", key, expected, 9]


@both
@pytest.mark.parametrize(
    ("mutation", "array"),
    [
        (Insert("topic", "a", {"name": "n", "pinned": True}, 9), ["+", "t", "a", {"name": "n", "pinned": True}, 9]),
        (Update("topic", "a", {}, 9), ["~", "t", "a", {}, 9]),
        (Delete("topic", "a"), ["-", "t", "a"]),
        (Delete("thread", 2**53), ["-", "h", "9007199254740992"]),
        (Delete("thread", 2**53 - 1), ["-", "h", 2**53 - 1]),
        (Insert("vote", ("é", 1), {"up": False}, 9), ["+", "9", ["é", 1], {"up": False}, 9]),
        (Update("vote", ("é", 1), {"up": False}, 9), ["~", "9", ["é", 1], {"up": False}, 9]),
    ],
    ids=repr,
)
def test_mutations_carry_every_key(encoding: Encoding, mutation: Mutation, array: list[Any]) -> None:
    assert carried(encoding, wired(encoding).mutation(mutation)) == array


@pytest.mark.parametrize(
    ("of", "value", "carries"),
    [
        ("score", math.nan, "NaN"),
        ("score", -math.inf, "-Infinity"),
        ("score", 2, 2),
        ("cost", Decimal("1E+3"), "1000"),
        ("cost", Decimal("-0.000"), "-0.000"),
        ("cost", 7, "7"),
        ("cost", Decimal("NaN"), "NaN"),
        ("body", None, "null"),
        ("tags", None, None),
        ("body", "text", '"text"'),
        ("tags", ["é"], '["é"]'),
        ("tokens", -(2**53) + 1, -(2**53) + 1),
        ("tokens", -(2**53), "-9007199254740992"),
    ],
)
def test_values_at_their_bounds_are_written(of: str, value: Any, carries: Any) -> None:
    for encoding in CODECS:
        array = carried(encoding, wired(encoding).mutation(Insert("post", A, {"thread_id": 1, of: value}, 9)))
        assert array[3][of] == carries


@both
def test_a_page_names_its_kind_its_parent_and_its_place(encoding: Encoding) -> None:
    wire, key = wired(encoding), A.bytes if encoding == "msgpack" else str(A)
    asked = [
        wire.page("topic", None, (None, "a")),
        wire.page("thread", "a", (2**53, 2**60)),
        wire.page("post", 2**60, (5, A)),
        wire.page("vote", None, (None, ("é", 1))),
        wire.page("setting", None, None),
    ]
    assert carried(encoding, asked) == [
        {"kind": "topic", "before": [None, "a"]},
        {"kind": "thread", "parent": "a", "before": [str(2**53), str(2**60)]},
        {"kind": "post", "parent": str(2**60), "before": [5, key]},
        {"kind": "vote", "before": [None, ["é", 1]]},
        {"kind": "setting"},
    ]


# ---- Checking ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mutation", "code", "column"),
    [
        (Insert("note", "a", {}, 1), "not_allowed", None),
        (Insert("setting", 1, {"value": 1}, 1), "not_allowed", None),
        (Update("setting", 1, {"value": 1}, 1), "not_allowed", None),
        (Delete("setting", 1), "not_allowed", None),
        (Delete("vote", ("a", 1)), "not_allowed", None),
        (Update("thread", 1, {"rank": 1}, 1), "not_allowed", "rank"),
        (Update("thread", 1, {"topic_id": "b"}, 1), "not_allowed", "topic_id"),
        (Insert("thread", 1, {"topic_id": "b", "age": 1}, 1), "not_allowed", "age"),
        (Insert("thread", 1, {"title": "x"}, 1), "malformed", "topic_id"),
        (Insert("thread", "1", {"topic_id": "b"}, 1), "bad_value", None),
        (Insert("thread", 2**63, {"topic_id": "b"}, 1), "bad_value", None),
        (Insert("thread", 1, {"topic_id": 7}, 1), "bad_value", "topic_id"),
        (Insert("topic", "a\0", {"name": "n"}, 1), "bad_text", None),
        (Insert("topic", "a", {"name": "n"}, 1.5), "malformed", None),  # type: ignore[arg-type]
        (Insert("topic", "a", {"name": "é" * 21}, 1), "too_long", "name"),
        (Insert("topic", "a", {"name": None}, 1), "bad_value", "name"),
        (Insert("vote", "a", {"up": True}, 1), "malformed", None),
        (Insert("vote", ("a", "1"), {"up": True}, 1), "bad_value", None),
        (Insert("vote", ("a", 2**31), {"up": True}, 1), "bad_value", None),
        (Update("post", A, {"body": 1}, 1), "malformed", None),
        (Update("topic", "a", {}, 1), "malformed", None),
        (Update("post", (A, 1), {"kind": None}, 1), "bad_value", "kind"),
        (Insert("post", A, {**WRITTEN, "topic_id": "a"}, 1), "not_allowed", "topic_id"),
        (Update("post", (A, 1.5), {"body": 1}, 1), "malformed", None),  # type: ignore[arg-type]
        (Delete("post", (A, 2**54)), "malformed", None),
        (Update("post", (A, 1), {"kind": "answer"}, 1), "bad_value", "kind"),
        *(
            (Insert("post", A, {**WRITTEN, name: value}, 1), code, name)
            for name, value, code in [
                ("votes", 2**31, "bad_value"),
                ("votes", True, "bad_value"),
                ("tokens", 2**63, "bad_value"),
                ("score", "1", "bad_value"),
                ("cost", 1.5, "bad_value"),
                ("cost", Decimal("1E+1000"), "bad_value"),
                ("cost", Decimal("1E-1001"), "bad_value"),
                ("score", 1e308, "bad_value"),
                ("score", 10**400, "bad_value"),
                ("day", "28.2.2026", "bad_value"),
                ("digest", bytes(9), "too_long"),
                ("digest", "x", "bad_value"),
                ("author", str(A), "bad_value"),
                ("hidden", 0, "bad_value"),
                ("body", {1: 2}, "bad_value"),
                ("body", {"a": {1, 2}}, "bad_value"),
                ("body", [math.nan], "bad_value"),
                ("body", {"a\ud800": 1}, "bad_text"),
                ("body", ["secret\0"], "bad_text"),
                ("tags", {}, "bad_value"),
                ("tags", "a", "bad_value"),
            ]
        ),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_no_server_of_this_schema_accepts_is_refused_with_the_code_of_the_rejection(
    mutation: Mutation, code: str, column: str | None
) -> None:
    with pytest.raises(WriteError) as raised:
        check(mutation, SECOND)
    assert (raised.value.code, raised.value.column) == (code, column)
    assert "secret" not in str(raised.value)


def test_json_in_a_circle_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(WriteError):
        check(Update("post", (A, 1), {"body": circle}, 1), SECOND)


@pytest.mark.parametrize(
    "mutation",
    [
        Insert("post", A, WRITTEN, 1),
        Insert("post", A, {**WRITTEN, "digest": bytes(8), "score": math.inf, "cost": Decimal("1E+999")}, 1),
        Insert("post", A, {"thread_id": 1}, 1),
        Update("post", (A, 1), {"kind": "question", "tags": None}, 1),
        Delete("post", (A, -1)),
        Insert("vote", ("a", 1), {"up": True}, 1),
        Update("vote", ("a", 1), {"up": True}, 1),
        Insert("topic", "", {}, 1),
        Delete("thread", -(2**63)),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_a_server_may_accept_is_not_refused_and_comes_back_from_a_storage(mutation: Mutation) -> None:
    check(mutation, SECOND)
    assert unpack_mutation(pack_mutation(mutation)) == mutation


# ---- Storing -------------------------------------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
scalars = st.uuids() | st.text() | st.integers(-(2**63), 2**63 - 1)
values = anything | st.binary() | st.uuids() | st.decimals(allow_nan=False)


@given(key=scalars | st.tuples(scalars, scalars), columns=st.dictionaries(st.text(), values, max_size=4))
def test_a_stored_mutation_comes_back_as_it_was(key: Any, columns: dict[str, Any]) -> None:
    for mutation in (Insert("post", key, columns, 1), Update("post", (key, 5), columns, 1), Delete("post", key)):
        assert unpack_mutation(pack_mutation(mutation)) == mutation


@given(st.binary())
def test_other_bytes_are_no_stored_mutation(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack_mutation(b"\x93" + data)


@pytest.mark.parametrize("schema", [SECOND, Schema.chat()], ids=["second", "chat"])
def test_a_stored_schema_comes_back_as_it_was(schema: Schema) -> None:
    assert unpack_schema(pack_schema(schema)) == schema
