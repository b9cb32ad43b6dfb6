"""The form in which a storage keeps mutations and a schema: MessagePack that says the types of its values itself.

So a mutation can be read whatever the schema has become since.
"""

from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack

from atlas_sync.checks import ProtocolError
from atlas_sync.mutation import Delete, Insert, Mutation, Update
from atlas_sync.schema import Schema

_UUID, _DECIMAL, _INTEGER = 1, 2, 3  # the extension types; an integer that MessagePack cannot hold is in digits


def pack_mutation(mutation: Mutation) -> bytes:
    if isinstance(mutation, Delete):
        return _pack(("-", mutation.kind, mutation.id))
    sign = "+" if isinstance(mutation, Insert) else "~"
    return _pack((sign, mutation.kind, mutation.id, {**mutation.columns}, mutation.at))


def unpack_mutation(data: bytes) -> Mutation:
    """Raises ProtocolError for other data than that of `pack_mutation`."""
    match _unpack(data):
        case ["+", str(kind), key, dict(columns), int(at)]:
            return Insert(kind, _tuples(key), columns, at)
        case ["~", str(kind), key, dict(columns), int(at)]:
            return Update(kind, _tuples(key), columns, at)
        case ["-", str(kind), key]:
            return Delete(kind, _tuples(key))
    raise ProtocolError("not a mutation")


def unpack_earlier(data: bytes) -> Mutation:
    """Read a mutation as it was stored when the chat schema was the only one. Raises ProtocolError for other data."""
    match _unpack(data):
        case ["+c", bytes(key), title, int(at)]:
            return Insert("conversation", UUID(bytes=key), {"title": title}, at)
        case ["~c", bytes(key), title, int(at)]:
            return Update("conversation", UUID(bytes=key), {"title": title}, at)
        case ["-c", bytes(key)]:
            return Delete("conversation", UUID(bytes=key))
        case ["+m", bytes(key), bytes(home), role, content, int(at)]:
            columns = {"conversation_id": UUID(bytes=home), "role": role, "content": content}
            return Insert("message", UUID(bytes=key), columns, at)
        case ["~m", bytes(key), int(created_at), content, int(at)]:
            return Update("message", (UUID(bytes=key), created_at), {"content": content}, at)
        case ["-m", bytes(key), int(created_at)]:
            return Delete("message", (UUID(bytes=key), created_at))
    raise ProtocolError("not a mutation of the chat schema")


def pack_schema(schema: Schema) -> bytes:
    return _pack(schema.plain())


def unpack_schema(data: bytes) -> Schema:
    """Raises ProtocolError for other data than that of `pack_schema`."""
    return Schema.parse(_unpack(data))


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, default=_extend)
    return packed


def _unpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, ext_hook=_extended)
    except (ValueError, TypeError, ArithmeticError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"not a stored value: {type(error).__name__}") from error


def _extend(value: Any) -> msgpack.ExtType:
    match value:
        case UUID():
            return msgpack.ExtType(_UUID, value.bytes)
        case Decimal():
            return msgpack.ExtType(_DECIMAL, str(value).encode())
        case int():
            return msgpack.ExtType(_INTEGER, str(value).encode())
    raise TypeError(f"a {type(value).__name__} cannot be stored")


def _extended(code: int, data: bytes) -> Any:
    match code:
        case 1:
            return UUID(bytes=data)
        case 2:
            return Decimal(data.decode())
        case 3:
            return int(data)
    raise ValueError("an unknown extension type")


def _tuples(key: Any) -> Any:
    return tuple(map(_tuples, key)) if isinstance(key, list) else key
