"""Values of every type, from devices to Postgres and back: what is kept is what was written, and what does not fit is
refused before Postgres sees it."""

import base64
import math
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import JSON, MSGPACK, Codec
from protocol.frames import COLUMNS, FIRST_INSTANT, LAST_INSTANT
from protocol.schema import KEY_TYPES, Type
from server.declaration.chat import CHAT
from server.declaration.model import Declaration, Field, Kind
from server.declaration.values import EXACT, BadValue, Rows, as_text, key_of, read_key
from tests.support.second import SECOND
from tests.support.values import KEYS, SENT

ID = UUID("0f6ea2a5-8d4c-4d1b-8a35-0ad1b8ac4f5e")
SQL = {
    Type.TEXT: "text",
    Type.UUID: "uuid",
    Type.BOOL: "boolean",
    Type.INT: "integer",
    Type.BIGINT: "bigint",
    Type.FLOAT: "double precision",
    Type.NUMERIC: "numeric",
    Type.INSTANT: "timestamp with time zone",
    Type.DATE: "date",
    Type.JSON: "jsonb",
    Type.ARRAY: "text[]",
    Type.BYTES: "bytea",
}
KINDS: list[Kind] = [*CHAT.kinds, *SECOND.kinds]
_PACKER = msgspec.msgpack.Encoder(uuid_format="bytes")
both = pytest.mark.parametrize("codec", [MSGPACK, JSON], ids=["msgpack", "json"])


def field(of: Type, sql: str | None = None, *, nullable: bool = False) -> Field:
    return Field("x", of, sql or SQL[of], nullable)


def received(value: Any, codec: Codec) -> Any:
    """A value as it comes out of a frame."""
    return codec.value(msgspec.Raw(msgspec.json.encode(value) if codec.text else _PACKER.encode(value)))


def text(of: Type, value: Any, sql: str | None = None) -> str | None:
    return as_text(field(of, sql))(value)


def refusal(of: Type, value: Any, sql: str | None = None) -> str:
    with pytest.raises(BadValue) as refused:
        text(of, value, sql)
    return refused.value.code


# ---- What Postgres gets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "value", "kept"),
    [
        (Type.TEXT, "", ""),
        (Type.TEXT, "ä🔑", "ä🔑"),
        (Type.UUID, ID.bytes, str(ID)),
        (Type.UUID, str(ID).upper(), str(ID)),
        (Type.UUID, f"{{{ID.hex}}}", str(ID)),
        (Type.BOOL, True, "true"),
        (Type.BOOL, False, "false"),
        (Type.INT, -(1 << 31), "-2147483648"),
        (Type.INT, "-0", "0"),
        (Type.BIGINT, (1 << 63) - 1, "9223372036854775807"),
        (Type.BIGINT, "-9223372036854775808", "-9223372036854775808"),
        (Type.BIGINT, "007", "7"),
        (Type.FLOAT, 1, "1.0"),
        (Type.FLOAT, 0.1, "0.1"),
        (Type.FLOAT, -0.0, "-0.0"),
        (Type.FLOAT, 1.7976931348623157e308, "1.7976931348623157e+308"),
        (Type.FLOAT, 5e-324, "5e-324"),
        (Type.FLOAT, "-Infinity", "-Infinity"),
        (Type.NUMERIC, "12345678901234567890.5", "12345678901234567890.5"),
        (Type.NUMERIC, "-1.", "-1."),
        (Type.NUMERIC, "1E+5", "1E+5"),
        (Type.NUMERIC, "NaN", "NaN"),
        (Type.NUMERIC, "-Infinity", "-Infinity"),
        (Type.INSTANT, LAST_INSTANT, str(LAST_INSTANT)),
        (Type.INSTANT, FIRST_INSTANT, str(FIRST_INSTANT)),
        (Type.DATE, "2024-02-29", "2024-02-29"),
        (Type.DATE, "5874897-12-31", "5874897-12-31"),
        (Type.DATE, "4714-11-24 BC", "4714-11-24 BC"),
        (Type.DATE, "0005-02-29 BC", "0005-02-29 BC"),
        (Type.DATE, "-infinity", "-infinity"),
        (Type.JSON, ' {"a": [1, null]} ', ' {"a": [1, null]} '),
        (Type.JSON, "null", "null"),
        (Type.JSON, r'"a backslash and \\u0000"', r'"a backslash and \\u0000"'),
        (Type.ARRAY, '[1, "b", null, true]', '[1, "b", null, true]'),
        (Type.ARRAY, " []", " []"),
        (Type.BYTES, b"\x00\xff", "AP8="),
        (Type.BYTES, "AP8=", "AP8="),
        (Type.BYTES, "", ""),
    ],
)
def test_postgres_gets_a_value_as_text(of: Type, value: Any, kept: str) -> None:
    assert text(of, value) == kept


@pytest.mark.parametrize(
    ("of", "value"),
    [
        (Type.TEXT, 5),
        (Type.TEXT, b"x"),
        (Type.TEXT, True),
        (Type.UUID, b"\x00" * 15),
        (Type.UUID, "0f6ea2a5"),
        (Type.UUID, 5),
        (Type.BOOL, 1),
        (Type.BOOL, "true"),
        (Type.INT, True),
        (Type.INT, 1.0),
        (Type.INT, 1 << 31),
        (Type.INT, -(1 << 31) - 1),
        (Type.INT, ""),
        (Type.INT, "1 "),
        (Type.INT, "٣"),
        (Type.BIGINT, 1 << 63),
        (Type.BIGINT, str(1 << 63)),
        (Type.BIGINT, "9" * 20),
        (Type.BIGINT, "1e5"),
        (Type.FLOAT, "1.5"),
        (Type.FLOAT, True),
        (Type.FLOAT, float("nan")),
        (Type.FLOAT, float("inf")),
        (Type.FLOAT, 10**400),
        (Type.NUMERIC, 1),
        (Type.NUMERIC, "1,5"),
        (Type.NUMERIC, "-NaN"),
        (Type.NUMERIC, ""),
        (Type.NUMERIC, "1e99999"),
        (Type.NUMERIC, "1" * 1_001),
        (Type.INSTANT, 1.0),
        (Type.INSTANT, "5"),
        (Type.INSTANT, "infinity"),
        (Type.INSTANT, LAST_INSTANT + 1),
        (Type.INSTANT, True),
        (Type.DATE, 5),
        (Type.DATE, "2023-02-29"),
        (Type.DATE, "1900-02-29"),
        (Type.DATE, "2023-00-01"),
        (Type.DATE, "2023-13-01"),
        (Type.DATE, "2023-04-31"),
        (Type.DATE, "2023-04-00"),
        (Type.DATE, "0000-01-01"),
        (Type.DATE, "0004-02-29 BC"),
        (Type.DATE, "4714-11-23 BC"),
        (Type.DATE, "5874898-01-01"),
        (Type.DATE, "01/02/2023"),
        (Type.DATE, "today"),
        (Type.JSON, {"a": 1}),
        (Type.JSON, ""),
        (Type.JSON, "{'a': 1}"),
        (Type.JSON, "1 2"),
        (Type.JSON, "[" * 100_000),
        (Type.ARRAY, "{}"),
        (Type.ARRAY, "5"),
        (Type.ARRAY, "[[1], [2]]"),
        (Type.ARRAY, '[{"a": 1}]'),
        (Type.ARRAY, "[1"),
        (Type.BYTES, "AP8"),
        (Type.BYTES, "AP 8="),
        (Type.BYTES, "_-8="),
        (Type.BYTES, "ä"),
        (Type.BYTES, 5),
    ],
)
def test_a_value_of_another_type_or_beyond_its_range_is_refused(of: Type, value: Any) -> None:
    assert refusal(of, value) == "bad_value"


@pytest.mark.parametrize(
    ("of", "value"),
    [
        (Type.TEXT, "a\0b"),
        (Type.UUID, f"{ID}\0"),
        (Type.JSON, '"a\0b"'),
        (Type.JSON, r'"a\u0000b"'),
        (Type.JSON, r'"a backslash \\\u0000"'),
        (Type.ARRAY, r'["\u0000"]'),
        (Type.BYTES, "AP8=\0"),
    ],
)
def test_a_text_with_what_postgres_cannot_keep_is_refused_as_such(of: Type, value: Any) -> None:
    assert refusal(of, value) == "bad_text"


@pytest.mark.parametrize(("sql", "most"), [("smallint", (1 << 15) - 1), ("integer", (1 << 31) - 1)])
def test_an_integer_has_the_range_of_its_column(sql: str, most: int) -> None:
    for value in (most, -most - 1, str(most)):
        assert text(Type.INT, value, sql) == str(value)
    for value in (most + 1, -most - 2, str(most + 1)):
        assert refusal(Type.INT, value, sql) == "bad_value"


@pytest.mark.parametrize("value", [3.4028234663852886e38, 1e-45, 0.0, -0.0, "NaN", "Infinity"])
def test_a_number_of_four_bytes_is_kept_if_they_can_hold_it(value: Any) -> None:
    assert text(Type.FLOAT, value, "real") is not None


@pytest.mark.parametrize("value", [3.5e38, -1e300, 1e-46])
def test_a_number_beyond_four_bytes_is_refused_for_a_column_of_four(value: float) -> None:
    assert refusal(Type.FLOAT, value, "real") == "bad_value"


@pytest.mark.parametrize("of", Type)
def test_nil_is_kept_where_it_may_be_and_nowhere_else(of: Type) -> None:
    assert as_text(field(of, nullable=True))(None) is None
    assert refusal(of, None) == "bad_value"


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(), st.text(), st.binary(max_size=40)
)


@given(st.sampled_from(Type), scalars)
def test_whatever_is_sent_becomes_a_text_or_is_refused(of: Type, value: Any) -> None:
    try:
        found = text(of, value)
    except BadValue as error:
        found = error.code
        value = None
    assert found in ("bad_value", "bad_text") if value is None else found is not None and "\0" not in found


@both
@given(data=st.data())
def test_a_value_that_a_device_received_can_be_sent_back_alike_in_both_encodings(
    codec: Codec, data: st.DataObject
) -> None:
    of = data.draw(st.sampled_from(Type))
    value = data.draw(SENT[of])
    found = text(of, received(value, codec))
    assert found == text(of, value if not isinstance(value, UUID) else value.bytes)
    assert found is not None
    match of:
        case Type.BYTES:
            assert base64.b64decode(found) == value
        case Type.FLOAT:
            assert repr(float(found)) == repr(float(value))
        case Type.BOOL:
            assert (found == "true") == value
        case _:
            assert found == str(value)


# ---- Keys ----------------------------------------------------------------------------------------------------------


def kinds_with_keys() -> st.SearchStrategy[Kind]:
    keys = st.lists(st.sampled_from(sorted(KEY_TYPES)), min_size=1, max_size=2)
    return keys.map(
        lambda types: Kind(
            name="any",
            tag="x",
            table=SECOND.kinds[0].table,
            key=tuple(Field(f"k{i}", of, SQL[of]) for i, of in enumerate(types)),
            columns=(),
        )
    )


@both
@given(kind=kinds_with_keys(), data=st.data())
def test_a_key_goes_to_postgres_and_comes_back_as_it_was(codec: Codec, kind: Kind, data: st.DataObject) -> None:
    halves = [data.draw(KEYS.get(each.of, SENT[each.of])) for each in kind.key]
    values = [received(half, codec) for half in halves]
    key = halves[0] if len(halves) == 1 else tuple(halves)
    assert read_key(kind, values) == key
    texts = [as_text(each)(value) or "" for each, value in zip(kind.key, values, strict=True)]
    assert key_of(kind, texts) == Rows(kind).key(texts) == key
    again = [str(half) for half in (key if isinstance(key, tuple) else (key,))]
    assert again == texts


@pytest.mark.parametrize("values", [[], ["A", "B"], [None], [5], [["A"]]])
def test_a_key_that_does_not_fit_is_refused(values: list[Any]) -> None:
    with pytest.raises(BadValue):
        read_key(SECOND.kind["shelf"], values)


@pytest.mark.parametrize("values", [[7], [7, 3, 1], ["x", 3], [7, None], [7, 1 << 31]])
def test_a_key_of_two_columns_has_both(values: list[Any]) -> None:
    with pytest.raises(BadValue):
        read_key(SECOND.kind["mark"], values)


# ---- What devices get ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value", "sent"),
    [
        ("isbn", EXACT, EXACT),
        ("isbn", -EXACT, -EXACT),
        ("isbn", EXACT + 1, str(EXACT + 1)),
        ("isbn", -(1 << 63), str(-(1 << 63))),
        ("isbn", None, None),
        ("score", 0.5, 0.5),
        ("score", math.nan, "NaN"),
        ("score", math.inf, "Infinity"),
        ("score", -math.inf, "-Infinity"),
        ("score", None, None),
        ("title", "x", "x"),
        ("cover", b"\xff", b"\xff"),
        ("lent", False, False),
    ],
)
def test_what_a_device_cannot_hold_is_sent_as_text(column: str, value: Any, sent: Any) -> None:
    book = SECOND.kind["book"]
    values = [value if each.name == column else None for each in book.columns]
    row = Rows(book).upsert(5, 7, values)
    assert row[:COLUMNS] == ("b", 5, 7)
    assert row[COLUMNS + book.index[column]] == sent


def test_a_deletion_is_the_tag_with_a_minus_and_the_key() -> None:
    assert Rows(SECOND.kind["mark"]).deletion(5, (7, 3)) == ("-M", 5, (7, 3))


@pytest.mark.parametrize("declaration", [CHAT, SECOND])
def test_a_row_comes_back_from_a_cache_as_it_was_and_a_row_of_another_kind_does_not(declaration: Declaration) -> None:
    for kind in declaration.kinds:
        key = tuple({Type.UUID: ID, Type.TEXT: "A"}.get(each.of, 7) for each in kind.key)
        values = [ID if each.field.of is Type.UUID else None for each in kind.columns]
        row = Rows(kind).upsert(5, key if len(key) == 2 else key[0], values)  # type: ignore[arg-type]  # any key
        kept = msgspec.msgpack.decode(_PACKER.encode(row))
        assert Rows(kind).restored(kept) == row
        for other in declaration.kinds:
            if other is not kind:
                with pytest.raises(ValueError):
                    Rows(other).restored(kept)
