"""What the app's backend sends is accepted as it is, or refused with a sentence that names the event and the field."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.usage import events
from server.usage.events import DATA_BYTES, MOST_EVENTS, MOST_TOKENS, EventError, Limits

NOW: Final = datetime(2026, 7, 14, 9, 30, tzinfo=UTC)
LIMITS: Final = Limits.at(NOW, 90)
USER: Final = "6a7de0ac-7d3f-4dd2-8a2e-2f4d4e6a3f10"
GOOD: Final[dict[str, Any]] = {"user_id": USER, "event": "message_sent"}

json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def refusal(event: Any, first: int = 0) -> str:
    with pytest.raises(EventError) as caught:
        events.check([GOOD, event], LIMITS, first)
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    return said


@given(
    st.dictionaries(st.text(max_size=20).filter(lambda name: name not in events.COUNTED), json, max_size=4),
    st.text(min_size=1, max_size=100),
    st.datetimes(NOW.replace(tzinfo=None) - timedelta(days=89), NOW.replace(tzinfo=None), timezones=st.just(UTC)),
)
def test_any_json_without_the_character_0_is_kept_as_it_is(data: dict[str, Any], name: str, at: datetime) -> None:
    event = {"user_id": USER, "event": name, "data": data, "timestamp": at.isoformat()}
    if "\\u0000" in repr(orjson.dumps(event)).replace("\\\\\\\\", "") and "\0" in _texts(event):
        with pytest.raises(EventError, match=r"events\[0\] contains the character U\+0000"):
            events.check([event], LIMITS)
        return
    (kept,) = orjson.loads(b"[" + events.check([event], LIMITS) + b"]")
    assert kept["event"] == name
    assert kept.get("data", {}) == data
    assert datetime.fromisoformat(kept["timestamp"]) == at


def _texts(value: Any) -> str:
    """All texts of a value, joined."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "".join(_texts(part) for pair in value.items() for part in pair)
    return "".join(map(_texts, value)) if isinstance(value, list) else ""


@pytest.mark.parametrize("text", ["\0", "a\0b", "\\\0", "\\\\\0"])
def test_the_character_0_is_refused_wherever_it_is(text: str) -> None:
    for event in ({**GOOD, "event": text}, {**GOOD, "data": {"a": [text]}}, {**GOOD, "data": {text: 1}}):
        assert refusal(event, 7).startswith("events[8] contains the character U+0000")


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "\\"])
def test_text_that_only_looks_like_the_character_0_is_accepted(text: str) -> None:
    assert events.check([{**GOOD, "data": {"a": text}}], LIMITS)


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"event": "x"}, "events[4]: object missing required field `user_id`."),
        ({"user_id": USER}, "events[4]: object missing required field `event`."),
        ({**GOOD, "user_id": "x"}, "events[4].user_id: invalid UUID."),
        ({**GOOD, "user_id": 1}, "events[4].user_id: expected `uuid`, got `int`."),
        ({**GOOD, "event": ""}, "events[4].event: expected `str` of length >= 1."),
        ({**GOOD, "event": "x" * 101}, "events[4].event: expected `str` of length <= 100."),
        ({**GOOD, "data": []}, "events[4].data: expected `object`, got `array`."),
        ({**GOOD, "tokens": 1}, "events[4]: object contains unknown field `tokens`."),
        ({**GOOD, "timestamp": "yesterday"}, "events[4].timestamp: invalid RFC3339 encoded datetime."),
        (
            {**GOOD, "timestamp": "2026-07-14T09:30:00"},
            "events[4].timestamp: expected `datetime` with a timezone component.",
        ),
        (
            {**GOOD, "data": {"input_tokens": "many"}},
            "events[4].data.input_tokens: expected `int | null`, got `str`.",
        ),
        ({**GOOD, "data": {"output_tokens": -1}}, "events[4].data.output_tokens: expected `int` >= 0."),
        (
            {**GOOD, "data": {"output_tokens": MOST_TOKENS + 1}},
            f"events[4].data.output_tokens: expected `int` <= {MOST_TOKENS}.",
        ),
        ({**GOOD, "data": {"conversation_id": "x"}}, "events[4].data.conversation_id: invalid UUID."),
        ({**GOOD, "data": {"model": ""}}, "events[4].data.model: expected `str` of length >= 1."),
        ({**GOOD, "data": {"a": "x" * DATA_BYTES}}, "events[4].data has more than 8 KiB."),
    ],
)
def test_a_wrong_event_is_refused_by_its_number_and_its_field(event: Any, says: str) -> None:
    assert refusal(event, 3) == says


def test_times_beyond_the_limits_are_refused() -> None:
    late = refusal({**GOOD, "timestamp": (NOW - timedelta(days=90, seconds=1)).isoformat()})
    assert late == "events[1].timestamp is older than events are kept here, since 2026-04-15 (ATLAS_USAGE_DAYS)."
    early = refusal({**GOOD, "timestamp": (NOW + timedelta(minutes=5, seconds=1)).isoformat()})
    assert early == "events[1].timestamp is in the future; this server's time is 2026-07-14T09:30:00+00:00."
    for at in (NOW - timedelta(days=90), NOW + timedelta(minutes=5)):
        assert events.check([{**GOOD, "timestamp": at.isoformat()}], LIMITS)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ([], "the body: expected `object`, got `array`."),
        ({"idempotency_key": "k"}, "the body: object missing required field `events`."),
        ({"events": [GOOD]}, "the body: object missing required field `idempotency_key`."),
        ({"events": [], "idempotency_key": "k"}, "events: expected `array` of length >= 1."),
        (
            {"events": [GOOD] * (MOST_EVENTS + 1), "idempotency_key": "k"},
            f"events: expected `array` of length <= {MOST_EVENTS}.",
        ),
        ({"events": [GOOD, 1], "idempotency_key": "k"}, "events[1]: expected `object`, got `int`."),
        ({"events": [GOOD], "idempotency_key": ""}, "idempotency_key: expected `str` of length >= 1."),
        ({"events": [GOOD], "idempotency_key": "k" * 201}, "idempotency_key: expected `str` of length <= 200."),
        ({"events": [GOOD], "idempotency_key": "k", "x": 1}, "the body: object contains unknown field `x`."),
    ],
)
def test_a_wrong_request_is_refused_with_a_sentence(body: Any, says: str) -> None:
    with pytest.raises(EventError) as caught:
        events.request(body)
    assert str(caught.value) == says


def test_a_group_is_told_by_its_key_and_its_events() -> None:
    one, other = (events.check([{**GOOD, "event": name}], LIMITS) for name in ("one", "other"))
    first = events.group([one], 1, "key")
    assert first == events.group([one], 1, "key")
    assert first.key == events.group([other], 1, "key").key != events.group([one], 1, "another key").key
    assert first.digest != events.group([other], 1, "key").digest


@given(st.lists(st.integers(0, 1000), max_size=1_000))
def test_slices_are_the_whole(numbers: list[int]) -> None:
    given_events = [{"n": number} for number in numbers]
    slices = list(events.slices(given_events))
    assert [event for _, some in slices for event in some] == given_events
    assert all(given_events[first] == some[0] and len(some) <= events.SLICE for first, some in slices)


def test_an_own_event_is_one_that_a_backend_could_send() -> None:
    event = events.sync_completed(
        USER, tier="core", outcome="resumed", milliseconds=12.345, rows={"message": 2}, size=321,
        at=int(NOW.timestamp() * 1_000_000) + 5,
    )  # fmt: skip
    assert event.user_id == UUID(USER)
    assert event.timestamp == NOW + timedelta(microseconds=5)
    (sent,) = orjson.loads(events.own([event]).document)
    assert sent["data"] == {
        "tier": "core", "outcome": "resumed", "milliseconds": 12.3, "rows": {"message": 2}, "bytes": 321,
    }  # fmt: skip
    assert msgspec.convert(sent, events.Event) == event
    assert events.check([sent], LIMITS)
