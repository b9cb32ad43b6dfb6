"""A frame becomes one WebSocket message, as the standard has it."""

import pytest
from websockets.frames import Frame, Opcode

from protocol.codec import CODECS, Codec
from protocol.frames import Error
from server.outgoing import message


@pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.subprotocol)
def test_a_message_has_the_header_of_its_size(codec: Codec) -> None:
    sizes = set()
    for length in (*range(130), *range(65_400, 65_600), 300_000):
        frame = Error(code="internal", message="x" * length, retryable=True)
        data = codec.encode(frame)
        sizes.add(len(data))
        opcode = Opcode.TEXT if codec.text else Opcode.BINARY
        assert message(frame, codec) == Frame(opcode, data).serialize(mask=False)
    assert {125, 126, 65_535, 65_536} <= sizes
