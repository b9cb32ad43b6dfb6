"""What the page shows of Markdown that is being written."""

import json

from hypothesis import given, settings
from hypothesis import strategies as some

from tests.support.npm import PAGE, run_node

SCRIPT = """
    import { readFileSync } from 'node:fs';
    import { transformSync } from 'esbuild';
    const { code } = transformSync(readFileSync('src/presentable.ts', 'utf8'), { loader: 'ts' });
    const { presentable } = await import('data:text/javascript,' + encodeURIComponent(code));
    console.log(JSON.stringify(JSON.parse(process.argv[1]).map(presentable)));
"""
SHOWN = {
    "": "",
    "plain words": "plain words",
    "a **bold": "a **bold**",
    "a **bold*": "a **bold**",
    "a **bold** word": "a **bold** word",
    "a **": "a",
    "an *emphasis": "an *emphasis*",
    "**bold *and more": "**bold *and more***",
    "some `code": "some `code`",
    "some `a ** b": "some `a ** b`",
    "some `code` and": "some `code` and",
    "5 * 3": "5 * 3",
    "A line\n-": "A line",
    "A line\n\n1.": "A line\n",
    "- one\n- *two": "- one\n- *two*",
    "* one\n* tw": "* one\n* tw",
    "a\n##": "a",
    "| a | b |\n|---|": "| a | b |",
    "```python\nx = 2 **": "```python\nx = 2 **",
    "```\nx\n```\n**bold": "```\nx\n```\n**bold**",
    "see [the page](https://exa": "see the page",
    "see [the page](https://example.com)": "see [the page](https://example.com)",
}


def presentable(texts: list[str]) -> list[str]:
    shown: list[str] = json.loads(
        run_node("--input-type=module", "--eval", SCRIPT, json.dumps(texts), folder=PAGE).splitlines()[-1]
    )
    return shown


def test_marks_that_are_not_closed_are_closed_and_those_that_say_nothing_yet_are_left_out() -> None:
    assert dict(zip(SHOWN, presentable(list(SHOWN)), strict=True)) == SHOWN


@settings(max_examples=1)
@given(some.lists(some.text("ab *_`~#|-1.\n"), min_size=300, max_size=300))
def test_no_letter_is_left_out(texts: list[str]) -> None:
    for text, shown in zip(texts, presentable(texts), strict=True):
        assert [each for each in shown if each in "ab"] == [each for each in text if each in "ab"]
