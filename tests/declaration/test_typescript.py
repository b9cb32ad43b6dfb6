"""`schema.ts`: the schema as a literal, the same text for the same schema."""

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from protocol.schema import Column, Kind, Schema, Type
from server.declaration.chat import CHAT
from server.declaration.typescript import WIDTH, module
from tests.declaration.conftest import HERE

SCHEMA = Schema("0123456789abcdef", (Kind("note", "n", (Type.UUID,), (Column("title", "text?"),)),))


def test_the_chat_schema_is_this() -> None:
    assert module(CHAT.schema) == (HERE / "chat.schema.ts").read_text()


def test_what_is_short_is_in_one_line() -> None:
    assert module(SCHEMA).partition("\n\n")[2] == (
        "export const schema = {\n"
        "  hash: '0123456789abcdef',\n"
        "  kinds: [{ name: 'note', tag: 'n', key: ['uuid'], columns: [['title', 'text?']] }],\n"
        "} as const;\n"
    )


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), st.integers(0, 40))
def test_any_value_is_written_as_it_is(value: str, columns: int) -> None:
    kind = Kind(
        "note",
        "n",
        (Type.UUID,),
        tuple(Column(f"c{n}", "text") for n in range(columns)),
        limits={"title": (value, "b")},
    )
    text = module(Schema("", (kind,)))
    assert all(len(line) <= WIDTH or value for line in text.split("\n"))
    # In JSON names have quotation marks, texts have double ones, and nothing ends with a comma.
    body = text.partition("export const schema = ")[2].removesuffix(" as const;\n")
    texts = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        inside = match[2] if match[1] is None else match[1].replace("\\'", "'").replace('"', '\\"')
        kept.append(json.loads(f'"{inside}"', strict=True))
        return f'"{len(kept) - 1}"'

    body = re.sub(r"(\w+): ", r'"\1": ', texts.sub(keep, body))
    found = json.loads(re.sub(r",(\s*[}\]])", r"\1", body))
    assert kept[int(found["kinds"][0]["limits"]["title"][0])] == value
    assert len(found["kinds"][0]["columns"]) == columns
