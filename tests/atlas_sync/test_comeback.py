"""What a device does after the end of a connection: the vectors, and what holds for all of them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import protocol
from atlas_sync.comeback import ANNOUNCED_CLOSE, Instruction, next_step, refresh_after
from atlas_sync.session import ErrorAnswer

PROTOCOL = Path(protocol.__file__).parent
VECTORS: list[dict[str, Any]] = json.loads((PROTOCOL / "vectors" / "comeback.json").read_text(encoding="utf-8"))


def errors_of_the_spec() -> dict[str, list[str]]:
    """The codes in the table of SPEC.md 10.1, each with the close codes in its row."""
    table = (PROTOCOL / "SPEC.md").read_text(encoding="utf-8").split("\n10.1 ")[1].split("\n10.2 ")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `") and "`retryable`" not in line]
    return {code: re.findall(r"4\d\d\d", row[3]) for row in rows for code in re.findall(r"`(\w+)`", row[1])}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_client_follows_every_vector(vector: dict[str, Any]) -> None:
    error = None
    if vector["errors"]:
        last = vector["errors"][-1]
        error = refused(last["code"], last.get("retry_after"), last.get("answers"))
    step = next_step(vector["close"], error, vector["attempt"], vector["lasted"] / 1000, vector["random"])
    assert step.instruction == vector["instruction"]
    assert step.delay_seconds * 1000 == vector["delay"]
    assert step.attempt == vector["next_attempt"]


def test_the_vectors_contain_every_error_code_of_the_spec() -> None:
    codes = {error["code"] for vector in VECTORS for error in vector["errors"]}
    assert set(errors_of_the_spec()) <= codes


def test_the_table_of_announced_closes_is_that_of_the_spec() -> None:
    announced = {code: [] if close is None else [str(close)] for code, close in ANNOUNCED_CLOSE.items()}
    assert announced == errors_of_the_spec()


def test_a_step_names_the_close_code_that_decided() -> None:
    assert next_step(None, refused("local_only"), 0, 0.0, 0.5).close_code == 4301
    assert next_step(1006, refused("local_only"), 0, 0.0, 0.5).close_code == 4301
    assert next_step(4302, refused("local_only"), 0, 0.0, 0.5).close_code == 4302
    assert next_step(1006, None, 0, 0.0, 0.5).close_code is None


def refused(code: str = "internal", retry_after_ms: int | None = None, answers: str | None = None) -> ErrorAnswer:
    return ErrorAnswer(code, "m", True, answers, retry_after_ms=retry_after_ms)


@pytest.mark.parametrize("hundreds", range(10, 50))
def test_the_hundreds_digit_of_any_close_code_is_its_instruction(hundreds: int) -> None:
    instructions = {41: Instruction.NEW_TOKEN, 42: Instruction.START_OVER, 43: Instruction.STAY_AWAY}
    for code in range(hundreds * 100, hundreds * 100 + 100):
        step = next_step(code, None, 0, 0.0, 0.5)
        assert step.instruction is instructions.get(hundreds, Instruction.COME_BACK)
        assert step.attempt == 1


def test_an_end_without_a_close_code_means_come_back() -> None:
    assert next_step(None, None, 0, 0.0, 1.0).instruction is Instruction.COME_BACK


CODES = [None, 1006, 1012, 4000, 4003, 4100, 4101, 4200]


@given(
    code=st.none() | st.integers(1000, 4999),
    attempt=st.integers(0, 10_000),
    lasted=st.floats(0, 1e6),
    rnd=st.floats(0, 1),
)
def test_the_delay_grows_with_every_end_in_a_row_up_to_half_a_minute(
    code: int | None, attempt: int, lasted: float, rnd: float
) -> None:
    step = next_step(code, refused(), attempt, lasted, rnd)
    assert 0 <= step.delay_seconds <= 30
    assert step.delay_seconds == rnd * min(30, 0.5 * 2 ** min(step.attempt, 20))
    assert step.attempt == (1 if lasted >= 60 else attempt + 1)


@pytest.mark.parametrize("code", CODES)
def test_a_connection_that_lasted_a_minute_resets_the_attempts(code: int | None) -> None:
    assert [next_step(code, None, 5, lasted, 0.5).attempt for lasted in (0, 59.9, 60, 3600)] == [6, 6, 1, 1]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("error", ["going_away", "internal", "too_many_sockets", "position_lost", "tomorrow"])
def test_the_advised_delay_is_followed_exactly(code: int | None, error: str) -> None:
    for rnd in (0.0, 1.0):
        assert next_step(code, refused(error, 90_500), 7, 0.0, rnd).delay_seconds == 90.5
        assert next_step(code, refused(error, 0), 7, 0.0, rnd).delay_seconds == 0


@pytest.mark.parametrize(
    ("error", "answers", "code"),
    [
        ("unavailable", "hello", 1006),
        ("unavailable", "page", None),
        ("too_many_pages", "page", 1006),
        ("unknown_frame", None, None),
        ("slow_down", "push", 1006),
        ("gap", "push", None),
        ("too_many_pushes", "push", 1006),
        ("unavailable", "push", 1006),
        ("token_refused", "refresh", 1006),
    ],
)
def test_the_delay_of_an_error_that_announces_no_close_is_not_used(
    error: str, answers: str | None, code: int | None
) -> None:
    assert next_step(code, refused(error, 90_500, answers), 2, 0.0, 0.5).delay_seconds == 0.5 * 0.5 * 2**3


def test_a_refresh_with_the_token_of_another_user_announces_a_close() -> None:
    assert next_step(4101, refused("token_refused", 90_500, "refresh"), 2, 0.0, 0.5).delay_seconds == 90.5


@given(st.floats(1e-3, 1e10))
def test_a_token_is_refreshed_late_but_before_its_end(remaining: float) -> None:
    wait = refresh_after(remaining)
    assert 0 <= wait < remaining
    assert wait == max(0.8 * remaining, remaining - 60)
    assert refresh_after(-remaining) == 0
