"""What PyPI, npm and Debian offer, installed into a folder of its own: nothing else on the machine changes."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from benchmarks.machine import BenchmarkError
from benchmarks.processes import end, launch

LIMIT: Final = 300.0
"""Seconds for one step, which downloads up to some 20 MB."""


class NotInstalledError(BenchmarkError):
    """Something is not there, and could not be had."""


class Installation:
    """`network`: what the folder lacks is downloaded."""

    def __init__(self, folder: Path, *, network: bool) -> None:
        self._folder = folder
        self._network = network
        self.versions: dict[str, str] = {}
        """By package: of those that were asked for."""

    async def python(self, name: str, *packages: str) -> Path:
        """Return a Python that has these packages of PyPI. Raises NotInstalledError."""
        async with self._place(name) as (place, missing):
            if missing:
                await _run(sys.executable, "-m", "venv", place)
                await _run(place / "bin" / "python", "-m", "pip", "install", "--quiet", *packages)
        self.versions |= _of_python(place, packages)
        return place / "bin" / "python"

    async def node_modules(self, name: str, *packages: str) -> Path:
        """Return the folder with these packages of npm. Raises NotInstalledError."""
        async with self._place(name) as (place, missing):
            if missing:
                (place / "package.json").write_text('{"private": true}')
                await _run("npm", "install", "--no-audit", "--no-fund", *packages, cwd=place)
        self.versions |= _of_npm(place, packages)
        return place / "node_modules"

    async def debian(self, name: str, *packages: str) -> Path:
        """Return the folder into which these packages of Debian are unpacked, without what they depend on. Raises
        NotInstalledError."""
        async with self._place(name) as (place, missing):
            if missing:
                await _run("apt-get", "--quiet", "download", *packages, cwd=place)
                for package in _packages(place):
                    await _run("dpkg-deb", "--extract", package, place)
        self.versions |= dict(unquote(package.stem).split("_")[:2] for package in _packages(place))
        return place

    @asynccontextmanager
    async def _place(self, name: str) -> AsyncIterator[tuple[Path, bool]]:
        """A folder, and whether it is still to be filled; if that fails, it is empty the next time."""
        place, done = self._folder / name, self._folder / f"{name}.done"
        missing = not done.exists()
        if missing:
            if not self._network:
                raise NotInstalledError(f"{name} is not in the folder of --folder")
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
        yield place, missing
        done.touch()


def _packages(place: Path) -> list[Path]:
    return sorted(place.glob("*.deb"))


def _of_python(place: Path, packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        name = package.partition("[")[0]
        for path in place.glob(f"lib/*/site-packages/{name.replace('-', '_')}-*.dist-info"):
            found[name] = path.stem.partition("-")[2]
    return found


def _of_npm(place: Path, packages: Sequence[str]) -> dict[str, str]:
    paths = {package: place / "node_modules" / package / "package.json" for package in packages}
    return {name: json.loads(path.read_text())["version"] for name, path in paths.items() if path.exists()}


async def _run(*command: str | Path, cwd: Path | None = None) -> None:
    """Raises NotInstalledError with what the command said of the error."""
    program = Path(command[0]).name
    try:
        process = await launch(
            *command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except FileNotFoundError:
        raise NotInstalledError(f"there is no {program}") from None
    try:
        async with asyncio.timeout(LIMIT):
            said, _ = await process.communicate()
    except TimeoutError:
        raise NotInstalledError(f"{program} took longer than {LIMIT:.0f} s") from None
    finally:
        await end(process)
    if process.returncode != 0:
        lines = said.decode(errors="replace").strip().splitlines() or ["nothing"]
        said_why = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise NotInstalledError(f"{program} failed, and said: {said_why.rstrip('.')}")
