"""What is said of a declaration's file before any database is asked."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.declaration.chat import CHAT_TOML
from server.declaration.file import keys, write
from server.declaration.file.keys import SECTIONS
from server.declaration.file.parse import parse, table_of
from server.declaration.file.written import File
from server.declaration.model import Table
from tests.declaration.written import files

NOTE: Final = '[kind.note]\ntable = "notes"\nowner = "user_id"\ncolumns = ["title", "at"]\n'
"""A kind, in four lines."""
INSERT: Final = 'devices = { insert = ["title"] }\n'
README: Final = Path(__file__).parents[2] / "server" / "README.md"


def said(text: str) -> list[str]:
    _, problems = parse(text)
    return [f"{place.line}:{place.column}: {says}" for place, says in sorted(problems)]


@settings(max_examples=40)
@given(files())
def test_a_declaration_that_is_written_out_and_read_again_is_the_same(file: File) -> None:
    assert parse(write.text(file)) == (file, [])


def test_nothing_is_wrong_with_the_chat_declaration() -> None:
    file, problems = parse(CHAT_TOML)
    assert problems == []
    assert [kind.tag for kind in file.kinds] == ["p", "c", "m"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("[kind.note\n", "1:11: This is not TOML", id="no TOML"),
        pytest.param("[kind.note]\ntag = ", "2:7: This is not TOML", id="no TOML at its end"),
        pytest.param("", "1:1: Nothing is declared.", id="nothing"),
        pytest.param(NOTE + "\n[knd.a]", "6:2: `knd` is no key of a declaration. Did you mean `kind`?", id="a table"),
        pytest.param(NOTE + 'newst = "at"', "5:1: `newst` is no key of a kind. Did you mean `newest`?", id="a key"),
        pytest.param(
            NOTE + 'devices = { insrt = ["title"] }',
            "5:13: `insrt` is no key of `devices`. Did you mean `insert`?",
            id="a key of devices",
        ),
        pytest.param('[kind.note]\nowner = "a"', "1:7: `table` is missing", id="no table"),
        pytest.param('[kind.note]\ntable = "a"', "1:7: Whose rows are these?", id="neither owner nor parent"),
        pytest.param(
            NOTE + 'parent = { kind = "note", column = "a" }',
            "5:1: A kind has an owner or a parent, not both.",
            id="owner and parent",
        ),
        pytest.param(NOTE + "window = true", "5:1: `window` must be", id="a window of another type"),
        pytest.param(NOTE + "window = 501", "5:1: `window` must be", id="a window that is too large"),
        pytest.param(NOTE.replace('"at"', "7"), "4:21: `columns` must be", id="a column of another type"),
        pytest.param(NOTE.replace('"at"', '"title"'), "4:21: `title` stands here twice.", id="a column twice"),
        pytest.param(NOTE.replace('"at"', '"a b"'), "4:21: `a b` cannot be a name on the wire", id="a bad name"),
        pytest.param(NOTE + 'tag = "no"', "5:1: `tag` must be one character", id="a bad tag"),
        pytest.param(NOTE + 'tag = "é"', "5:1: `tag` must be one character", id="a letter that is no tag"),
        pytest.param(
            NOTE + 'tag = "n"\n[kind.b]\ntag = "n"\ntable = "b"\nowner = "a"',
            "7:1: `n` is the tag of `note`, too.",
            id="a tag twice",
        ),
        pytest.param(NOTE + NOTE.replace("note]", "b]"), "6:1: `note` is of the same table.", id="a table twice"),
        pytest.param(
            NOTE.replace("note]", "Note]"), "1:7: `Note` cannot be the name of a kind.", id="a bad name of a kind"
        ),
        pytest.param(NOTE + 'newest = "created"', "5:1: `created` is none of the columns", id="another newest"),
        pytest.param(
            NOTE + 'devices = { update = ["title", "titel"] }',
            "5:32: `titel` is none of the columns that devices receive. Add it to `columns`. Did you mean `title`?",
            id="devices update another column",
        ),
        pytest.param(
            NOTE + 'limits = { title = "9 bytes" }', "5:12: Devices do not write `title`", id="a needless limit"
        ),
        pytest.param(
            NOTE + INSERT + 'limits = { title = "1,000 bytes" }',
            '6:12: The limit of `title` must be "N bytes"',
            id="a bad limit",
        ),
        pytest.param(
            NOTE + INSERT + 'limits = { title = "200001 bytes" }',
            "6:12: The limit of `title` must be",
            id="a large limit",
        ),
        pytest.param(NOTE + 'devices = { created = "at" }', "5:13: `created` is written by inserts", id="no inserts"),
        pytest.param(NOTE + 'archive = "1 month"', "5:1: Only a table that is partitioned", id="an archive only"),
        pytest.param(NOTE + 'partition = "month"', "5:1: The table is partitioned by `newest`.", id="no newest"),
        pytest.param(NOTE + 'partition = "day"', '5:1: `partition` must be "month".', id="another partition"),
        pytest.param(
            NOTE + '[gate]\ntable = "note"\ncolumn = "tier"\nsyncs = ["a"]',
            "6:1: `public.note` is the table of no kind. Declare it as a kind whose owner is the user. "
            "Did you mean `public.notes`?",
            id="a gate of no kind",
        ),
        pytest.param(
            NOTE + '[gate]\ntable = "notes"\ncolumn = "a"', "5:2: The gate needs one of", id="a gate for nobody"
        ),
        pytest.param(
            NOTE + '[gate]\ntable = "notes"\ncolumn = "a"\nsyncs = []', "8:1: `syncs` must be", id="no values"
        ),
        pytest.param(
            '[kind.a]\ntable = "a"\nparent = { kind = "b", column = "x" }',
            "3:12: There is no kind `b`.",
            id="no parent",
        ),
        pytest.param(
            '[kind.a]\ntable = "a"\nparent = { kind = "a", column = "x" }',
            "3:1: `a` is below itself.",
            id="its own parent",
        ),
        pytest.param('[kind.a]\ntable = "a\\u0000"\nowner = "b"', "2:1: `table` must be a table", id="a NUL"),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(text: str, says: str) -> None:
    assert any(line.startswith(says) for line in said(text)), said(text)


def below(*parents: str) -> str:
    """A chain of kinds, each below the one before it."""
    kinds = [
        f'[kind.{name}]\ntable = "{name}"\nparent = {{ kind = "{parent}", column = "x" }}\n'
        for parent, name in pairwise(parents)
    ]
    return "".join(kinds)


def test_at_most_two_parents_lead_to_an_owner() -> None:
    assert said(NOTE + below("note", "b", "c")) == []
    (line,) = said(NOTE + below("note", "b", "c", "d"))
    assert line.startswith("13:1: More than two parents lead from `d` to an owner.")


def test_a_circle_of_parents_is_named_at_each_of_its_kinds() -> None:
    lines = said(below("a", "b", "a"))
    assert [line.partition(":")[0] for line in lines] == ["3", "6"]
    assert all("circle" in line for line in lines)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    text = (
        '[kind.a]\ntabel = "a"\nwindow = -1\n'
        '[kind.b]\ntable = "b"\nowner = 1\nparent = { kind = "c", column = "x" }\n[gate]\n'
    )
    lines = said(text)
    for says in (
        "2:1: `tabel`",
        "1:7: `table` is missing",
        "3:1: `window`",
        "6:1: `owner`",
        "7:1: A kind has",
        "8:2: `column` is missing",
    ):
        assert any(line.startswith(says) for line in lines), (says, lines)


def test_a_kind_without_tag_takes_the_first_letter_of_its_name_that_is_free() -> None:
    file, problems = parse(
        "".join(f'[kind.{name}]\ntable = "{name}"\nowner = "o"\n' for name in ("ab", "b", "a", "c"))
        + '[kind.other]\ntag = "a"\ntable = "x"\nowner = "o"\n'
    )
    assert problems == []
    assert {kind.name: kind.tag for kind in file.kinds} == {"ab": "b", "b": "c", "a": "d", "c": "e", "other": "a"}


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("notes", Table("public", "notes")),
        ("app.Notes v2", Table("app", "Notes v2")),
        ('app."a.b"', Table("app", "a.b")),
        ('"say ""hi"""."b"', Table('say "hi"', "b")),
        ("a.b.c", None),
        ('"a', None),
        ("", None),
    ],
)
def test_a_table_is_named_as_in_sql_but_in_its_own_case(text: str, table: Table | None) -> None:
    assert table_of(text) == table


VALUES: Final = st.recursive(
    st.sampled_from(["title", "note", "*", "-a", "a as b", "9 bytes", "month", "all", ""])
    | st.integers(-1, 3)
    | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([key.name for keys in SECTIONS.values() for key in keys]), inner, max_size=4)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([key.name for key in keys.KIND]), VALUES, max_size=6), VALUES)
def test_any_toml_is_read_or_something_is_said_of_it(kind: dict[str, Any], gate: Any) -> None:
    text = f"gate = {toml(gate)}\nkind.note = {toml(kind)}\nkind.b = {toml(kind)}\n"
    file, problems = parse(text)
    assert problems or write.text(file)
    assert all(says.endswith((".", "?")) for _, says in problems)


def toml(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{name} = {toml(each)}" for name, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case bool():
            return str(value).lower()
        case str():
            return write.quoted(value)
        case _:
            return str(value)


def test_the_reference_has_every_key() -> None:
    found = re.search(r"^\| key \| value \| meaning \|\n(?:\|.*\n)*", README.read_text(), re.MULTILINE)
    assert found is not None, f"server/README.md should have this table:\n{keys.reference()}"
    # No plain comparison: pytest would print both, shortened.
    if found.group().strip() != keys.reference():
        pytest.fail(f"server/README.md should have this table:\n{keys.reference()}")
