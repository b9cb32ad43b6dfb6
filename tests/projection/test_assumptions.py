"""A file of assumptions is whole and right, or one sentence says what is wrong with it."""

import contextlib
import re
from dataclasses import fields
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.exceptions import ConfigError
from server.projection.assumptions import Assumptions, Source, parse
from server.terminal.project import SHIPPED

TEXT: Final = SHIPPED.read_text()
NAMES: Final = [each.name for each in fields(Assumptions)]


def test_the_file_of_the_package_has_every_line_and_each_says_where_it_comes_from() -> None:
    sheet = parse(TEXT, "it")
    assert [line.name for line in sheet.lines] == NAMES
    for line in sheet.lines:
        assert getattr(sheet.values, line.name) == line.value
        assert bool(re.fullmatch(r"python -m benchmarks [\w -]+: \w+", line.said)) == (line.source is Source.MEASURED)
    assert {line.name for line in sheet.lines if line.name.endswith("_price")} == {
        line.name for line in sheet.lines if line.source is Source.PRICE
    }


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        pytest.param(
            'devises = { value = 2, unit = "devices an active user", assumed = "x" }', "`devises`", id="a typo"
        ),
        pytest.param("", "lacks `devices`", id="none"),
        pytest.param("devices = 2", "`devices` must be {", id="a bare number"),
        pytest.param(
            'devices = { value = "2", unit = "devices an active user", assumed = "x" }', "number", id="a text"
        ),
        pytest.param(
            'devices = { value = true, unit = "devices an active user", assumed = "x" }', "number", id="a truth"
        ),
        pytest.param(
            'devices = { value = -1, unit = "devices an active user", assumed = "x" }', "from 0", id="negative"
        ),
        pytest.param('devices = { value = nan, unit = "devices an active user", assumed = "x" }', "from 0", id="NaN"),
        pytest.param(
            'devices = { value = inf, unit = "devices an active user", assumed = "x" }', "from 0", id="infinite"
        ),
        pytest.param(
            f'devices = {{ value = {"9" * 400}, unit = "devices an active user", assumed = "x" }}',
            "from 0",
            id="no float",
        ),
        pytest.param(
            f'devices = {{ value = {"9" * 5000}, unit = "devices an active user", assumed = "x" }}', "TOML", id="digits"
        ),
        pytest.param('devices = { value = 2, unit = "dozens", assumed = "x" }', "unit of `devices`", id="another unit"),
        pytest.param('devices = { value = 2, unit = "devices an active user" }', "`devices` must be {", id="no source"),
        pytest.param(
            'devices = { value = 2, unit = "devices an active user", assumed = "x", price = "y" }', "one of", id="two"
        ),
        pytest.param('devices = { value = 2, unit = "devices an active user", assumed = " " }', "text", id="no reason"),
        pytest.param('devices = { value = 2, unit = "devices an active user", guess = "x" }', "`guess`", id="a guess"),
        pytest.param("devices = [", "is not TOML", id="no TOML"),
        pytest.param(f"devices = {'[' * 5000}", "is not TOML", id="deep"),
    ],
)
def test_a_wrong_line_is_named_in_one_sentence(line: str, sentence: str) -> None:
    text = re.sub(r"^devices = .*$", lambda _: line, TEXT, flags=re.MULTILINE)
    assert text != TEXT
    with pytest.raises(ConfigError, match=re.escape(sentence)) as error:
        parse(text, "mine.toml")
    assert str(error.value).startswith("mine.toml")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", ["utilisation", "commits", "poll_seconds", "scrape_seconds"])
def test_what_others_are_divided_by_is_never_zero(name: str) -> None:
    with pytest.raises(ConfigError, match=f"value of `{name}` must be from 1e-06"):
        parse(re.sub(rf"^({name} = {{ value = )[\d.]+", r"\g<1>0", TEXT, flags=re.MULTILINE), "it")


def test_doorbells_that_leave_a_process_no_time_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`commits`.*`doorbell_us`"):
        parse(re.sub(r"^(doorbell_us = { value = )[\d.]+", r"\g<1>1000", TEXT, flags=re.MULTILINE), "it")


@settings(max_examples=50)
@given(st.text() | st.lists(st.sampled_from(TEXT.splitlines()), max_size=10).map("\n".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse(text, "it")
