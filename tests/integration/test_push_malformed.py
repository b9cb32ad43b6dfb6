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
    """What is no mutation, whatever the columns of the schema."""
    one, other, at = uuid4(), uuid4(), now()
    title = {"title": CONTENT}
    said = {"conversation_id": other, "role": "user", "content": CONTENT}
    deep: list[Any] = ["+"]
    for _ in range(100):
        deep = [deep]
    values: dict[str, Any] = {
        "nil": None,
        "true": True,
        "a number": 7,
        "a text": CONTENT,
        "an empty map": {},
        "a map": {"op": "+", "kind": "c", "id": one, "columns": title, "at": at},
        "a map that numbers its columns": {"0": "+", "1": "c", "2": one, "3": title, "4": at},
        "an empty array": [],
        "an array in an array": [["+", "c", one, title, at]],
        "deep arrays": deep,
        "an operation that nobody knows": ["*", "c", one, title, at],
        "the content as operation": [CONTENT, "c", one, title, at],
        "an operation and a kind in one": ["+c", one, title, at],
        "an operation that is nil": [None, "c", one, title, at],
        "an operation that is a number": [1, "c", one, title, at],
        "an operation that is an array": [["+"], "c", one, title, at],
        "no operation": ["", "c", one, title, at],
        "a row": ["c", at, one, CONTENT, at, at],
        "a kind that is nil": ["+", None, one, title, at],
        "a kind that is a number": ["+", 1, one, title, at],
        "a kind that is an array": ["+", ["c"], one, title, at],
        "an operation alone": ["+"],
        "a kind alone": ["+", "c"],
        "no columns": ["+", "c", one],
        "no instant": ["+", "c", one, title],
        "no instant of a rename": ["~", "c", one, title],
        "nothing to delete": ["-", "c"],
        "an edit without an instant of the row": ["~", "m", one, {"content": CONTENT}, at],
        "a deletion without an instant of the row": ["-", "m", one],
        "a creation with an instant of the row": ["+", "m", [one, at], said, at],
        "a rename with an instant of the row": ["~", "c", [one, at], title, at],
        "an id of no part": ["-", "c", []],
        "an id of two parts": ["-", "c", [one, one]],
        "an id of three parts": ["-", "m", [one, at, at]],
        "an id of very many parts": ["-", "m", [at] * 5_000],
        "an id in an array in an array": ["-", "c", [[one]]],
        "an id that is a map": ["-", "c", {"id": one}],
        "an id with an array in it": ["-", "m", [one, [at]]],
        "an id with a map in it": ["-", "m", [one, {}]],
        "columns that are nil": ["+", "c", one, None, at],
        "columns that are a text": ["+", "c", one, CONTENT, at],
        "columns that are an array": ["+", "c", one, [CONTENT], at],
        "columns that are pairs": ["+", "c", one, [["title", CONTENT]], at],
        "a title that is an array": ["~", "c", one, {"title": [CONTENT]}, at],
        "a title that is a map": ["+", "c", one, {"title": {CONTENT: CONTENT}}, at],
        "a title that is an empty map": ["+", "c", one, {"title": {}}, at],
        "a title that is deep": ["+", "c", one, {"title": deep}, at],
        "a message of no conversation": ["+", "m", one, {"role": "user", "content": CONTENT}, at],
        "a conversation that is an array": ["+", "m", one, {**said, "conversation_id": [other]}, at],
        "an instant that is nil": ["+", "c", one, title, None],
        "an instant that is true": ["+", "c", one, title, True],
        "an instant that is a text": ["+", "c", one, title, "2026-01-01T00:00:00Z"],
        "an instant with a fraction": ["+", "c", one, title, at + 0.5],
        "an instant that is an array": ["+", "c", one, title, [at]],
        "an instant that is a map": ["+", "c", one, title, {}],
        "columns in another order": ["+", "c", at, one, title],
    }
    made = {what: raw(value, codec) for what, value in values.items()}
    # Numbers as names: not what a map of MessagePack may have here.
    numbered = b"\x81\x07" + encoded(CONTENT)
    if not codec.text:
        made |= {
            "names that are numbers": Raw(
                b"\x95" + encoded("+") + encoded("c") + encoded(one) + numbered + encoded(at)
            ),
            "an instant that is an extension": raw(["+", "c", one, title, msgspec.msgpack.Ext(5, b"x" * 8)]),
            "a title that is an extension": raw(["+", "c", one, {"title": msgspec.msgpack.Ext(5, b"x" * 8)}, at]),
            "a title that is a timestamp": raw(["+", "c", one, {"title": msgspec.msgpack.Ext(-1, b"x" * 4)}, at]),
            "an extension": raw(msgspec.msgpack.Ext(1, b"x")),
        }
    return made


def unfit(codec: Codec) -> dict[str, tuple[str, Raw]]:
    """Mutations that the schema does not permit: the code, perhaps with the column, and the mutation."""
    one, other, at = uuid4(), uuid4(), now()
    title = {"title": CONTENT}
    said = {"conversation_id": other, "role": "user", "content": CONTENT}
    many = {f"column_{n}": 7 for n in range(10_000)}
    values: dict[str, tuple[str, Any]] = {
        "a kind that nobody knows": ("not_allowed", ["+", "x", one, title, at]),
        "a kind by its name": ("not_allowed", ["+", "conversation", one, title, at]),
        "the content as kind": ("not_allowed", ["~", CONTENT, one, title, at]),
        "no kind": ("not_allowed", ["-", "", one]),
        "a kind in capitals": ("not_allowed", ["+", "C", one, title, at]),
        "the kind of a deletion": ("not_allowed", ["-", "-c", one]),
        "a new profile": ("not_allowed", ["+", "p", one, {"tier": "studio"}, at]),
        "another tier": ("not_allowed", ["~", "p", one, {"tier": "studio"}, at]),
        "no profile": ("not_allowed", ["-", "p", one]),
        "a column that nobody knows": ("not_allowed", ["+", "c", one, {**title, "colour": "red"}, at]),
        "a column of the table that is not synced": ("not_allowed", ["+", "c", one, {"user_id": other}, at]),
        "the content as a column": ("not_allowed", ["~", "c", one, {CONTENT: CONTENT}, at]),
        "no column": ("not_allowed", ["~", "c", one, {"": CONTENT}, at]),
        "ten thousand columns": ("not_allowed", ["~", "c", one, many, at]),
        "the key as a column": ("not_allowed", ["+", "c", one, {"id": other}, at]),
        "the instant of a conversation": ("not_allowed:created_at", ["+", "c", one, {"created_at": at}, at]),
        "the instant of a rename": ("not_allowed:updated_at", ["~", "c", one, {"updated_at": at}, at]),
        "another role": ("not_allowed:role", ["~", "m", [one, at], {"role": "user"}, at]),
        "another conversation": (
            "not_allowed:conversation_id",
            ["~", "m", [one, at], {"conversation_id": other, "content": CONTENT}, at],
        ),
        "an id that is nil": ("bad_value", ["+", "c", None, title, at]),
        "an id that is a number": ("bad_value", ["+", "c", 5, title, at]),
        "an id that is true": ("bad_value", ["-", "c", True]),
        "an id that is no uuid": ("bad_value", ["-", "c", "x"]),
        "an instant of the row that is nil": ("bad_value", ["-", "m", [one, None]]),
        "an instant of the row that is a text": ("bad_value", ["-", "m", [one, str(at)]]),
        "an instant of the row that is true": ("bad_value", ["-", "m", [one, True]]),
        "an instant of the row with a fraction": ("bad_value", ["-", "m", [one, at + 0.5]]),
        "both halves the wrong way round": ("bad_value", ["-", "m", [at, one]]),
        "a title that is a number": ("bad_value:title", ["+", "c", one, {"title": 5}, at]),
        "a title that is true": ("bad_value:title", ["~", "c", one, {"title": True}, at]),
        "a title that is a float": ("bad_value:title", ["~", "c", one, {"title": 0.5}, at]),
        "a content that is nil": ("bad_value:content", ["+", "m", one, {**said, "content": None}, at]),
        "a content that is a number": ("bad_value:content", ["~", "m", [one, at], {"content": 1}, at]),
        "a conversation that is nil": (
            "bad_value:conversation_id",
            ["+", "m", one, {**said, "conversation_id": None}, at],
        ),
        "a role that is nil": ("bad_value:role", ["+", "m", one, {**said, "role": None}, at]),
        "a conversation that is a number": (
            "bad_value:conversation_id",
            ["+", "m", one, {**said, "conversation_id": 7}, at],
        ),
        "a conversation that is no uuid": (
            "bad_value:conversation_id",
            ["+", "m", one, {**said, "conversation_id": "x"}, at],
        ),
    }
    made = {what: (code, raw(value, codec)) for what, (code, value) in values.items()}
    if codec.text:
        made |= {
            "an id that is too short": ("bad_value", raw(["-", "c", str(one)[:-1]], codec)),
            "an id in base64": ("bad_value", raw(["-", "c", one.bytes], codec)),
        }
    else:
        text = b"\x95" + encoded("~") + encoded("c") + encoded(one) + b"\x81" + encoded("title") + b"HERE" + encoded(at)
        made |= {
            "an id of 15 bytes": ("bad_value", raw(["-", "c", one.bytes[:15]])),
            "an id of 17 bytes": ("bad_value", raw(["-", "c", one.bytes + b"x"])),
            "an id of no bytes": ("bad_value", raw(["-", "c", b""])),
            "a title that is bytes": ("bad_value:title", raw(["+", "c", one, {"title": CONTENT.encode()}, at])),
            "half a surrogate pair": ("bad_text:title", Raw(text.replace(b"HERE", b"\xa3\xed\xa0\xbd"))),
            "no UTF-8": ("malformed", Raw(text.replace(b"HERE", b"\xa2\xff\xfe"))),
        }
    return made


@both_codecs
async def test_malformed_mutations_of_every_sort_are_rejected_alone(server: Running, sql: Any, codec: Codec) -> None:
    cases = malformed(codec)
    async with live_device(server.url, await add_user(sql), codec=codec) as device:
        rejections = await between_good_ones(device, sql, *cases.values())
    assert {what: one.code for what, one in zip(cases, rejections, strict=True)} == dict.fromkeys(cases, "malformed")


@both_codecs
async def test_what_the_schema_does_not_permit_is_rejected_alone(server: Running, sql: Any, codec: Codec) -> None:
    cases = unfit(codec)
    ten_thousand = cases.pop("ten thousand columns")
    async with live_device(server.url, await add_user(sql), codec=codec) as device:
        rejections = await between_good_ones(device, sql, *(mutation for _, mutation in cases.values()))
        rejections += await between_good_ones(device, sql, ten_thousand[1])
    cases["ten thousand columns"] = ten_thousand
    got = {what: f"{one.code}:{one.column or ''}".rstrip(":") for what, one in zip(cases, rejections, strict=True)}
    assert got == {what: code for what, (code, _) in cases.items()}


async def test_half_a_surrogate_pair_is_rejected_alone(server: Running, sql: Any) -> None:
    """JavaScript makes them: `"👋".slice(0, 1)`, in JSON. Closing would lock such an outbox for ever."""
    create = b'["+","c","%s",{"title":"%s"},%d]'
    halves = [Raw(create % (str(uuid4()).encode(), half, now())) for half in (b"\\ud83d", b"\\udc4b x")]
    async with live_device(server.url, await add_user(sql), codec=JSON) as device:
        rejections = await between_good_ones(device, sql, *halves)
    assert [(one.code, one.column) for one in rejections] == [("bad_text", "title")] * 2


@both_codecs
async def test_integers_beyond_all_bounds_are_rejected_alone(server: Running, sql: Any, codec: Codec) -> None:
    """As malformed, or as an instant out of its bounds: they are both."""
    huge = [1 << 63, (1 << 64) - 1]
    one = uuid4()
    bad = [raw(["+", "c", one, {"title": CONTENT}, at], codec) for at in huge]
    if codec.text:
        bad += [
            Raw(b'["+","c","%s",{},%s]' % (str(one).encode(), at)) for at in (b"1" * 30, b"-" + b"9" * 400, b"1e300")
        ]
    async with live_device(server.url, await add_user(sql), codec=codec) as device:
        rejections = await between_good_ones(device, sql, *bad)
        assert {rejection.code for rejection in rejections} <= {"malformed", "bad_time"}
        # As the other half of a key they are no instant that a row can have.
        keys = [raw(["-", "m", [one, at]], codec) for at in huge]
        keys += [raw(["~", "m", [one, at], {"content": CONTENT}, now()], codec) for at in huge]
        if codec.text:
            keys += [
                Raw(b'["-","m",["%s",%s]]' % (str(one).encode(), at)) for at in (b"1" * 30, b"9" * 4_000, b"1e300")
            ]
        for rejection in await between_good_ones(device, sql, *keys):
            assert rejection.code in ("malformed", "bad_value")


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
