"""Saved results: a dated file for each, with its arguments and the machine."""

import re
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import msgspec

from benchmarks.machine import BenchmarkError

FOLDER: Final = Path(__file__).parent / "results"
MACHINE: Final = ("cores", "cpu", "memory_gib", "kernel", "python", "postgres", "flush_ms", "date")
"""What must be known of the machine."""

Figures = dict[str, float]
"""The results of a run. Names end with the unit. Figures that begin with «lost» must be 0."""


class Span(NamedTuple):
    """A figure over several runs."""

    low: float
    median: float
    high: float


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of one or several runs of a benchmark. `figures` are the medians of `runs`, key by key."""

    benchmark: str
    arguments: dict[str, Any]
    machine: dict[str, Any]
    figures: Figures
    runs: list[Figures]

    @property
    def date(self) -> str:
        """ISO 8601 in UTC: the newest is the greatest."""
        return str(self.machine["date"])

    @property
    def lost(self) -> float:
        return sum(abs(value) for key, value in self.figures.items() if key.startswith("lost"))

    def span(self, key: str) -> Span:
        """Raises BenchmarkError if the figure was not measured."""
        try:
            values = [run[key] for run in self.runs]
            return Span(min(values), self.figures[key], max(values))
        except KeyError:
            raise BenchmarkError(
                f"The result of {self.benchmark} of {self.date} lacks {key}: measure it again, or remove it."
            ) from None

    def figure(self, key: str) -> float:
        """Return the median. Raises BenchmarkError if the figure was not measured."""
        return self.span(key).median

    def command(self) -> str:
        """Return the command that repeats it."""
        given = {**self.arguments, "runs": len(self.runs)} if len(self.runs) > 1 else self.arguments
        options = [_option(name, value) for name, value in given.items() if value is not None and value is not False]
        return " ".join(["python -m benchmarks", self.benchmark, *options])

    def save(self, folder: Path, differing: Iterable[str]) -> Path:
        """Write the result to `folder` and return its path. The file is named after the day, the benchmark and the
        `differing` arguments (those that are not the defaults), and replaces an earlier one with the same name."""
        words = [self.date[:10], self.benchmark]
        for name in differing:
            value = self.arguments[name]
            words += [name] if value is True else [name, _plain(value)]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (re.sub(r"[^\w.-]+", "-", "-".join(words)) + ".json")
        path.write_text(self._written())
        return path

    def _written(self) -> str:
        """Readable JSON: indented, but one line per run."""
        fields = msgspec.structs.asdict(self)
        runs = ",\n  ".join(msgspec.json.encode(run).decode() for run in fields.pop("runs"))
        head = msgspec.json.format(msgspec.json.encode(fields), indent=1).decode().removesuffix("\n}")
        return f'{head},\n "runs": [\n  {runs}\n ]\n}}\n'


def summary(benchmark: str, arguments: dict[str, Any], machine: dict[str, Any], runs: list[Figures]) -> Result:
    rounded = [{key: _rounded(value) for key, value in run.items()} for run in runs]
    middle = {key: _middle(key, [run[key] for run in rounded]) for key in rounded[0]}
    return Result(benchmark, arguments, machine, middle, rounded)


def read(folder: Path, *, smoke: bool = False) -> list[Result]:
    """Return the newest result of each benchmark with each arguments, oldest first; smoke runs only if `smoke`.

    Raises BenchmarkError with the file's name if one cannot be read."""
    newest: dict[tuple[str, bytes], Result] = {}
    for result in sorted(map(_load, folder.glob("*.json")), key=lambda result: result.date):
        if result.arguments.get("smoke") and not smoke:
            continue
        key = result.benchmark, msgspec.json.encode(result.arguments, order="sorted")
        newest.pop(key, None)
        newest[key] = result
    return list(newest.values())


def _load(path: Path) -> Result:
    try:
        result = msgspec.json.decode(path.read_bytes(), type=Result)
    except (OSError, msgspec.DecodeError) as error:
        raise BenchmarkError(f"{path.name} is not a result ({error}): mend or remove it.") from error
    missing = [key for key in MACHINE if key not in result.machine]
    if missing or not result.runs:
        raise BenchmarkError(
            f"{path.name} is not a result (without {', '.join(missing) or 'runs'}): mend or remove it."
        )
    return result


def _middle(key: str, values: list[float]) -> float:
    # A loss in one run must not disappear in the median.
    value = max(values, key=abs) if key.startswith("lost") else median(values)
    return _rounded(value)


def _rounded(value: float) -> float:
    """Round to six digits, which is more than any machine repeats."""
    return value if float(value).is_integer() else float(f"{value:.6g}")


def say(value: float) -> str:
    """Format a figure with three digits, or with all before the point."""
    said = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return said.replace("-", "−") if value < 0 else said


def _plain(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, int | float) else str(value).lower()


def _option(name: str, value: Any) -> str:
    option = "--" + name.replace("_", "-")
    return option if value is True else f"{option} {_plain(value)}"
