"""The golden frames: the client reads and writes them, and they cover everything that SPEC.md lists.

`schemas.json`: the schemas of the frames. `frames.json`: `frame` is exactly what the JSON encoding carries, `msgpack`
the same frame in the other one; `schema` names that of its rows and mutations, the chat schema if it is absent. Nobody
has to write the frames marked `decode_only`; everybody has to read them. `refused.json`: messages that a server refuses
after an accepted `hello`, each with the code of the `error`; null where an encoding cannot say it. `texts.json`: what
people may write, or the code for which a client refuses it before anything is sent. `mapped.json`: rows of the server's
schema `theirs`, in JSON, and what a client that was built with `ours` reads: kind, seq, id, and columns; null: deleted.
"""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack
import pytest

import protocol
from atlas_sync.chat import create_conversation, create_message, edit_message, rename_conversation
from atlas_sync.codec import CODECS, Encoding
from atlas_sync.mutation import (
    Applied,
    Delete,
    Insert,
    Mutation,
    Rejected,
    Repeated,
    Result,
    Update,
    WriteError,
    check,
)
from atlas_sync.rows import Deleted, Row
from atlas_sync.schema import Kind, Schema
from atlas_sync.session import (
    Acknowledged,
    Batch,
    ErrorAnswer,
    Event,
    Limits,
    Live,
    PageArrived,
    Pong,
    Refreshed,
    SchemaArrived,
    Session,
    State,
    StopAnswered,
    Welcomed,
)
from atlas_sync.streams import StreamGrew, StreamsNamed
from atlas_sync.wire import Wire
from tests.atlas_sync.second_schema import SCHEMAS

PROTOCOL = Path(protocol.__file__).parent
VECTORS = PROTOCOL / "vectors"
SPEC = (PROTOCOL / "SPEC.md").read_text(encoding="utf-8")
FRAMES: list[dict[str, Any]] = json.loads((VECTORS / "frames.json").read_text(encoding="utf-8"))
REFUSED: list[dict[str, Any]] = json.loads((VECTORS / "refused.json").read_text(encoding="utf-8"))
TEXTS: list[dict[str, Any]] = json.loads((VECTORS / "texts.json").read_text(encoding="utf-8"))
MAPPED: list[dict[str, Any]] = json.loads((VECTORS / "mapped.json").read_text(encoding="utf-8"))
TO_SERVER = [vector for vector in FRAMES if vector["direction"] == "to_server"]
TO_CLIENT = [vector for vector in FRAMES if vector["direction"] == "to_client"]


encodings = pytest.mark.parametrize("encoding", ["msgpack", "json"])


def named(vector: object) -> str:
    return vector["name"] if isinstance(vector, dict) else str(vector)


def table(section: str) -> set[str]:
    """The names in the first column of a section's table."""
    body = SPEC.split(f"\n## {section}. ")[1].split("\n## ")[0]
    columns = re.findall(r"^\| (`.*?) \|", body, re.M)
    names = {name for column in columns for name in re.findall(r"`([a-z_-]+)`", column)}
    return names - {"t", "why", "code"}  # the columns' heads


def same(natural: object, packed: object) -> bool:
    """Whether a value in JSON's types and one in MessagePack's are the same."""
    if isinstance(packed, bytes):
        by_uuid = len(packed) == 16 and natural == str(UUID(bytes=packed))
        return by_uuid or natural == base64.b64encode(packed).decode()
    if isinstance(packed, dict) and isinstance(natural, dict):
        return natural.keys() == packed.keys() and all(same(natural[key], packed[key]) for key in packed)
    if isinstance(packed, list) and isinstance(natural, list):
        return len(natural) == len(packed) and all(map(same, natural, packed))
    return type(natural) is type(packed) and natural == packed


# ---- The files themselves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", FRAMES, ids=named)
def test_both_encodings_of_a_golden_frame_are_the_same_frame(vector: dict[str, Any]) -> None:
    assert vector.keys() - {"decode_only", "schema"} == {"name", "direction", "frame", "msgpack"}
    assert same(vector["frame"], msgpack.unpackb(bytes.fromhex(vector["msgpack"])))


def test_the_golden_frames_cover_every_kind_of_frame_and_row_and_every_reason_that_the_spec_lists() -> None:
    assert {vector["frame"]["t"] for vector in TO_SERVER} == table("3")
    assert {vector["frame"]["t"] for vector in TO_CLIENT} == table("4")
    rows = {row[0] for vector in TO_CLIENT for row in vector["frame"].get("rows", [])}
    assert rows >= {sign + kind["tag"] for schema in SCHEMAS.values() for kind in schema["kinds"] for sign in ("", "-")}
    assert {vector["frame"].get("why") for vector in TO_CLIENT} - {None} == table("7")
    assert {vector["frame"].get("code") for vector in TO_CLIENT} - {None} >= table("10")
    assert table("10") >= {vector["error"] for vector in REFUSED}


def test_the_golden_frames_cover_every_kind_of_mutation_and_result_and_every_reason_of_a_rejection() -> None:
    pushed = [array for vector in TO_SERVER for array in vector["frame"].get("mutations", [])]
    kinds = {(array[0], array[1]) for array in pushed if isinstance(array, list) and array}
    assert kinds >= {(sign, tag) for sign in "+~-" for tag in "cm"} | {(sign, tag) for sign in "+~-" for tag in "tP"}
    results = [array for vector in TO_CLIENT for array in vector["frame"].get("results", [])]
    said = {array[0] for array in results} | {array[2] for array in results if array[0] == "rejected"}
    assert said >= table("8") - table("10")
    assert len(said) >= 13


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.json")), ids=lambda path: path.name)
def test_the_files_stay_small_and_their_names_unique(path: Path) -> None:
    assert path.stat().st_size < 120_000
    names = [vector["name"] for vector in json.loads(path.read_text(encoding="utf-8"))]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("vector", REFUSED, ids=named)
def test_a_refused_message_exists_in_one_encoding_at_least(vector: dict[str, Any]) -> None:
    assert vector.keys() == {"name", "msgpack", "json", "error"}
    assert vector["msgpack"] is not None or vector["json"] is not None
    bytes.fromhex(vector["msgpack"] or "")


# ---- What the client reads -----------------------------------------------------------------------------------------


def carried(vector: dict[str, Any], encoding: Encoding) -> bytes | str:
    if encoding == "msgpack":
        return bytes.fromhex(vector["msgpack"])
    return json.dumps(vector["frame"], ensure_ascii=False)


def schema_of(vector: dict[str, Any]) -> Schema:
    return Schema.parse(SCHEMAS[vector.get("schema", "chat")])


def client_for(vector: dict[str, Any], encoding: Encoding) -> Session:
    """A session that may receive this frame now."""
    frame, schema = vector["frame"], schema_of(vector)
    cursor = frame["from"] if frame["t"] == "changes" else frame["cursor"] if frame["t"] == "live" else "AAAA"
    client = Session(
        token="t", client_id=UUID(int=1), schema=schema, cursor=base64.b64decode(cursor), encoding=encoding
    )
    client.hello()
    client.wire = Wire(CODECS[encoding], schema)
    if frame["t"] == "snapshot":
        client.state = State.SNAPSHOT_DUE
    elif frame["t"] == "schema":
        client.state, client._named = State.SCHEMA_DUE, frame["hash"]
    elif frame["t"] != "welcome":
        client.state = State.CATCHING_UP
    if frame["t"] == "page":
        client._last_page = frame["id"] - 1
        client.ask_page(next(kind.name for kind in schema if kind.parent is None))
    if frame["t"] == "ack":
        client.pushed = range(frame["results"][0][1], frame["results"][-1][1] + 1)
    if frame["t"] == "stopped":
        client.stops.add(frame["n"])
    if frame["t"] == "stream":
        client._lengths[UUID(frame["stream"])] = frame["offset"]
    if frame.get("answers") == "push":
        client.pushed = range(frame["id"], frame["id"] + 1)
    return client


def value(of: str, carried: Any) -> Any:
    """A value of the JSON encoding, by its type: SPEC 2.4, implemented by the test."""
    if carried is None:
        return None
    match of:
        case "uuid":
            return UUID(carried)
        case "bigint":
            return int(carried)
        case "float":
            return float(carried)
        case "numeric":
            return Decimal(carried)
        case "json" | "array":
            return json.loads(carried)
        case "bytes":
            return base64.b64decode(carried)
    return carried


def key(kind: Kind, carried: Any) -> Any:
    if len(kind.key) == 1:
        return value(kind.key[0], carried)
    return tuple(value(of, part) for of, part in zip(kind.key, carried, strict=True))


def read_row(columns: list[Any], schema: Schema) -> Row | Deleted | None:
    """SPEC, section 5, implemented by the test."""
    kind = next((kind for kind in schema if kind.tag == columns[0].removeprefix("-")), None)
    if kind is None:
        return None
    if columns[0].startswith("-"):
        return Deleted(kind.name, columns[1], key(kind, columns[2]))
    values = {column.name: value(column.type, v) for column, v in zip(kind.columns, columns[3:], strict=False)}
    return Row(kind.name, columns[1], key(kind, columns[2]), values)


def read_result(columns: list[Any]) -> Result:
    """SPEC 8.4, implemented by the test."""
    match columns[0]:
        case "applied":
            return Applied(columns[1], columns[2])
        case "repeated":
            return Repeated(columns[1], columns[2])
    assert columns[0] == "rejected"
    return Rejected(*columns[1:])


def read(vector: dict[str, Any]) -> Event:
    """SPEC, section 4, implemented by the test."""
    frame, schema = vector["frame"], schema_of(vector)
    assert "as_of" not in frame or all(columns[1] == frame["as_of"] for columns in frame["rows"])
    rows = tuple(row for columns in frame.get("rows", []) if (row := read_row(columns, schema)) is not None)
    cursor = None if frame.get("cursor") is None else base64.b64decode(frame["cursor"])
    match frame["t"]:
        case "welcome":
            limits = Limits(**frame["limits"])
            same_name = {name: frame[name] for name in ("session", "epoch", "schema", "mode", "time", "expires")}
            return Welcomed(
                **same_name,
                tier=frame.get("tier"),
                why=frame.get("why"),
                keepalive_ms=frame["keepalive"],
                limits=limits,
            )
        case "schema":
            return SchemaArrived(Schema.parse(frame))
        case "snapshot":
            window = {kind.name: kind.window for kind in schema} if cursor is not None else None
            return Batch(rows, cursor, replaces=True, partial=False, window=window)
        case "changes":
            to = base64.b64decode(frame["to"])
            return Batch(rows, to, replaces=False, partial=frame.get("partial") or False, seq=frame.get("seq"))
        case "live":
            assert cursor is not None
            return Live(cursor, frame["seq"])
        case "page":
            return PageArrived(frame["id"], frame["as_of"], rows, frame["more"])
        case "ack":
            return Acknowledged(tuple(map(read_result, frame["results"])))
        case "refreshed":
            return Refreshed(frame["expires"])
        case "streams":
            return StreamsNamed(frozenset(map(UUID, frame["open"])))
        case "stream":
            kind = next(kind for kind in schema if kind.tag == frame["kind"])
            rest = [frame[name] for name in ("column", "since", "offset", "text", "state")]
            return StreamGrew(UUID(frame["stream"]), kind.name, key(kind, frame["id"]), *rest)
        case "stopped":
            return StopAnswered(frame["n"], frame["found"])
        case "error":
            applies = [frame.get(name) for name in ("answers", "id", "retry_after", "expected")]
            return ErrorAnswer(frame["code"], frame["message"], frame["retryable"], *applies)
    assert frame["t"] == "pong"
    return Pong()


@encodings
@pytest.mark.parametrize("vector", TO_CLIENT, ids=named)
def test_the_client_reads_every_golden_frame(vector: dict[str, Any], encoding: Encoding) -> None:
    client = client_for(vector, encoding)
    # Not-a-number is not equal to itself.
    assert repr(client.receive(carried(vector, encoding))) == repr(read(vector))


# ---- What the client writes ----------------------------------------------------------------------------------------


def meant(array: list[Any], schema: Schema) -> Mutation:
    """SPEC 8.3, implemented by the test."""
    kind = next(kind for kind in schema if kind.tag == array[1])
    is_dated = array[0] != "+" and kind.dated is not None
    target = (key(kind, array[2][0]), array[2][1]) if is_dated else key(kind, array[2])
    if array[0] == "-":
        return Delete(kind.name, target)
    types = {column.name: column.type for column in kind.columns}
    columns = {name: value(types[name], carried) for name, carried in array[3].items()}
    return (Insert if array[0] == "+" else Update)(kind.name, target, columns, array[4])


def write(vector: dict[str, Any], encoding: Encoding) -> bytes | str:
    """The frame that the client itself writes with this content."""
    frame, schema = vector["frame"], schema_of(vector)
    cursor = None if frame.get("cursor") is None else base64.b64decode(frame["cursor"])
    client = Session(
        token=frame.get("token", "t"),
        client_id=UUID(frame.get("client_id", str(UUID(int=1)))),
        schema=None if frame.get("schema") == "" else schema,
        cursor=cursor,
        window=frame.get("window"),
        encoding=encoding,
        generation=frame.get("generation"),
    )
    hello = client.hello()
    client.state, client.wire = State.LIVE, Wire(CODECS[encoding], schema)
    match frame["t"]:
        case "hello":
            return hello
        case "refresh":
            return client.refresh(frame["token"])
        case "ping":
            return client.ping()
        case "stop":
            kind = next(kind for kind in schema if kind.tag == frame["kind"])
            stop = client.stop(frame["n"], kind.name, key(kind, frame["id"]), frame["column"])
            assert stop is not None
            return stop
        case "push":
            client.limits = replace(client.limits, mutations=100)
            return client.push(frame["n"], [meant(array, schema) for array in frame["mutations"]], frame.get("held"))
    client._last_page = frame["id"] - 1
    kind, parent, before = schema[frame["kind"]], frame.get("parent"), frame.get("before")
    order = "" if kind.newest is None else next(column.type for column in kind.columns if column.name == kind.newest)
    _, page = client.ask_page(
        kind.name,
        None if parent is None else value(kind.columns[0].type, parent),
        None if before is None else (value(order, before[0]), key(kind, before[1])),
        frame.get("limit", 50),
    )
    return page


def spelled_out(frame: dict[str, Any]) -> dict[str, Any]:
    """The frame with every absent optional field set to its default."""
    meaning: dict[str, dict[str, Any]] = {
        "hello": {"cursor": None, "extras": [], "window": None},
        "stop": {"column": None},
        "page": {"parent": None, "before": None, "limit": 50},
    }
    return meaning.get(frame["t"], {}) | frame


@encodings
@pytest.mark.parametrize(
    "vector",
    # This version of the client would like no extensions: there are none.
    [vector for vector in TO_SERVER if not (vector.get("decode_only") or vector["frame"].get("extras"))],
    ids=named,
)
def test_the_client_writes_the_golden_frames(vector: dict[str, Any], encoding: Encoding) -> None:
    load: Callable[[Any], Any] = msgpack.unpackb if encoding == "msgpack" else json.loads
    written = write(vector, encoding)
    assert isinstance(written, bytes if encoding == "msgpack" else str)
    packed, expected = spelled_out(load(written)), spelled_out(vector["frame"])
    assert same(expected, packed) if encoding == "msgpack" else expected == packed


@pytest.mark.parametrize("vector", TEXTS, ids=named)
def test_the_client_refuses_a_text_that_no_server_stores_and_names_the_character(vector: dict[str, Any]) -> None:
    name, text, chat = UUID(int=1), vector["text"], Schema.chat()
    for mutation in (
        create_conversation(name, text, 1),
        rename_conversation(name, text, 1),
        create_message(name, name, "user", text, 1),
        edit_message(name, 1, text, 1),
    ):
        if vector["code"] is None:
            check(mutation, chat)
        else:
            blamed = "U\\+0000" if "\0" in text else "half of a surrogate pair"
            with pytest.raises(WriteError, match=f"contains {blamed}") as refusal:
                check(mutation, chat)
            assert refusal.value.code == vector["code"]


def test_the_chat_schema_of_the_vectors_is_that_of_the_client() -> None:
    assert Schema.parse(SCHEMAS["chat"]) == Schema.chat()


@pytest.mark.parametrize("vector", MAPPED, ids=named)
def test_rows_of_another_schema_are_mapped_by_names(vector: dict[str, Any]) -> None:
    theirs, ours = (Schema.parse({"hash": side, "kinds": vector[side]}) for side in ("theirs", "ours"))
    rows = Wire(CODECS["json"], theirs, ours).rows(vector["rows"])
    read = [[row.kind, row.seq, str(row.id), None if isinstance(row, Deleted) else dict(row.values)] for row in rows]
    assert read == vector["read"]
