"""Converts bytes to frames and back, in MessagePack and in JSON. No other file knows the encodings."""

import re
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from protocol.frames import Mutation, ToClient, ToServer

MAX_INBOUND: Final = 256 * 1024
"""Limit on a frame from a client, in bytes. Decoding is typed, so its memory is proportional to the frame's size: an
untyped decoder turns 1 MB of empty maps into 73 MB."""

Decoder = msgspec.msgpack.Decoder[Any] | msgspec.json.Decoder[Any]
Encoder = msgspec.msgpack.Encoder | msgspec.json.Encoder


class FrameError(Exception):
    """The bytes are not a frame of this protocol. The message names the field and never quotes the content."""


class UnknownFrameError(FrameError):
    """The frame is well-formed, but this version does not know its `t`."""


_ESCAPE: Final = re.compile(rb"\\(?:u[dD][89abAB]..(?:\\u[dD][c-fC-F]..)?|u[dD][c-fC-F]..|.)", re.DOTALL)
"""JSON escapes; matches a surrogate pair as one."""


def _no_half(escape: re.Match[bytes]) -> bytes:
    """Replace half of a surrogate pair, which JavaScript's `slice` can leave, by U+0000.

    Half of a pair is not a character and would make the whole frame unreadable. U+0000 is decodable, and not allowed in
    a text, so only that text is rejected.
    """
    found = escape[0]
    return b"\\u0000" if len(found) == 6 and found[2:3] in b"dD" and found[3:4] not in b"01234567" else found


_HALF: Final = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
"""Half of a surrogate pair in invalid UTF-8, as some encoders write it."""


Value = str | bytes | int | float | bool | None
"""A value as it was sent, before the schema says what it means."""

_OPENING: Final = frozenset((b"{", b"["))
_CONTAINERS: Final = frozenset(
    (
        b"",
        *(
            bytes((first,))
            for first in (*range(0x80, 0xA0), *range(0xC7, 0xCA), *range(0xD4, 0xD9), *range(0xDC, 0xE0))
        ),
    )
)
"""First bytes of maps, arrays and extensions in MessagePack. An untyped decoder would turn a frame of empty maps into
70 times its size."""


class _Kind(msgspec.Struct):
    t: str


@dataclass(frozen=True, slots=True, eq=False)
class Codec:
    """One encoding of the protocol. `text` says whether its frames are text or binary WebSocket messages."""

    subprotocol: str
    text: bool
    _encoder: Encoder
    _to_server: Decoder
    _to_client: Decoder
    _kind: Decoder
    _mutation: Decoder
    _array: Decoder
    _value: Decoder
    _text: Decoder
    _uuid: Decoder
    _containers: frozenset[bytes]
    """First bytes of what is no value."""

    def encode(self, frame: ToClient | ToServer) -> bytes:
        return self._encoder.encode(frame)

    def decode_to_server(self, data: bytes) -> ToServer:
        """Return the frame that a client sent. Raises FrameError (UnknownFrameError when only its `t` is unknown)."""
        return self._decode(self._to_server, data)  # type: ignore[no-any-return]  # msgspec types a union as Any

    def decode_to_client(self, data: bytes) -> ToClient:
        """Return the frame that a server sent; for tests and tools. Raises FrameError."""
        return self._decode(self._to_client, data)  # type: ignore[no-any-return]  # as above

    def encode_mutation(self, mutation: Mutation) -> msgspec.Raw:
        return msgspec.Raw(self._encoder.encode(mutation))

    def mutation(self, raw: msgspec.Raw) -> Mutation | None:
        """Return one mutation of a push; None if it is not a mutation of this protocol."""
        try:
            return self._mutation.decode(raw)  # type: ignore[no-any-return]  # as above
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None

    def value(self, raw: msgspec.Raw) -> Value:
        """Return one value of a row. Raises FrameError for a map or an array: no value is one."""
        data = bytes(raw)
        if data[:1] in self._containers:
            raise FrameError("A value is a map or an array. JSON and arrays travel as text.")
        try:
            return self._value.decode(data)  # type: ignore[no-any-return]  # a scalar
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            # As in JSON: the value becomes readable, and is rejected because of its text.
            mended = _HALF.sub(b"\0\0\0", data)
            if mended != data:
                return self.value(msgspec.Raw(mended))
            raise FrameError("A value is not of the agreed encoding.") from None

    def text_of(self, raw: msgspec.Raw) -> str | None:
        """Return the value, as `value` does, if it is a string without U+0000; otherwise None."""
        try:
            text: str = self._text.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None
        return None if "\0" in text else text

    def uuid_of(self, raw: msgspec.Raw) -> str | None:
        """Return the value in the canonical form of a uuid, if it is one in a usual form; otherwise None."""
        try:
            return msgspec.to_builtins(self._uuid.decode(raw))  # type: ignore[no-any-return]  # a str
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None

    def values(self, raw: msgspec.Raw) -> list[msgspec.Raw]:
        """Return the elements of an array, or the value itself as the only one. Raises FrameError."""
        if bytes(raw)[:1] not in self._containers:
            return [raw]
        try:
            return self._array.decode(raw)  # type: ignore[no-any-return]  # as above
        except (msgspec.DecodeError, RecursionError):
            raise FrameError("This is not an array of values.") from None

    def _decode(self, decoder: Decoder, data: bytes) -> Any:
        if self.text and b"\\u" in data:
            data = _ESCAPE.sub(_no_half, data)
        try:
            return decoder.decode(data)
        except msgspec.ValidationError as error:
            if isinstance(error.__cause__, ValueError):
                raise FrameError(str(error.__cause__)) from None  # one that a frame raised, which says what to do
            problem = str(error)
            if problem.endswith("`$.t`") and self._has_string_kind(data):
                raise UnknownFrameError("This server does not know the frame's `t`.") from None
            # msgspec quotes values only for tags and enumerations. The part after the dash is the path.
            where = problem.rpartition(" - at ")[2] if " - at " in problem else "`$`"
            raise FrameError(f"The frame is not as SPEC.md says, at {where}.") from None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise FrameError("These bytes are not one whole frame of the agreed encoding.") from None

    def _has_string_kind(self, data: bytes) -> bool:
        try:
            self._kind.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return False
        return True


MSGPACK: Final = Codec(
    subprotocol="atlas-sync.v1.msgpack",
    text=False,
    _encoder=msgspec.msgpack.Encoder(uuid_format="bytes"),
    _to_server=msgspec.msgpack.Decoder(ToServer),
    _to_client=msgspec.msgpack.Decoder(ToClient),
    _kind=msgspec.msgpack.Decoder(_Kind),
    _mutation=msgspec.msgpack.Decoder(Mutation),
    _array=msgspec.msgpack.Decoder(list[msgspec.Raw]),
    _value=msgspec.msgpack.Decoder(),
    _text=msgspec.msgpack.Decoder(str),
    _uuid=msgspec.msgpack.Decoder(UUID),
    _containers=_CONTAINERS,
)
JSON: Final = Codec(
    subprotocol="atlas-sync.v1.json",
    text=True,
    _encoder=msgspec.json.Encoder(),
    _to_server=msgspec.json.Decoder(ToServer),
    _to_client=msgspec.json.Decoder(ToClient),
    _kind=msgspec.json.Decoder(_Kind),
    _mutation=msgspec.json.Decoder(Mutation),
    _array=msgspec.json.Decoder(list[msgspec.Raw]),
    _value=msgspec.json.Decoder(),
    _text=msgspec.json.Decoder(str),
    _uuid=msgspec.json.Decoder(UUID),
    _containers=_OPENING,
)

CODECS: Final = {codec.subprotocol: codec for codec in (MSGPACK, JSON)}
