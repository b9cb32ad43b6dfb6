"""P4, P9: what is no mutation is rejected alone, whatever it is instead; what is no push closes."""

from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from protocol.codec import JSON, Codec
from protocol.frames import Ack, Push, Rejected
from tests.support.device import UNLIMITED, PushingDevice, Raw, encoded, live_device, now, raw
from tests.support.oracle import select_everything
from tests.support.peer import both_codecs, peer
from tests.support.people import add_user
from tests.support.rejections import CONTENT, between_good_ones
from tests.support.rows import CreateConversation
from tests.support.serving import Running

pytestmark = [pytest.mark.shared_database, pytest.mark.settings(**UNLIMITED)]


# ---- Malformed -----------------------------------------------------------------------------------------------------


def malformed(codec: Codec) -> dict[str, Raw]:
    one, other, at = uuid4(), uuid4(), now()
    deep: list[Any] = ["+c"]
    for _ in range(100):
        deep = [deep]
    values: dict[str, Any] = {
        "nil": None,
        "true": True,
        "a number": 7,
        "a text": CONTENT,
        "an empty map": {},
        "a map": {"t": "+c", "id": one, "title": CONTENT, "at": at},
        "a map that numbers its columns": {"0": "+c", "1": one, "2": CONTENT, "3": at},
        "an empty array": [],
        "an array in an array": [["+c", one, CONTENT, at]],
        "deep arrays": deep,
        "a kind that nobody knows": ["+x", one, CONTENT, at],
        "the content as kind": [CONTENT, one, CONTENT, at],
        "the kind of a row": ["c", one, CONTENT, at, at],
        "a kind that is nil": [None, one, CONTENT, at],
        "a kind that is a number": [1, one, CONTENT, at],
        "a kind that is an array": [["+c"], one, CONTENT, at],
        "an empty kind": ["", one, CONTENT, at],
        "a kind in capitals": ["+C", one, CONTENT, at],
        "a kind alone": ["+c"],
        "no title": ["+c", one],
        "no instant": ["+c", one, CONTENT],
        "no instant of a rename": ["~c", one, CONTENT],
        "nothing to delete": ["-c"],
        "a message without an instant": ["+m", one, other, "user", CONTENT],
        "a message without a content": ["+m", one, other, "user"],
        "an edit without an instant": ["~m", one, at, CONTENT],
        "a deletion without an instant": ["-m", one],
        "an id that is nil": ["+c", None, CONTENT, at],
        "an id that is a number": ["+c", 5, CONTENT, at],
        "an id that is an array": ["-c", [one]],
        "an id that is no uuid": ["-c", "x"],
        "a title that is a number": ["+c", one, 5, at],
        "a title that is an array": ["~c", one, [CONTENT], at],
        "a title that is a map": ["+c", one, {CONTENT: CONTENT}, at],
        "a content that is nil": ["+m", one, other, "user", None, at],
        "a content that is a number": ["~m", one, at, 1, at],
        "a role that is nil": ["+m", one, other, None, CONTENT, at],
        "a conversation that is nil": ["+m", one, None, "user", CONTENT, at],
        "an instant that is nil": ["+c", one, CONTENT, None],
        "an instant that is true": ["+c", one, CONTENT, True],
        "an instant that is a text": ["+c", one, CONTENT, "2026-01-01T00:00:00Z"],
        "an instant with a fraction": ["+c", one, CONTENT, at + 0.5],
        "an instant that is an array": ["-m", one, [at]],
        "columns in another order": ["+c", at, CONTENT, one],
    }
    made = {what: raw(value, codec) for what, value in values.items()}
    if codec.text:
        made |= {
            "an id that is too short": raw(["-c", str(one)[:-1]], codec),
            "an id in base64": raw(["-c", one.bytes], codec),
        }
    else:
        made |= {
            "no UTF-8": Raw(b"\x94" + encoded("~c") + encoded(one) + b"\xa2\xff\xfe" + encoded(at)),
            "an id of 15 bytes": raw(["-c", one.bytes[:15]]),
            "an id of 17 bytes": raw(["-c", one.bytes + b"x"]),
            "an id of no bytes": raw(["-c", b""]),
            "a title that is bytes": raw(["+c", one, CONTENT.encode(), at]),
            "an instant that is an extension": raw(["+c", one, CONTENT, msgspec.msgpack.Ext(5, b"x" * 8)]),
            "an extension": raw(msgspec.msgpack.Ext(1, b"x")),
        }
    return made


@both_codecs
async def test_malformed_mutations_of_every_sort_are_rejected_alone(server: Running, sql: Any, codec: Codec) -> None:
    cases = malformed(codec)
    async with live_device(server.url, await add_user(sql), codec=codec) as device:
        rejections = await between_good_ones(device, sql, *cases.values())
    assert {what: one.code for what, one in zip(cases, rejections, strict=True)} == dict.fromkeys(cases, "malformed")


async def test_half_a_surrogate_pair_is_rejected_alone(server: Running, sql: Any) -> None:
    """JavaScript makes them: `"👋".slice(0, 1)`, in JSON. Closing would lock such an outbox for ever."""
    halves = [Raw(b'["+c","%s","%s",%d]' % (str(uuid4()).encode(), half, now())) for half in (b"\\ud83d", b"\\udc4b x")]
    async with live_device(server.url, await add_user(sql), codec=JSON) as device:
        await between_good_ones(device, sql, *halves)


@both_codecs
async def test_integers_beyond_all_bounds_are_rejected_alone(server: Running, sql: Any, codec: Codec) -> None:
    """As malformed, or as an instant out of its bounds: they are both."""
    huge = [1 << 63, (1 << 64) - 1]
    one = uuid4()
    bad = [raw(["+c", one, CONTENT, at], codec) for at in huge]
    if codec.text:
        bad += [
            Raw(b'["+c","%s",null,%s]' % (str(one).encode(), at)) for at in (b"1" * 30, b"-" + b"9" * 400, b"1e300")
        ]
    async with live_device(server.url, await add_user(sql), codec=codec) as device:
        rejections = await between_good_ones(device, sql, *bad)
        assert {rejection.code for rejection in rejections} <= {"malformed", "bad_time"}
        # As the other half of a key they may be malformed, or name what is not there.
        for at in huge:
            (result,) = await device.push(raw(["-m", one, at], codec))
            assert not isinstance(result, Rejected) or result.code in ("malformed", "bad_time")
            rejection = await device.rejection(raw(["~m", one, at, CONTENT, now()], codec))
            assert rejection.code in ("malformed", "bad_time", "unknown_message")


@both_codecs
async def test_a_mutation_that_is_too_deep_harms_nobody(server: Running, sql: Any, codec: Codec) -> None:
    """It is malformed, or the whole frame is."""
    deep = Raw(b"[" * 20_000 + b"]" * 20_000 if codec.text else b"\x91" * 20_000 + b"\xc0")
    async with (
        live_device(server.url, await add_user(sql), codec=codec) as innocent,
        live_device(server.url, await add_user(sql), codec=codec) as device,
    ):
        await device.say_push(deep)
        answer = await device.hear()
        if isinstance(answer, Ack):
            (result,) = answer.results
            assert isinstance(result, Rejected)
            assert result.code == "malformed"
        else:
            assert (await device.closed())[0] == 4300
        await innocent.apply(CreateConversation(uuid4(), CONTENT, now()))


# ---- Frames that are no pushes -------------------------------------------------------------------------------------


NO_PUSHES: dict[str, dict[str, object]] = {
    "n is 0": {"t": "push", "n": 0, "mutations": []},
    "n is negative": {"t": "push", "n": -1, "mutations": []},
    "n is above 2⁵³": {"t": "push", "n": (1 << 53) + 1, "mutations": []},
    "n is a text": {"t": "push", "n": "1", "mutations": []},
    "n is nil": {"t": "push", "n": None, "mutations": []},
    "n is absent": {"t": "push", "mutations": []},
    "mutations are absent": {"t": "push", "n": 1},
    "mutations are nil": {"t": "push", "n": 1, "mutations": None},
    "mutations are a map": {"t": "push", "n": 1, "mutations": {}},
    "mutations are a text": {"t": "push", "n": 1, "mutations": CONTENT},
}


@both_codecs
@pytest.mark.parametrize("what", NO_PUSHES)
async def test_a_frame_that_is_no_push_closes_the_connection(
    server: Running, sql: Any, user: UUID, codec: Codec, what: str
) -> None:
    async with live_device(server.url, user, codec=codec) as device:
        await device.say_raw(encoded(NO_PUSHES[what], codec))
        code, error = await device.closed()
        assert code == 4300
        assert error is not None
        assert (error.code, error.retryable) == ("bad_frame", False)
        assert CONTENT not in error.message
    assert list(await select_everything(sql, user)) == [("p", user)]


async def test_a_push_before_hello_closes_the_connection(server: Running) -> None:
    async with peer(server.url) as stranger:
        await stranger.say(Push(n=1, mutations=[]))
        code, error = await stranger.closed()
        assert error is not None
        assert (code, error.code) == (4300, "hello_first")


async def test_the_highest_number_of_all_is_a_gap(device: PushingDevice) -> None:
    error = await device.refused_push(CreateConversation(uuid4(), None, now()), n=1 << 53)
    assert (error.code, error.expected) == ("gap", 1)
    await device.apply(CreateConversation(uuid4(), None, now()))
