"""pgbench as the writer: a C program, far cheaper than a client in Python."""

import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks import machine
from benchmarks.machine import BenchmarkError
from benchmarks.processes import LIMIT, end, eventually, launch
from server.demo.embedded import find_binaries


class Transaction(NamedTuple):
    """A transaction that was committed."""

    client: int
    """Number of the writer, from 0 on."""
    number: int
    """Number of its transaction, from 1 on."""
    took: int
    """Microseconds, those included that it was late with a rate."""
    end: int
    """When the answer to the COMMIT was there, in microseconds since 1970."""


async def _nothing() -> None: ...


async def write(
    url: str,
    script: str,
    place: Path,
    writers: int,
    seconds: int,
    *,
    rate: float | None = None,
    defines: Mapping[str, object] = {},
    cpu: int | None = None,
    look: Callable[[], Awaitable[None]] = _nothing,
) -> list[Transaction]:
    """Let `writers` connections run the script for `seconds`: together at `rate` transactions per second, or as fast as
    they can. Files are made in the folder `place`. `cpu`: the only one that pgbench may use. `look` is called again and
    again meanwhile. Return the transactions. Raises BenchmarkError if there is none, or one failed."""
    program = find_binaries() / "pgbench"
    if not program.exists():
        raise BenchmarkError(f"There is no pgbench in {program.parent}: install it there, or set ATLAS_PG_BIN.")
    (place / "script").write_text(script)
    process = await launch(
        *(program, "--no-vacuum", "--protocol=prepared", f"--file={place / 'script'}"),
        *(f"--client={writers}", f"--time={seconds}", *([] if rate is None else [f"--rate={rate}"])),
        *(f"--define={name}={value}" for name, value in defines.items()),
        *("--log", f"--log-prefix={place / 'log'}", url),
        stdout=subprocess.DEVNULL,
    )
    try:
        if cpu is not None:
            machine.pin(process.pid, cpu)

        async def over() -> bool:
            await look()
            return process.returncode is not None

        await eventually("all writers done", over, seconds + LIMIT)
    finally:
        await end(process)
    if process.returncode:
        raise BenchmarkError("pgbench failed; what it wrote above says why.")
    transactions = [*_logged(place)]
    if not transactions:
        raise BenchmarkError("No transaction came to its end: give them more time (--seconds).")
    return transactions


def _logged(place: Path) -> Iterator[Transaction]:
    """Remove the logs, and yield the transactions in them."""
    for path in place.glob("log.*"):
        for line in path.read_text().splitlines():
            client, number, took, _, second, microsecond = map(int, line.split()[:6])
            yield Transaction(client, number, took, second * 1_000_000 + microsecond)
        path.unlink()
