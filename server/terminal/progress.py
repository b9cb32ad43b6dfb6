"""The steps of a migration in a terminal: a line each, with a bar for those that take long."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from server.operations.catalog import Step
from server.terminal.device import printable


class Shown:
    """Use it as a context; the terminal is then its own."""

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
