"""The demo's page, built again from changed sources."""

import shutil
from pathlib import Path

from tests.support.npm import PAGE, ROOT, run_node


def build_page(folder: Path, script: str) -> Path:
    """Build the page with `script` at its end. Returns where its files are, below `folder`."""
    page = folder / "server" / "demo" / "page"
    for part in ("server/demo/page", "protocol/js/src", "protocol/js/scripts"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("node_modules"))
    (page / "node_modules").symlink_to(PAGE / "node_modules")
    with (page / "src" / "main.ts").open("a") as main:
        main.write(script)
    run_node("build.mjs", str(folder / "static"), folder=page)
    return folder / "static"
