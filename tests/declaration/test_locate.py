"""Where keys of a TOML text stand."""

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings

from server.declaration.file import write
from server.declaration.file.locate import Place, places
from server.declaration.file.written import File
from tests.declaration.written import files


@pytest.mark.parametrize(
    ("text", "path", "place"),
    [
        pytest.param("a = 1", ("a",), (1, 1), id="a key"),
        pytest.param("# a = 1\n\n  a = 1", ("a",), (3, 3), id="after blanks and comments"),
        pytest.param("a = 1\r\nb = 2", ("b",), (2, 1), id="after a line that ends with CR LF"),
        pytest.param("[a.b]\nc = 1", ("a", "b"), (1, 4), id="a table"),
        pytest.param("[a.b]\nc = 1", ("a", "b", "c"), (2, 1), id="a key in a table"),
        pytest.param("[ a . 'b c' ]\nd = 1", ("a", "b c", "d"), (2, 1), id="a quoted part of a header"),
        pytest.param("a.b.c = 1", ("a", "b"), (1, 3), id="a part of a dotted key"),
        pytest.param('"a\\u0062" = 1', ("ab",), (1, 1), id="a quoted key with an escape"),
        pytest.param("a = { b = 1, c.d = { e = 2 } }", ("a", "c", "d", "e"), (1, 22), id="a key in inline tables"),
        pytest.param('a = [1, "]", [2],\n 3]', ("a", 3), (2, 2), id="a value of a list of several lines"),
        pytest.param('a = [\n  # "x",\n  1,\n]\nb = 1', ("a", 0), (3, 3), id="a value after a comment in a list"),
        pytest.param('a = [\n  # "x",\n  1,\n]\nb = 1', ("b",), (5, 1), id="a key after a list of several lines"),
        pytest.param('a = """\nb = "1" \\" \\\n""""\nc = 1', ("c",), (4, 1), id="a key after a text of several lines"),
        pytest.param("a = '''\n'b' = 1'''''\nc = 1", ("c",), (3, 1), id="a key after a literal text"),
        pytest.param('a = "\\\\"\nb = 1', ("b",), (2, 1), id="a key after a text that ends with a backslash"),
        pytest.param("a = 'x\\'\nb = 1", ("b",), (2, 1), id="a key after a literal that ends with a backslash"),
        pytest.param("a = 2026-11-30T10:00:00Z # b\nb = 1", ("b",), (2, 1), id="a key after a date"),
        pytest.param("[[a]]\nb = 1\n[[a]]\nb = 2\n[a.c]\nd = 1", ("a", 1, "b"), (4, 1), id="a list of tables"),
        pytest.param("[[a]]\nb = 1\n[[a]]\nb = 2\n[a.c]\nd = 1", ("a", 1, "c", "d"), (6, 1), id="a table of its last"),
    ],
)
def test_a_key_is_found(text: str, path: tuple[str | int, ...], place: tuple[int, int]) -> None:
    tomllib.loads(text)
    assert places(text)[path] == Place(*place)


@settings(max_examples=40)
@given(files())
def test_every_key_of_a_declaration_is_found_where_it_stands(file: File) -> None:
    text = write.text(file)
    found = places(text)
    lines = text.split("\n")

    def check(value: Any, path: tuple[str | int, ...]) -> None:
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            line, column = found[(*path, key)]
            written = lines[line - 1][column - 1 :]
            assert isinstance(key, int) or written.startswith(key)
            if isinstance(each, dict | list):
                check(each, (*path, key))
            elif isinstance(key, int):
                assert written.startswith(write.quoted(each))

    check(tomllib.loads(text), ())
