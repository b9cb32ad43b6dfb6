"""`atlas-sync` as a process, forked from one that has imported it. An import takes most of a second of a core, and many
tests start a server."""

import asyncio
import functools
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Final, Self

_LIMIT: Final = 1 << 17
"""Bytes of one request: an environment and a command."""


class _Pipe(asyncio.StreamReaderProtocol):
    """Closes with the other end."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self.reader = reader
        self.closed = asyncio.get_running_loop().create_future()

    def eof_received(self) -> bool:
        super().eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.closed.set_result(None)

    @classmethod
    async def open(cls, descriptor: int) -> Self:
        loop, pipe = asyncio.get_running_loop(), os.fdopen(descriptor, "rb", 0)
        _, made = await loop.connect_read_pipe(lambda: cls(asyncio.StreamReader()), pipe)
        return made


class Forked:
    """Like asyncio's own process, as far as the tests need it."""

    def __init__(self, pid: int, stderr: _Pipe, status: _Pipe) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stderr = stderr.reader
        self._ending = asyncio.create_task(self._end(stderr, status))

    async def _end(self, stderr: _Pipe, status: _Pipe) -> int:
        self.returncode = int(await status.reader.readline())
        await asyncio.wait([stderr.closed, status.closed])
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    async def wait(self) -> int:
        return await asyncio.shield(self._ending)

    @classmethod
    async def start(cls, *arguments: str, environment: Mapping[str, str]) -> Self:
        request = json.dumps([arguments, dict(environment)]).encode()
        stderr, theirs = os.pipe()
        status, told = os.pipe()
        socket.send_fds(_parent(), [request], [theirs, told])
        os.close(theirs)
        os.close(told)
        said = await _Pipe.open(status)
        return cls(int(await said.reader.readline()), await _Pipe.open(stderr), said)


@functools.cache
def _parent() -> socket.socket:
    """The way to the process that forks. It ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", "tests.support.forked", str(theirs.fileno())]
        # It is kept, because Popen warns if it is collected while the process lives.
        _processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]))
    return ours


_processes: Final[list[subprocess.Popen[bytes]]] = []


# ---- The process that forks ------------------------------------------------------------------------------------------


def _fork_for(requests: socket.socket) -> list[str] | None:
    """Fork for each request. Returns its arguments in the new process, and None in this one once nobody can ask."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes in between
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, _LIMIT, 2)
        if not request:
            return None
        if os.fork() == 0:
            break
        for each in descriptors:
            os.close(each)
    requests.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stderr, status = descriptors
    arguments, environment = json.loads(request)
    if (pid := os.fork()) != 0:
        # Only a parent learns how a process ends.
        os.close(stderr)
        os.write(status, f"{pid}\n".encode())
        _, ended = os.waitpid(pid, 0)
        os.write(status, f"{os.waitstatus_to_exitcode(ended)}\n".encode())
        os._exit(0)
    os.close(status)
    os.dup2(stderr, sys.stderr.fileno())
    os.close(stderr)
    os.environ.clear()
    os.environ.update(environment)
    return list(arguments)


if __name__ == "__main__":
    from server.cli import main

    gc.freeze()  # a collection in a fork copies the memory that it looks at
    given = _fork_for(socket.socket(fileno=int(sys.argv[1])))
    if given is not None:
        sys.argv[1:] = given
        main()
