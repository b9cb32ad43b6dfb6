"""A new app, into which the TypeScript client is installed as its README says, with the README's examples in it."""

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support import examples
from tests.support.npm import CLIENT, programs

APP: Final = Path(__file__).parents[1] / "javascript" / "app"


class NewApp:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "your-app"
        self.page = root / "www"
        """A page without a bundler."""
        self.checkout = root / "atlas-sync" / "protocol" / "js"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.lower().startswith("npm_config_")},
            "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
            "npm_config_prefer_offline": "true",
        }

    def shell(self, command: str, folder: Path | None = None) -> str:
        """Run a command. Returns what it said; fails the test if it failed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=folder or self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def make(self) -> None:
        programs(self.root / "bin")
        # As a checkout is: without what was installed or built.
        shutil.copytree(CLIENT, self.checkout, ignore=shutil.ignore_patterns("node_modules", "dist", "*.tgz"))
        shutil.copytree(APP, self.folder)
        self.page.mkdir()
        self.shell("npm ci", self.folder)
        for command in examples.commands():
            self.shell(command)
        examples.write(self.folder)


@contextlib.contextmanager
def shared(root: Path) -> Iterator[NewApp]:
    """One app for the processes of a test session, which all name the same folder: to install takes 20 s. The last one
    that leaves removes it."""
    root.mkdir(exist_ok=True)
    app = NewApp(root / "made")
    users = root / "users"
    mine = users / str(os.getpid())
    with (root / "turn").open("w") as turn:

        @contextlib.contextmanager
        def alone() -> Iterator[None]:
            fcntl.flock(turn, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(turn, fcntl.LOCK_UN)

        with alone():
            if not users.exists():
                shutil.rmtree(app.root, ignore_errors=True)  # of an installation that failed
                app.root.mkdir()
                app.make()
                users.mkdir()
            mine.touch()
        try:
            yield app
        finally:
            with alone():
                mine.unlink()
                if not any(users.iterdir()):
                    users.rmdir()
                    shutil.rmtree(app.root)
