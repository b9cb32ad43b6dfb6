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

    __slots__ = ("list_is_due", "proof_is_due", "sent", "sink", "user", "welcomed")

    def __init__(self, user: str, sink: Sink) -> None:
        self.user = user
        self.sink = sink
        self.sent: dict[UUID, Sent] = {}
        self.welcomed = False
        """Before that it is sent nothing."""
        self.list_is_due = True
        self.proof_is_due = False
        """Whether a stream was settled whose row the device perhaps does not have when it is sent the list."""

    @property
    def takes(self) -> bool:
        return self.welcomed and not self.sink.full


class Audience:
    """`key`: the id of a row as devices know it; None: they do not know such rows."""

    def __init__(self, known: Known, key: KeyOf) -> None:
        self._known = known
        self._key = key
        self._devices: dict[str, set[Device]] = {}
        self._late: dict[UUID, set[Device]] = {}
        """Devices that have come, by the stream that is to be read before they are sent the list."""
        self.certain = False
        """Whether all streams are known here."""
        self.unread: dict[UUID, None] = {}
        """Streams that were heard of and are not read yet, in the order in which they are read. A device that comes
        from another process may hold them."""

    def has(self, user: str) -> bool:
        return user in self._devices

    def add(self, user: str, sink: Sink) -> Device:
        """A device has come, and nothing was read for it yet."""
        device = Device(user, sink)
        self._devices.setdefault(user, set()).add(device)
        return device

    def welcome(self, device: Device) -> bytes:
        """The device is welcomed. Returns what it is sent before its rows, as bytes of whole messages."""
        if self.unread:
            self._late.setdefault(next(reversed(self.unread)), set()).add(device)
            device.proof_is_due = True
            return b""
        device.welcomed = True
        return b"".join(frame.wire(device.sink.codec) for frame in self._due(device))

    def remove(self, device: Device) -> None:
        devices = self._devices.get(device.user, set())
        devices.discard(device)
        if not devices:
            self._devices.pop(device.user, None)
        for late in self._late.values():
            late.discard(device)

    def read(self, ids: Iterable[UUID]) -> None:
        """Of these streams all is known that there is to know."""
        for id_ in ids:
            self.unread.pop(id_, None)
            for device in self._late.pop(id_, ()):
                device.welcomed = True
                if device.takes:
                    self.resume(device)

    def list_to_all(self) -> None:
        """All streams are known now: tell every device which of them are there."""
        self.certain = True
        for user, devices in list(self._devices.items()):
            for device in devices:
                # What it holds may have been settled at any time.
                device.proof_is_due |= device.list_is_due
            self._list_to(user)

    def resume(self, device: Device) -> None:
        """Its socket takes data again: send what it lacks."""
        for frame in self._due(device) if device.welcomed else ():
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
            if device.takes and (frame := self._next(device, stream, frames)) is not None:
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
            device.proof_is_due = True
        self._list_to(stream.user)

    def _list_to(self, user: str) -> None:
        """Tell a user's devices which streams there are."""
        frame = self._list(user)
        for device in list(self._devices.get(user, ())):
            device.list_is_due = True
            if device.takes and self.certain:
                device.sink.send(frame.wire(device.sink.codec))
                self._listed(device)

    def _list(self, user: str) -> Outgoing:
        return Outgoing(Streams(open=[stream.id for stream in self._known.of(user)]))

    def _listed(self, device: Device) -> None:
        """The device has the list. It forgets the others at its next `live`, so that must not come before their rows;
        and it shows them until then, so that must come soon."""
        device.list_is_due = False
        if device.proof_is_due:
            device.proof_is_due = False
            device.sink.prove()

    def _due(self, device: Device) -> Iterable[Outgoing]:
        """What the device lacks, the list first. Each counts as sent when it is taken."""
        if not self.certain:
            return
        if device.list_is_due:
            self._listed(device)
            yield self._list(device.user)
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
