"""Values in the binary format are decoded to what a statement sends of them, or left to a statement."""

import random
import struct
from collections.abc import Callable
from typing import Any, Final

import pytest

from protocol.schema import Type
from server.declaration.model import TYPES, Field
from server.declaration.sql.pieces import sent
from server.postgres import binary
from server.postgres.wal.decoding import DECODERS
from tests.support.cluster import Database, administrator

SEND: Final = {
    "bpchar": "bpcharsend",
    "character varying": "varcharsend",
    "numeric": "numeric_send",
    "real": "float4send",
}
RNG: Final = random.Random(11)


def numerics() -> list[str]:
    """Of all lengths, with and without zeros at either end."""
    made = ["0", "0.00", "1e131071", "1e-16383", "NaN", "Infinity", "-Infinity", "-0.10", "10000", "0.0001", "99990000"]
    for _ in range(400):
        digits = "".join(RNG.choice("0000123456789") for _ in range(RNG.randrange(1, 30)))
        point = RNG.randrange(len(digits) + 1)
        made.append(f"{RNG.choice(('', '-'))}{digits[:point] or '0'}.{digits[point:]}e{RNG.randrange(-30, 30)}")
    return made


def reals() -> list[str]:
    made = ["0", "-0", "NaN", "Infinity", "-Infinity", "0.1", "16777216", "1e-45", "1.17549435e-38", "3.4028235e38"]
    made += [f"{RNG.uniform(-1000, 1000):.{RNG.randrange(5)}f}" for _ in range(200)]
    made += [repr(2.0**power) for power in range(-60, 60)]
    for _ in range(200):
        (value,) = struct.unpack(">f", RNG.randbytes(4))
        made += [repr(value)] if value == value else []
    return made


def arrays(element: Callable[[], str]) -> list[str]:
    made = ["{}", "{NULL}", "{NULL,NULL}"]
    some = ([RNG.choice((element(), element(), "NULL")) for _ in range(RNG.randrange(1, 6))] for _ in range(100))
    return [*made, *("{" + ",".join(elements) + "}" for elements in some)]


def text() -> str:
    letters = (RNG.choice("aé€😀\n\t\b\f\r\x01\x1f\x7f'/,{}\\\"\ufeff\u2028 ") for _ in range(RNG.randrange(8)))
    return '"' + "".join(letters).replace("\\", "\\\\").replace('"', '\\"') + '"'


def digits(bits: int) -> Callable[[], str]:
    return lambda: str(RNG.randrange(-1 << bits, 1 << bits))


VALUES: Final[dict[str, list[str]]] = {
    "numeric": numerics(),
    "real": reals(),
    "bpchar": ["", " ", "a", "a  ", "  a b  ", "é "],
    "date": [
        "infinity",
        "-infinity",
        "0001-01-01",
        "9999-12-31",
        "2000-01-01",
        "1999-12-31",
        "2024-02-29",
        "0044-03-15 BC",
        "10000-01-01",
        "5874897-12-31",
        "4714-11-24 BC",
    ],
    "text[]": arrays(text),
    "character varying[]": arrays(text),
    "smallint[]": arrays(digits(15)),
    "integer[]": arrays(digits(31)),
    "bigint[]": arrays(digits(63)),
    "boolean[]": arrays(lambda: RNG.choice("tf")),
    "numeric[]": arrays(lambda: RNG.choice(numerics())),
    "uuid[]": arrays(lambda: RNG.randbytes(16).hex()),
}
LEFT: Final = {"real": 0.65, "date": 0.4}
"""Of these types, at most this part of the values is left to a statement."""


@pytest.mark.parametrize("of", VALUES)
async def test_a_value_is_what_a_statement_sends(every_database: Database, of: str) -> None:
    base = of.removesuffix("[]")
    field = Field("value", Type.ARRAY if of != base else TYPES.get(of, Type.TEXT), of)
    oid, decode = DECODERS[of]
    send = "array_send" if of != base else SEND.get(of, f"{of}_send")
    left = 0
    async with administrator(every_database) as sql:
        assert oid == await sql.fetchval("SELECT $1::text::regtype::oid", of)
        values = f"SELECT v::{of} AS value FROM unnest($1::text[]) v"
        rows = await sql.fetch(
            f"SELECT {send}(value) AS bytes, {sent('', field)} AS sent FROM ({values}) v", VALUES[of]
        )
    for row in rows:
        try:
            found: Any = decode(row["bytes"])
        except ValueError:
            left += 1
        else:
            assert repr(found) == repr(row["sent"]), row["bytes"]
    assert left <= LEFT.get(of, 0) * len(rows)


def test_an_array_of_other_elements_or_dimensions_is_left_to_a_statement() -> None:
    for of, dimensions in ((701, 1), (25, 2)):
        with pytest.raises(ValueError, match="array"):
            binary.array(struct.pack(">III", dimensions, 0, of) + struct.pack(">II", 1, 1) * dimensions + b"\0\0\0\0")
