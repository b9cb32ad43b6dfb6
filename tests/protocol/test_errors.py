"""SPEC.md, the clients' vectors and the server agree on every error: its code, whether it may be retried, its close."""

import json
import re
from pathlib import Path

import pytest

from protocol.errors import ERRORS, CloseCode, ErrorKind, Instruction, instruction
from protocol.frames import Error, Milliseconds

PROTOCOL = Path(__file__).parents[2] / "protocol"
INSTRUCTIONS = {
    Instruction.COME_BACK: "come_back",
    Instruction.NEW_TOKEN: "new_token",
    Instruction.START_OVER: "start_over",
    Instruction.STAY_AWAY: "stay_away",
}


def spec() -> dict[str, tuple[bool, int | None]]:
    """SPEC.md 10.1: whether each code is retryable, and its close code."""
    text = (PROTOCOL / "SPEC.md").read_text()
    table = text[text.index("| `code` | `retryable` | closes with | when |") : text.index("\n10.2 ")]
    rows = {}
    for line in table.splitlines()[2:]:
        if not line.startswith("|"):
            continue
        codes, retryable, closes = (cell.strip() for cell in line.strip("|").split("|")[:3])
        close = re.match(r"\d{4}", closes)
        assert retryable.split(",")[0] in ("yes", "no"), line
        for code in re.findall(r"`(\w+)`", codes):
            rows[code] = retryable.startswith("yes"), int(close[0]) if close else None
    return rows


def test_the_table_of_spec_10_1_is_the_table_of_errors() -> None:
    assert {code: (kind.retryable, kind.close) for code, kind in ERRORS.items()} == spec()


def test_every_close_code_belongs_to_an_error() -> None:
    assert {kind.close for kind in ERRORS.values()} - {None} == set(CloseCode)


@pytest.mark.parametrize("kind", ERRORS.values(), ids=ERRORS)
def test_an_error_that_may_be_retried_never_closes_with_stay_away_and_the_reverse(kind: ErrorKind) -> None:
    if kind.close is not None:
        assert kind.retryable == (instruction(kind.close) is not Instruction.STAY_AWAY)


@pytest.mark.parametrize("kind", ERRORS.values(), ids=ERRORS)
def test_the_vectors_of_coming_back_hold_every_error_with_its_close_and_with_the_close_cut_off(kind: ErrorKind) -> None:
    vectors = json.loads((PROTOCOL / "vectors" / "comeback.json").read_text())
    alone = [each for each in vectors if [error["code"] for error in each["errors"]] == [kind.code]]
    if kind.close is None:
        assert {each["instruction"] for each in alone if each["close"] is None} == {"come_back"}
        return
    asked = INSTRUCTIONS[instruction(kind.close)]
    assert {each["instruction"] for each in alone if each["close"] == kind.close} == {asked}
    cut = [each for each in alone if each["close"] is None and each["errors"][0].get("answers") != "refresh"]
    assert {each["instruction"] for each in cut} == {asked}


@pytest.mark.parametrize("kind", ERRORS.values(), ids=ERRORS)
def test_an_error_says_the_sentence_of_the_table_unless_there_is_a_more_precise_one(kind: ErrorKind) -> None:
    assert kind.frame() == Error(code=kind.code, message=kind.sentence, retryable=kind.retryable)
    precise = kind.frame("More precise.", answers="push", id=3, retry_after=Milliseconds(10), expected=4)
    assert precise == Error(
        code=kind.code,
        message="More precise.",
        retryable=kind.retryable,
        answers="push",
        id=3,
        retry_after=Milliseconds(10),
        expected=4,
    )


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        (1000, Instruction.COME_BACK),
        (1006, Instruction.COME_BACK),
        (3999, Instruction.COME_BACK),
        (4000, Instruction.COME_BACK),
        (4199, Instruction.NEW_TOKEN),
        (4200, Instruction.START_OVER),
        (4399, Instruction.STAY_AWAY),
        (4400, Instruction.COME_BACK),
    ],
)
def test_the_hundreds_digit_of_a_close_code_is_its_instruction(code: int, asked: Instruction) -> None:
    assert instruction(code) is asked
