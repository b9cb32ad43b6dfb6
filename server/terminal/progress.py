"""The steps of a migration in a terminal: what each will do, and while it is carried out a line with a bar."""

from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from server.operations.catalog import Step
from server.terminal.device import printable

DURATION: Final = {
    "brief": "for milliseconds; if the lock is not granted at once, the request is withdrawn and repeated",
    "index": "as long as it takes; a bar shows the progress",
    "scan": "as long as it takes to read the table once",
    "rows": "until no row is left",
}
"""By kind of step: for how long it holds its locks."""


def described(step: Step) -> str:
    """What a step does, its locks, and for how long it holds them."""
    return f"{step.says}\n    {step.locks}; {DURATION[step.kind]}"


class Shown:
    """Implements steps.Progress. Use it as a context manager; within it the terminal must not be written to."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            console=console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "Shown":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begins(self, step: Step) -> None:
        if self._task is not None:
            self._progress.update(self._task, total=1.0, completed=1.0)
        self._task = self._progress.add_task(printable(step.says), total=None)

    def advances(self, step: Step, share: float | None) -> None:
        if self._task is not None and share is not None:
            self._progress.update(self._task, total=1.0, completed=share)

    def waits(self, step: Step, why: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, description=printable(f"{step.says} (waits for {step.locks})"))

    def ends(self, step: Step) -> None:
        if self._task is not None:
            self._progress.update(self._task, description=printable(step.says), total=1.0, completed=1.0)
