"""Values of every type, as Postgres sends them and as devices do."""

from typing import Any, Final

from hypothesis import strategies as st

from protocol.frames import FIRST_INSTANT, LAST_INSTANT
from protocol.schema import Type
from server.declaration.values import EXACT

TEXTS: Final = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)
BIG: Final = st.one_of(
    st.integers(-EXACT, EXACT),
    st.integers(-(1 << 63), -EXACT - 1).map(str),
    st.integers(EXACT + 1, (1 << 63) - 1).map(str),
)
SENT: Final[dict[Type, st.SearchStrategy[Any]]] = {
    Type.TEXT: TEXTS,
    Type.UUID: st.uuids(),
    Type.BOOL: st.booleans(),
    Type.INT: st.integers(-(1 << 31), (1 << 31) - 1),
    Type.BIGINT: BIG,
    Type.FLOAT: st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["NaN", "Infinity", "-Infinity"]),
    Type.NUMERIC: st.decimals(allow_nan=False, allow_infinity=False).map(str) | st.sampled_from(["NaN", "Infinity"]),
    Type.INSTANT: st.integers(FIRST_INSTANT, LAST_INSTANT),
    Type.DATE: st.dates().map(str) | st.sampled_from(["infinity", "-infinity", "0044-03-15 BC"]),
    Type.JSON: st.sampled_from(["null", "{}", '{"a": [1, 2.5, "ä"]}', '"text"', " 7 "]),
    Type.ARRAY: st.sampled_from(["[]", '["a", null]', "[1, 2]"]),
    Type.BYTES: st.binary(max_size=20),
}
"""By type: values on the wire, which devices may send too."""
KEYS: Final = {type_: SENT[type_] for type_ in (Type.UUID, Type.TEXT, Type.INT, Type.BIGINT)}
"""Values in keys."""
