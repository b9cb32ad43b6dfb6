"""Runs several server processes on one port: starts them, replaces those that die, passes signals on."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from types import FrameType
from typing import Final

import structlog
from prometheus_client import multiprocess

from server import metrics
from server.config import ServeSettings
from server.edge.listen import reserve
from server.postgres.wal import relay

log = structlog.get_logger()

RESTART_SECONDS: Final = 1.0
"""Shortest time between two starts of the same worker, so that one that cannot start is not a fork bomb."""


def run(settings: ServeSettings) -> int:
    """Run `settings.processes` workers until SIGTERM or SIGINT. Returns the exit status.

    Each worker has its own listening socket on the port (SO_REUSEPORT): the kernel distributes the connections, and a
    worker that dies loses only its own. A worker that exits with status 2 ends all of them, because a setting or the
    database is wrong. The standard input of each worker is a pipe from this process. It ends whenever this process
    does, so that no worker outlives it.
    """
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    # Bound but never listening: this socket reserves the port, and finds a free one for PORT=0.
    with (
        reserve(settings.host, settings.port, shared=True) as placeholder,
        tempfile.TemporaryDirectory(prefix="atlas-metrics-") as figures,
        tempfile.TemporaryDirectory(prefix="atlas-relay-") as relayed,
    ):
        port = placeholder.getsockname()[1]
        own = {"PORT": str(port), "WEB_CONCURRENCY": "1", metrics.FOLDER: figures, relay.FOLDER: relayed}
        environment = {**os.environ, **own}
        command = [sys.executable, "-m", "server", "serve", "--share-port"]

        def start(*more: str) -> tuple[subprocess.Popen[bytes], float]:
            return subprocess.Popen([*command, *more], env=environment, stdin=subprocess.PIPE), time.monotonic()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        workers = [start() for _ in range(settings.processes)]
        log.info("workers started", processes=settings.processes, pids=[process.pid for process, _ in workers])
        status = 0
        while not stopping:
            time.sleep(0.1)
            for i, (process, started) in enumerate(workers):
                if process.poll() is None or time.monotonic() - started < RESTART_SECONDS:
                    continue
                if process.returncode == 2:  # a setting or the database is wrong; the worker has explained it
                    stopping, status = True, 2
                    break
                log.error("worker died, starting another", pid=process.pid, status=process.returncode)
                multiprocess.mark_process_dead(process.pid, figures)  # type: ignore[no-untyped-call]  # it ships none
                workers[i] = start("--replaces")
        for process, _ in workers:
            if process.poll() is None:
                process.terminate()
        for process, _ in workers:
            try:
                process.wait(settings.drain + 10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return status
