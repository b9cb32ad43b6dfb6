"""The devices that see streams, and what each was sent. Sans-I/O."""

from collections.abc import Callable, Iterable
from typing import NamedTuple
from uuid import UUID

from protocol.frames import Key, Streams, StreamText
from server.outgoing import Outgoing
from server.streams.ports import Place, Sink, State
from server.streams.stream import Known, Stream

KeyOf = Callable[[Place], Key | None]


class Sent(NamedTuple):
    offset: int
    state: State | None
    """None: it has more than is right."""


class Device:
    """A connection of a device that asked for streams."""

    __slots__ = ("list_is_due", "sent", "sink", "user")

    def __init__(self, user: str, sink: Sink) -> None:
        self.user = user
        self.sink = sink
        self.sent: dict[UUID, Sent] = {}
        self.list_is_due = False


class Audience:
    """`key`: the id of a row as devices know it; None: they do not know such rows."""

    def __init__(self, known: Known, key: KeyOf) -> None:
        self._known = known
        self._key = key
        self._devices: dict[str, set[Device]] = {}
        self.certain = False
        """Whether all streams are known here."""

    def has(self, user: str) -> bool:
        return user in self._devices

    def add(self, user: str, sink: Sink) -> tuple[Device, bytes]:
        """A device has come. Returns what it is sent first, as bytes of whole messages."""
        device = Device(user, sink)
        self._devices.setdefault(user, set()).add(device)
        if not self.certain:
            return device, b""
        frames = [self._list(user), *self._due(device)]
        return device, b"".join(frame.wire(sink.codec) for frame in frames)

    def remove(self, device: Device) -> None:
        devices = self._devices.get(device.user, set())
        devices.discard(device)
        if not devices:
            self._devices.pop(device.user, None)

    def list_to_all(self) -> None:
        """All streams are known now: tell every device which of them are there."""
        self.certain = True
        for user in list(self._devices):
            self.list_to(user)

    def list_to(self, user: str) -> None:
        """Tell a user's devices which streams there are."""
        if not self.certain or user not in self._devices:
            return
        frame = self._list(user)
        for device in list(self._devices[user]):
            if device.sink.full:
                device.list_is_due = True
            else:
                device.sink.send(frame.wire(device.sink.codec))

    def resume(self, device: Device) -> None:
        """Its socket takes data again: send what it lacks."""
        if device.list_is_due:
            device.list_is_due = False
            device.sink.send(self._list(device.user).wire(device.sink.codec))
        for frame in self._due(device):
            device.sink.send(frame.wire(device.sink.codec))
            if device.sink.full:
                return  # the others are found when it resumes

    def publish(self, stream: Stream) -> None:
        """The stream has changed: send each device what it lacks of it."""
        devices = self._devices.get(stream.user)
        if devices is None or stream.text is None or not self.certain:
            return
        frames: dict[int, Outgoing] = {}
        for device in list(devices):
            if not device.sink.full and (frame := self._next(device, stream, frames)) is not None:
                device.sink.send(frame.wire(device.sink.codec))

    def cut(self, stream: Stream, offset: int) -> None:
        """Of what devices were sent only this much is right."""
        for device in self._devices.get(stream.user, ()):
            sent = device.sent.get(stream.id)
            if sent is not None and sent.offset > offset:
                device.sent[stream.id] = Sent(offset, None)

    def forget(self, stream: Stream) -> None:
        """The stream is settled."""
        for device in self._devices.get(stream.user, ()):
            device.sent.pop(stream.id, None)
        self.list_to(stream.user)

    def _list(self, user: str) -> Outgoing:
        return Outgoing(Streams(open=[stream.id for stream in self._known.of(user)]))

    def _due(self, device: Device) -> Iterable[Outgoing]:
        """What the device lacks of all its streams. Each counts as sent when it is taken."""
        for stream in self._known.of(device.user):
            if stream.text is not None and (frame := self._next(device, stream, {})) is not None:
                yield frame

    def _next(self, device: Device, stream: Stream, frames: dict[int, Outgoing]) -> Outgoing | None:
        """What the device lacks of the stream, which counts as sent then; None: nothing. `frames`: those that were made
        of the stream as it is now, by their offsets."""
        assert stream.text is not None
        now = Sent(stream.text.end, stream.state)
        sent = device.sent.get(stream.id, Sent(0, None))
        if sent == now:
            return None
        offset = min(sent.offset, now.offset)
        frame = frames.get(offset) or self._frame(stream, offset)
        if frame is not None:
            frames[offset] = frame
            device.sent[stream.id] = now
        return frame

    def _frame(self, stream: Stream, offset: int) -> Outgoing | None:
        key = self._key(stream.place)
        if key is None:
            return None
        assert stream.text is not None
        return Outgoing(
            StreamText(
                stream=stream.id,
                kind=stream.place.tag,
                id=key,
                column=stream.place.column,
                since=stream.since,
                offset=offset,
                text=stream.text.after(offset),
                state=stream.state,
            )
        )
