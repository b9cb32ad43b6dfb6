"""Runs a private Redis or Valkey as a child process, for the demo. It keeps nothing on disk, and little in memory."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from server import private
from server.demo.embedded import end_with_parent
from server.exceptions import AtlasError, ConfigError

PROGRAMS: Final = ("redis-server", "valkey-server")
MISSING: Final = (
    "Neither redis-server nor valkey-server is on PATH. Install one (Debian: apt-get install redis-server, macOS: brew "
    "install valkey), or leave redis out of --with."
)
WITHOUT_CLIENT: Final = "The package that speaks to Redis is not installed: pip install 'atlas-sync[redis]'"
MEMORY: Final = "64mb"
"""Beyond it Redis forgets what was not used for longest."""
LIMIT: Final = 10.0
"""Seconds for a start, which takes a hundredth of one."""
POLL: Final = 0.01


class EmbeddedRedisError(AtlasError):
    """The embedded Redis cannot be started."""


def find_program() -> str:
    """The first of PROGRAMS on PATH. Raises ConfigError if there is none."""
    for name in PROGRAMS:
        if (found := shutil.which(name)) is not None:
            return found
    raise ConfigError(MISSING)


class EmbeddedRedis:
    """A Redis of this process alone, on a free port of 127.0.0.1, with a password. It ends with this process.

    `folder` contains its log.
    """

    def __init__(self, folder: Path, program: str) -> None:
        self._folder = folder
        self._program = program
        self._password = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self) -> None:
        """Returns once it answers. Raises EmbeddedRedisError, and ConfigError for a folder of somebody else. Call it
        from the main thread: the kernel ends it with the *thread* that started it."""
        private.folder(self._folder)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        with open(self._folder / "redis.log", "ab", opener=private.opener) as log:
            self._process = subprocess.Popen(
                [self._program, "-"],
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C then reaches only us
                preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGKILL) if sys.platform == "linux" else None,
            )
        # Not as arguments, which every account of this machine can read.
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as settings:
            settings.write(self._settings().encode())
        deadline = time.monotonic() + LIMIT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = "\n".join((self._folder / "redis.log").read_text(errors="replace").splitlines()[-5:])
                raise EmbeddedRedisError(f"{self._program} does not start. Its log ends with:\n{tail}")
            time.sleep(POLL)

    def _settings(self) -> str:
        lines = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self._password,
            "save": '""',
            "appendonly": "no",
            "maxmemory": MEMORY,
            "maxmemory-policy": "allkeys-lru",
        }
        return "".join(f"{name} {value}\n" for name, value in lines.items())

    def _answers(self) -> bool:
        """Whether it answers a command, if only that a password is needed."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as sock:
                sock.sendall(b"PING\r\n")
                return bool(sock.recv(64))
        except OSError:
            return False

    def stop(self) -> None:
        """End it. Does nothing if it does not run."""
        if self._process is not None:
            self._process.kill()  # it has nothing to save
            self._process.wait()
            self._process = None

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}"
