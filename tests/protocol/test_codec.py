"""The server's codec says every frame in both encodings, tolerates what is newer, and refuses the rest unquoted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from msgspec import Raw, structs

from protocol import codec as module
from protocol.codec import CODECS, JSON, MSGPACK, Codec, FrameError, UnknownFrameError
from protocol.frames import (
    NOTHING,
    Ack,
    Applied,
    AskPage,
    Changes,
    Delete,
    Error,
    Hello,
    Limits,
    Live,
    Mutation,
    Page,
    Ping,
    Pong,
    Push,
    Refresh,
    Refreshed,
    Rejected,
    Repeated,
    SchemaFrame,
    Snapshot,
    Stop,
    Stopped,
    Streams,
    StreamText,
    ToClient,
    ToServer,
    Welcome,
)
from protocol.schema import Column, Devices, Kind, Type

VECTORS = Path(module.__file__).parent / "vectors" / "frames.json"
GOLDEN: list[dict[str, Any]] = json.loads(VECTORS.read_text(encoding="utf-8")) if VECTORS.exists() else []
CANARY = "nobody-may-read-this"

both = pytest.mark.parametrize("codec", list(CODECS.values()), ids=lambda codec: "json" if codec.text else "msgpack")

# ---- What there is to say ------------------------------------------------------------------------------------------

texts = st.text()
instants = st.integers(-(2**53), 2**53)
seqs = st.integers(0, 2**53 - 1)
cursors = st.binary(max_size=128)

scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(-1e9, 1e9), texts)
ids = st.one_of(texts, instants, st.tuples(texts, instants).map(list))
"""As they come out of a decoder that knows no types."""
tags = st.sampled_from("abcXYZ019")
rows = st.one_of(
    st.builds(lambda tag, seq, id_, values: (tag, seq, id_, *values), tags, seqs, ids, st.lists(scalars, max_size=5)),
    st.builds(lambda tag, seq, id_: (f"-{tag}", seq, id_), tags, seqs, ids),
)
results = st.one_of(
    st.builds(Applied, st.integers(1, 2**53), seqs),
    st.builds(Repeated, st.integers(1, 2**53), seqs),
    st.builds(Rejected, st.integers(1, 2**53), texts, texts, st.none() | texts),
)
windows = st.dictionaries(st.text(max_size=64), st.integers(0, 500), max_size=5)
columns = st.builds(Column, texts, st.sampled_from([*Type, *(f"{type_}?" for type_ in Type)]))
kinds = st.builds(
    Kind,
    name=texts,
    tag=tags,
    key=st.lists(st.sampled_from(Type), min_size=1, max_size=2).map(tuple),
    columns=st.lists(columns, max_size=3).map(tuple),
    parent=st.none() | texts,
    newest=st.none() | texts,
    window=st.none() | st.integers(0, 500),
    dated=st.none() | texts,
    devices=st.none()
    | st.builds(
        Devices,
        insert=st.none() | st.lists(texts, max_size=2).map(tuple),
        update=st.lists(texts, max_size=2).map(tuple),
        delete=st.booleans(),
        created=st.none() | texts,
        updated=st.none() | texts,
        touches=st.none() | texts,
    ),
    limits=st.dictionaries(texts, st.integers(1, 200_000) | st.lists(texts).map(tuple), max_size=2),
)
to_server: st.SearchStrategy[ToServer] = st.one_of(
    st.builds(
        Hello,
        token=texts,
        client_id=st.uuids(),
        cursor=st.none() | cursors,
        window=st.none() | windows,
        extras=st.none() | st.lists(st.text(max_size=64), max_size=16),
        generation=st.none() | st.integers(1, 2**53),
        schema=st.none() | st.text(max_size=64),
    ),
    st.builds(AskPage, id=st.integers(0, 2**53), kind=st.text(max_size=64), limit=st.none() | st.integers(1, 1000)),
    st.builds(Refresh, token=texts),
    st.just(Ping()),
)
to_client: st.SearchStrategy[ToClient] = st.one_of(
    st.builds(
        Welcome,
        session=texts,
        epoch=texts,
        schema=texts,
        tier=st.none() | texts,
        mode=st.sampled_from(["resumed", "snapshot"]),
        why=st.none() | texts,
        time=instants,
        expires=instants,
        keepalive=seqs,
        limits=st.builds(Limits, **dict.fromkeys(Limits.__struct_fields__, seqs)),
    ),
    st.builds(SchemaFrame, hash=texts, kinds=st.lists(kinds, max_size=2).map(tuple)),
    st.builds(Snapshot, as_of=seqs, rows=st.lists(rows), cursor=st.none() | cursors),
    st.builds(Changes, from_=cursors, to=cursors, rows=st.lists(rows), partial=st.booleans(), seq=st.none() | seqs),
    st.builds(Live, cursor=cursors, seq=seqs),
    st.builds(Page, id=seqs, as_of=seqs, rows=st.lists(rows), more=st.booleans()),
    st.builds(Ack, results=st.lists(results)),
    st.builds(Refreshed, expires=instants),
    st.builds(Streams, open=st.lists(st.uuids(), max_size=3)),
    st.builds(
        StreamText,
        stream=st.uuids(),
        kind=tags,
        id=ids,
        column=texts,
        since=seqs,
        offset=seqs,
        text=texts,
        state=texts,
    ),
    st.builds(Stopped, n=seqs, found=st.booleans()),
    st.builds(
        Error,
        code=texts,
        message=texts,
        retryable=st.booleans(),
        answers=st.none() | texts,
        id=st.none() | seqs,
        retry_after=st.none() | seqs,
        expected=st.none() | seqs,
    ),
    st.just(Pong()),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)


def plain(frame: ToServer | ToClient, codec: Codec) -> dict[str, Any]:
    """A frame as the maps and lists that an encoding carries."""
    data = codec.encode(frame)
    return dict(json.loads(data) if codec.text else msgpack.unpackb(data))


def packed(value: object, codec: Codec) -> bytes:
    if codec.text:
        return json.dumps(value).encode()
    return bytes(msgpack.packb(value))


def refusal(decode: Callable[[bytes], object], data: bytes) -> str:
    """The words in which `data` is refused; nothing if it is not."""
    try:
        decode(data)
    except FrameError as error:
        return f"{error!r} {error}"
    return ""


# ---- Round trips ---------------------------------------------------------------------------------------------------


@both
@given(frame=to_server)
def test_every_frame_of_a_client_comes_back_as_it_was(codec: Codec, frame: ToServer) -> None:
    assert codec.decode_to_server(codec.encode(frame)) == frame


@both
@given(frame=to_client)
def test_every_frame_of_the_server_comes_back_as_it_was(codec: Codec, frame: ToClient) -> None:
    assert codec.decode_to_client(codec.encode(frame)) == frame


@given(frame=to_server | to_client)
def test_json_is_text_and_messagepack_the_same_map(frame: ToServer | ToClient) -> None:
    text = json.loads(JSON.encode(frame).decode())
    binary = msgpack.unpackb(MSGPACK.encode(frame))
    assert text.keys() == binary.keys()
    assert text["t"] == binary["t"]


def raw(value: object, codec: Codec) -> Raw:
    return Raw(packed(value, codec))


def said(mutation: Mutation | None, codec: Codec) -> list[Any]:
    """A mutation as the array that was sent."""
    assert mutation is not None
    id_ = [codec.value(half) for half in codec.values(mutation.id)]
    written: list[Any] = [str(mutation.__struct_config__.tag), mutation.kind, id_ if len(id_) > 1 else id_[0]]
    if isinstance(mutation, Delete):
        return written
    return [*written, {name: codec.value(value) for name, value in mutation.columns.items()}, mutation.at]


keys = texts | instants | st.lists(texts | instants, min_size=2, max_size=2)
mutations = st.one_of(
    st.builds(
        lambda *fields: list(fields),
        st.sampled_from("+~"),
        texts,
        keys,
        st.dictionaries(texts, scalars, max_size=4),
        instants,
    ),
    st.builds(lambda *fields: list(fields), st.just("-"), texts, keys),
)


@both
@given(n=st.integers(1, 2**53), written=st.lists(mutations, max_size=5))
def test_a_push_comes_back_with_each_mutation_as_it_was(codec: Codec, n: int, written: list[Any]) -> None:
    push = codec.decode_to_server(codec.encode(Push(n=n, mutations=[raw(m, codec) for m in written])))
    assert isinstance(push, Push)
    assert push.n == n
    found = [codec.mutation(each) for each in push.mutations]
    assert [said(each, codec) for each in found] == written
    again = [codec.mutation(codec.encode_mutation(each)) for each in found if each is not None]
    assert [said(each, codec) for each in again] == written


@both
@given(
    parent=st.none() | keys.filter(lambda key: not isinstance(key, list)),
    before=st.none() | st.tuples(scalars, keys).map(list),
)
def test_a_page_comes_back_with_its_place_as_it_was(codec: Codec, parent: Any, before: Any) -> None:
    ask = AskPage(id=1, kind="note", parent=raw(parent, codec), before=raw(before, codec))
    back = codec.decode_to_server(codec.encode(ask))
    assert isinstance(back, AskPage)
    assert codec.value(back.parent) == parent
    if before is None:
        assert [codec.value(each) for each in codec.values(back.before)] == [None]
        return
    at, id_ = codec.values(back.before)
    found = [codec.value(half) for half in codec.values(id_)]
    assert [codec.value(at), found if len(found) > 1 else found[0]] == before


def test_a_page_that_names_nothing_says_nothing() -> None:
    for codec in CODECS.values():
        ask = AskPage(id=1, kind="note")
        back = codec.decode_to_server(codec.encode(ask))
        assert isinstance(back, AskPage)
        assert (back.parent, back.before) == (NOTHING, NOTHING)


# ---- Values --------------------------------------------------------------------------------------------------------


@both
@given(value=scalars)
def test_a_value_is_what_was_sent(codec: Codec, value: Any) -> None:
    assert codec.value(raw(value, codec)) == value
    assert [codec.value(each) for each in codec.values(raw(value, codec))] == [value]


@both
@given(value=st.lists(anything, max_size=3) | st.dictionaries(texts, anything, max_size=3))
def test_a_map_or_an_array_is_no_value(codec: Codec, value: Any) -> None:
    with pytest.raises(FrameError):
        codec.value(raw(value, codec))


@both
@given(data=st.binary(max_size=50))
@example(data=b"")
@example(data=b"\xa3\xed\xa0\x80")
@example(data=b"\xa5\xed\xa0\x80\xff\xfe")
@example(data=b"\xc7\x01\x05\x00")
@example(data=b"\xdd\xff\xff\xff\xff")
@example(data=b" [1]")
@example(data=b"1e999")
@example(data=b'"\\ud800"')
@example(data=b"[" * 5_000)
@example(data=b"\x91" * 5_000)
def test_whatever_stands_in_the_place_of_a_value_raises_nothing_but_a_frame_error(codec: Codec, data: bytes) -> None:
    for read in (codec.value, codec.values):
        try:
            read(Raw(data))
        except FrameError:
            continue


def test_half_a_surrogate_pair_in_a_value_is_read_as_what_no_text_may_contain() -> None:
    assert MSGPACK.value(Raw(b"\xa5a\xed\xa0\xbdb")) == "a\0\0\0b"
    push = JSON.decode_to_server(b'{"t":"push","n":1,"mutations":[["-","c","a\\ud83db"]]}')
    assert isinstance(push, Push)
    ((delete),) = [JSON.mutation(each) for each in push.mutations]
    assert delete is not None
    assert JSON.value(delete.id) == "a\0b"


@both
@given(values=st.lists(anything, max_size=5))
def test_what_is_no_mutation_is_found_by_itself_and_spoils_no_frame(codec: Codec, values: list[Any]) -> None:
    push = codec.decode_to_server(packed({"t": "push", "n": 1, "mutations": values}, codec))
    assert isinstance(push, Push)
    assert [codec.mutation(raw) for raw in push.mutations] == [None] * len(values)


# ---- What is newer, or absent --------------------------------------------------------------------------------------


@both
@given(frame=to_server, more=st.dictionaries(texts.map("x-".__add__), anything, max_size=3), shuffled=st.randoms())
def test_fields_that_the_server_does_not_know_are_ignored_wherever_they_stand(
    codec: Codec, frame: ToServer, more: dict[str, Any], shuffled: Any
) -> None:
    fields = list({**plain(frame, codec), **more}.items())
    shuffled.shuffle(fields)
    assert codec.decode_to_server(packed(dict(fields), codec)) == frame


@both
@given(frame=to_client, more=st.dictionaries(texts.map("x-".__add__), anything, max_size=3))
def test_fields_that_a_reader_does_not_know_are_ignored(codec: Codec, frame: ToClient, more: dict[str, Any]) -> None:
    assert codec.decode_to_client(packed({**plain(frame, codec), **more}, codec)) == frame


@both
@pytest.mark.parametrize("form", ["absent", "nil"])
@pytest.mark.parametrize(
    ("frame", "optional"),
    [
        (Hello(token="t", client_id=UUID(int=7)), "cursor"),
        (Hello(token="t", client_id=UUID(int=7)), "window"),
        (Hello(token="t", client_id=UUID(int=7)), "extras"),
        (Hello(token="t", client_id=UUID(int=7)), "generation"),
        (Hello(token="t", client_id=UUID(int=7)), "schema"),
        (AskPage(id=1, kind="note"), "limit"),
    ],
)
def test_an_optional_field_may_be_absent_or_nil(codec: Codec, frame: ToServer, optional: str, form: str) -> None:
    fields = plain(frame, codec)
    fields.pop(optional, None)
    if form == "nil":
        fields[optional] = None
    assert codec.decode_to_server(packed(fields, codec)) == frame


@both
@pytest.mark.parametrize(
    "window", [{"note": 501}, {"note": -1}, {"note": None}, {"x" * 65: 5}, {f"k{i}": 5 for i in range(65)}, [5]]
)
def test_a_window_names_at_most_64_kinds_and_500_rows_of_each(codec: Codec, window: Any) -> None:
    fields = plain(Hello(token="t", client_id=UUID(int=7)), codec)
    assert refusal(codec.decode_to_server, packed({**fields, "window": window}, codec))
    assert not refusal(codec.decode_to_server, packed({**fields, "window": {"note": 500, "x" * 64: 0}}, codec))


@both
@given(kind=texts, more=st.dictionaries(texts, anything, max_size=3))
@example(kind="", more={})
@example(kind="Hello", more={})
@example(kind="welcome", more={})
def test_a_map_of_another_kind_is_an_unknown_frame(codec: Codec, kind: str, more: dict[str, Any]) -> None:
    assume(kind not in {"hello", "page", "push", "refresh", "ping"})
    with pytest.raises(UnknownFrameError):
        codec.decode_to_server(packed({**more, "t": kind}, codec))


# ---- What is refused -----------------------------------------------------------------------------------------------


@both
@given(data=st.binary())
@example(data=b"\xdd\xff\xff\xff\xff")  # an array that claims four thousand million elements
@example(data=b"\xdf\xff\xff\xff\xff")
@example(data=b"\xc6\xff\xff\xff\xff")
@example(data=b"\x91" * 100_000)
@example(data=b"[" * 100_000)
@example(data=b'{"t":' * 50_000)
@example(data=b'{"t":"ping","x":' + b"[" * 100_000)
@example(data=b"\x82\xa1t\xa4ping\xa1x" + b"\x91" * 100_000)
@example(data=b'{"t":"\xff\xfe"}')
@example(data=b'{"t":"\\ud800"}')
@example(data=b"\x81\xa1t\xa2\xff\xfe")
def test_whatever_the_bytes_are_nothing_but_a_frame_error_is_raised(codec: Codec, data: bytes) -> None:
    try:
        frame = codec.decode_to_server(data)
    except FrameError:
        return
    assert codec.decode_to_server(codec.encode(frame)) == frame


@both
@given(frame=to_server, at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_one_byte_of_a_frame_that_is_wrong_raises_nothing_but_a_frame_error(
    codec: Codec, frame: ToServer, at: int, byte: int
) -> None:
    data = bytearray(codec.encode(frame))
    data[at % len(data)] = byte
    refusal(codec.decode_to_server, bytes(data))


@both
@given(frame=to_server, at=st.integers(0, 10_000))
def test_a_frame_without_its_end_is_refused(codec: Codec, frame: ToServer, at: int) -> None:
    data = codec.encode(frame)
    assert refusal(codec.decode_to_server, data[: at % len(data)])


@both
@given(frame=to_server, data=st.data())
def test_the_words_of_a_refusal_never_contain_what_was_sent(codec: Codec, frame: ToServer, data: st.DataObject) -> None:
    fields = plain(frame, codec)
    name = data.draw(st.sampled_from(sorted(fields)))
    wrong: list[Any] = [CANARY, [CANARY], {CANARY: CANARY}, [[CANARY]], {"t": CANARY}, CANARY * 9000, [0, CANARY]]
    fields[name] = data.draw(st.sampled_from(wrong))
    fields |= data.draw(st.sampled_from([{}, {CANARY: CANARY}]))
    assert CANARY not in refusal(codec.decode_to_server, packed(fields, codec))


@both
@pytest.mark.parametrize(
    "value",
    [
        CANARY,
        f"{CANARY} - at `{CANARY}`",
        f"x - at `$.{CANARY}",
        f"`$.t` {CANARY}",
        f"{CANARY}` - at `$.t`",
        f"'{CANARY}'",
    ],
)
@pytest.mark.parametrize(
    "frame",
    [
        lambda value: {"t": value},
        lambda value: {"t": [value]},
        lambda value: {"t": {value: value}},
        lambda value: {value: value},
        lambda value: value,
        lambda value: [value],
        lambda value: {"t": "refresh", "token": [value]},
        lambda value: {"t": "page", "id": value},
        lambda value: {"t": "page", "id": 1, "kind": value * 9},
        lambda value: {"t": "page", "id": 1, "kind": [value]},
        lambda value: {"t": "page", "id": 1, "kind": "note", "limit": value},
        lambda value: {"t": "hello", "token": "t", "client_id": value},
        lambda value: {"t": "hello", "token": "t", "client_id": "0" * 32, "window": {value: value, "message": value}},
        lambda value: {"t": "hello", "token": "t", "client_id": "0" * 32, "extras": [value * 99]},
        lambda value: {"t": "hello", "token": "t", "client_id": "0" * 32, "cursor": value * 99},
    ],
)
def test_not_even_a_value_that_looks_like_an_error_is_quoted(
    codec: Codec, frame: Callable[[str], object], value: str
) -> None:
    said = refusal(codec.decode_to_server, packed(frame(value), codec))
    assert said
    assert CANARY not in said


# ---- The golden frames ---------------------------------------------------------------------------------------------


def golden(direction: str) -> pytest.MarkDecorator:
    """The frames that go in that direction; of those of the server, what somebody has to write."""
    chosen = [vector for vector in GOLDEN if vector["direction"] == direction]
    if direction == "to_client":
        chosen = [vector for vector in chosen if not vector.get("decode_only")]
    return pytest.mark.parametrize("vector", chosen, ids=lambda vector: vector["name"])


def both_ways(vector: dict[str, Any]) -> list[tuple[Codec, bytes]]:
    return [(MSGPACK, bytes.fromhex(vector["msgpack"])), (JSON, json.dumps(vector["frame"]).encode())]


@golden("to_server")
def test_the_server_reads_every_golden_frame_alike_in_both_encodings(vector: dict[str, Any]) -> None:
    binary, text = (codec.decode_to_server(data) for codec, data in both_ways(vector))
    if isinstance(binary, Push) and isinstance(text, Push):
        assert binary.n == text.n
        written = [[codec.mutation(raw) for raw in push.mutations] for codec, push in ((MSGPACK, binary), (JSON, text))]
        assert [each and each.kind for each in written[0]] == [each and each.kind for each in written[1]]
        assert (None in written[0]) == ("none" in vector["name"])
    else:
        for codec, frame in ((MSGPACK, binary), (JSON, text)):
            assert codec.decode_to_server(codec.encode(frame)) == frame or isinstance(frame, Stop)
        # Values are read by the types of the schema: tests/feed/test_pages.py.
        if isinstance(binary, AskPage) and isinstance(text, AskPage):
            binary, text = (structs.replace(page, parent=NOTHING, before=NOTHING) for page in (binary, text))
        if isinstance(binary, Stop) and isinstance(text, Stop):
            binary, text = (structs.replace(stop, id=NOTHING) for stop in (binary, text))
        assert binary == text


@golden("to_client")
def test_the_server_says_the_golden_frames_as_they_are_written(vector: dict[str, Any]) -> None:
    for codec, data in both_ways(vector):
        frame = codec.decode_to_client(data)
        assert plain(frame, codec) == (json.loads(data) if codec.text else msgpack.unpackb(data))


def test_the_nil_uuid_as_client_id_is_refused_with_what_to_do() -> None:
    said = json.dumps({"t": "hello", "token": "x", "client_id": str(UUID(int=0))}).encode()
    with pytest.raises(FrameError, match="the nil UUID names no device"):
        JSON.decode_to_server(said)
