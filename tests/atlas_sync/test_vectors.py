"""The golden frames: the client reads and writes them, and they cover everything that SPEC.md lists.

`frames.json`: `frame` is exactly what the JSON encoding carries, `msgpack` the same frame in the other one. Nobody has
to write the frames marked `decode_only`; everybody has to read them. `refused.json`: messages that a server refuses
after an accepted `hello`, each with the code of the `error`; null where an encoding cannot say it. `texts.json`: what
people may write, or the code for which a client refuses it before anything is sent.
"""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack
import pytest

import protocol
from atlas_sync.codec import Encoding
from atlas_sync.mutation import (
    Applied,
    Bounds,
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    Mutation,
    Rejected,
    RenameConversation,
    Repeated,
    Result,
    WriteError,
    check,
)
from atlas_sync.replica import Conversation, Deleted, Message, Profile, Row
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
    Session,
    State,
    Welcomed,
)

PROTOCOL = Path(protocol.__file__).parent
VECTORS = PROTOCOL / "vectors"
SPEC = (PROTOCOL / "SPEC.md").read_text(encoding="utf-8")
FRAMES: list[dict[str, Any]] = json.loads((VECTORS / "frames.json").read_text(encoding="utf-8"))
REFUSED: list[dict[str, Any]] = json.loads((VECTORS / "refused.json").read_text(encoding="utf-8"))
TEXTS: list[dict[str, Any]] = json.loads((VECTORS / "texts.json").read_text(encoding="utf-8"))
TO_SERVER = [vector for vector in FRAMES if vector["direction"] == "to_server"]
TO_CLIENT = [vector for vector in FRAMES if vector["direction"] == "to_client"]

WINDOW = {"conversations": 50, "messages": 50}  # where a hello says nothing

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
    assert vector.keys() - {"decode_only"} == {"name", "direction", "frame", "msgpack"}
    assert same(vector["frame"], msgpack.unpackb(bytes.fromhex(vector["msgpack"])))


def test_the_golden_frames_cover_every_kind_of_frame_and_row_and_every_reason_that_the_spec_lists() -> None:
    assert {vector["frame"]["t"] for vector in TO_SERVER} == table("3")
    assert {vector["frame"]["t"] for vector in TO_CLIENT} == table("4")
    rows = {row[0] for vector in TO_CLIENT for row in vector["frame"].get("rows", [])}
    assert rows >= table("5") == {"p", "c", "m", "-p", "-c", "-m"}
    assert {vector["frame"].get("why") for vector in TO_CLIENT} - {None} == table("7")
    assert {vector["frame"].get("code") for vector in TO_CLIENT} - {None} >= table("10")
    assert table("10") >= {vector["error"] for vector in REFUSED}


def test_the_golden_frames_cover_every_kind_of_mutation_and_result_and_every_reason_of_a_rejection() -> None:
    pushed = [array for vector in TO_SERVER for array in vector["frame"].get("mutations", [])]
    assert {array[0] for array in pushed if isinstance(array, list) and array} >= {"+c", "~c", "-c", "+m", "~m", "-m"}
    results = [array for vector in TO_CLIENT for array in vector["frame"].get("results", [])]
    said = {array[0] for array in results} | {array[2] for array in results if array[0] == "rejected"}
    assert said >= table("8") - table("10") - {"-c", "-m"}
    assert len(said) >= 12


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.json")), ids=lambda path: path.name)
def test_the_files_stay_small_and_their_names_unique(path: Path) -> None:
    assert path.stat().st_size < 100_000
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


def client_for(frame: dict[str, Any], encoding: Encoding) -> Session:
    """A session that may receive this frame now."""
    cursor = frame["from"] if frame["t"] == "changes" else frame["cursor"] if frame["t"] == "live" else "AAAA"
    client = Session(token="t", client_id=UUID(int=1), cursor=base64.b64decode(cursor), encoding=encoding)
    client.hello()
    if frame["t"] == "snapshot":
        client.state = State.SNAPSHOT_DUE
    elif frame["t"] != "welcome":
        client.state = State.CATCHING_UP
    if frame["t"] == "page":
        client._last_page = frame["id"] - 1
        client.ask_page()
    if frame["t"] == "ack":
        client.pushed = range(frame["results"][0][1], frame["results"][-1][1] + 1)
    if frame.get("answers") == "push":
        client.pushed = range(frame["id"], frame["id"] + 1)
    return client


def read_row(columns: list[Any]) -> Row | None:
    """SPEC, section 5, implemented by the test."""
    kind, seq, uuid = columns[0], columns[1], UUID(columns[2])
    match kind:
        case "p":
            return Profile(seq, uuid, columns[3], columns[4])
        case "c":
            return Conversation(seq, uuid, columns[3], columns[4], columns[5])
        case "m":
            return Message(seq, uuid, UUID(columns[3]), columns[4], columns[5], columns[6], columns[7])
        case "-p" | "-c" | "-m":
            return Deleted(kind[1:], seq, uuid)
    return None


def read_result(columns: list[Any]) -> Result:
    """SPEC 8.4, implemented by the test."""
    match columns[0]:
        case "applied":
            return Applied(columns[1], columns[2])
        case "repeated":
            return Repeated(columns[1], columns[2])
    assert columns[0] == "rejected"
    return Rejected(columns[1], columns[2], columns[3])


def read(frame: dict[str, Any]) -> Event:
    """SPEC, section 4, implemented by the test."""
    assert "as_of" not in frame or all(columns[1] == frame["as_of"] for columns in frame["rows"])
    rows = tuple(row for columns in frame.get("rows", []) if (row := read_row(columns)) is not None)
    cursor = None if frame.get("cursor") is None else base64.b64decode(frame["cursor"])
    match frame["t"]:
        case "welcome":
            limits = Limits(**frame["limits"])
            same_name = {name: frame[name] for name in ("session", "epoch", "tier", "mode", "time", "expires")}
            return Welcomed(**same_name, why=frame.get("why"), keepalive_ms=frame["keepalive"], limits=limits)
        case "snapshot":
            return Batch(rows, cursor, replaces=True, partial=False)
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
        case "error":
            applies = [frame.get(name) for name in ("answers", "id", "retry_after", "expected")]
            return ErrorAnswer(frame["code"], frame["message"], frame["retryable"], *applies)
    assert frame["t"] == "pong"
    return Pong()


@encodings
@pytest.mark.parametrize("vector", TO_CLIENT, ids=named)
def test_the_client_reads_every_golden_frame(vector: dict[str, Any], encoding: Encoding) -> None:
    client = client_for(vector["frame"], encoding)
    assert client.receive(carried(vector, encoding)) == read(vector["frame"])


# ---- What the client writes ----------------------------------------------------------------------------------------


def meant(columns: list[Any]) -> Mutation:
    """SPEC 8.3, implemented by the test."""
    key = UUID(columns[1])
    match columns[0]:
        case "+c":
            return CreateConversation(key, columns[2], columns[3])
        case "~c":
            return RenameConversation(key, columns[2], columns[3])
        case "-c":
            return DeleteConversation(key)
        case "+m":
            return CreateMessage(key, UUID(columns[2]), columns[3], columns[4], columns[5])
        case "~m":
            return EditMessage(key, columns[2], columns[3], columns[4])
    assert columns[0] == "-m"
    return DeleteMessage(key, columns[2])


def write(frame: dict[str, Any], encoding: Encoding) -> bytes | str:
    """The frame that the client itself writes with this content."""
    cursor = None if frame.get("cursor") is None else base64.b64decode(frame["cursor"])
    window = WINDOW | (frame.get("window") or {})
    client = Session(
        token=frame.get("token", "t"),
        client_id=UUID(frame.get("client_id", str(UUID(int=1)))),
        cursor=cursor,
        window=(window["conversations"], window["messages"]),
        encoding=encoding,
        generation=frame.get("generation"),
    )
    hello = client.hello()
    client.state = State.LIVE
    match frame["t"]:
        case "hello":
            return hello
        case "refresh":
            return client.refresh(frame["token"])
        case "ping":
            return client.ping()
        case "push":
            client.limits = replace(client.limits, mutations=100)
            return client.push(frame["n"], [meant(columns) for columns in frame["mutations"]], frame.get("held"))
    client._last_page = frame["id"] - 1
    conversation, before = frame.get("conversation"), frame.get("before")
    _, page = client.ask_page(
        None if conversation is None else UUID(conversation),
        None if before is None else (before[0], UUID(before[1])),
        frame.get("limit", 50),
    )
    return page


def spelled_out(frame: dict[str, Any]) -> dict[str, Any]:
    """The frame with every absent optional field set to its default."""
    meaning: dict[str, dict[str, Any]] = {
        "hello": {"cursor": None, "extras": []},
        "page": {"conversation": None, "before": None, "limit": 50},
    }
    window = {"window": WINDOW | frame.get("window", {})} if frame["t"] == "hello" else {}
    return meaning.get(frame["t"], {}) | frame | window


@encodings
@pytest.mark.parametrize(
    "vector",
    # This version of the client would like no extensions: there are none.
    [vector for vector in TO_SERVER if not (vector.get("decode_only") or vector["frame"].get("extras"))],
    ids=named,
)
def test_the_client_writes_the_golden_frames(vector: dict[str, Any], encoding: Encoding) -> None:
    load: Callable[[Any], Any] = msgpack.unpackb if encoding == "msgpack" else json.loads
    written = write(vector["frame"], encoding)
    assert isinstance(written, bytes if encoding == "msgpack" else str)
    packed, expected = spelled_out(load(written)), spelled_out(vector["frame"])
    assert same(expected, packed) if encoding == "msgpack" else expected == packed


@pytest.mark.parametrize("vector", TEXTS, ids=named)
def test_the_client_refuses_a_text_that_no_server_stores_and_names_the_character(vector: dict[str, Any]) -> None:
    key, text = UUID(int=1), vector["text"]
    for mutation in (
        CreateConversation(key, text, 1),
        RenameConversation(key, text, 1),
        CreateMessage(key, key, "user", text, 1),
        EditMessage(key, 1, text, 1),
    ):
        if vector["code"] is None:
            check(mutation, Bounds())
        else:
            blamed = "U\\+0000" if "\0" in text else "half of a surrogate pair"
            with pytest.raises(WriteError, match=f"contains {blamed}") as refusal:
                check(mutation, Bounds())
            assert refusal.value.code == vector["code"]
