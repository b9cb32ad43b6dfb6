"""Several server processes on one port: starts them, replaces one that dies, passes signals on."""

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

log = structlog.get_logger()

RESTART_SECONDS: Final = 1.0
"""Between two starts of the same worker: one that cannot start must not become a fork bomb."""


def run(settings: ServeSettings) -> int:
    """Run `settings.processes` workers until SIGTERM or SIGINT. Returns the exit status.

    Each worker has a listening socket of its own on the port (SO_REUSEPORT): the kernel spreads the connections, and a
    worker that dies takes only its own along. A worker that fails before it ever served ends everything: what is wrong
    is then a setting. Each has a pipe from here as its standard input, which ends when this process does, however that
    happens: no worker outlives it.
    """
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    # Bound but never listening: it keeps the port ours, and finds a free one for PORT=0.
    with (
        reserve(settings.host, settings.port, shared=True) as placeholder,
        tempfile.TemporaryDirectory(prefix="atlas-metrics-") as figures,
    ):
        port = placeholder.getsockname()[1]
        environment = {**os.environ, "PORT": str(port), "WEB_CONCURRENCY": "1", metrics.FOLDER: figures}
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
                if process.returncode == 2:  # a setting or the database, said in a sentence already
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
