"""Rules that a machine can check: imports point down, types are strict, the style is one style, the map is complete."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "server" / "ARCHITECTURE.md").read_text()
MAPPED = {
    "server": "**/*.py",
    "protocol": "*.py",
    "protocol/python/atlas_sync": "*.py",
    "protocol/js/src": "**/*.ts",
}
"""Folders whose modules the map lists."""
NOT_MAPPED = re.compile(r"__init__\.py$|^server/demo/page/|^server/demo/static/")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["lint-imports", "--no-cache"], id="imports point down"),
        pytest.param([sys.executable, "-m", "mypy"], id="types are strict"),
        pytest.param([sys.executable, "-m", "ruff", "check", "--no-cache"], id="lint is clean"),
        pytest.param([sys.executable, "-m", "ruff", "format", "--check", "--no-cache"], id="format is clean"),
    ],
)
def test_the_house_is_in_order(command: list[str]) -> None:
    if command[0] == "lint-imports":
        command = [str(Path(sys.executable).with_name("lint-imports")), *command[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_promise_names_tests_that_exist() -> None:
    spec = (ROOT / "protocol" / "SPEC.md").read_text()
    promises = [line for line in spec.splitlines() if line.startswith("| P")]
    assert len(promises) >= 9
    for promise in promises:
        named = [word.strip("`,") for word in promise.split() if "tests/" in word]
        assert named, promise
        for name in named:
            assert (ROOT / name).exists(), name


# ---- server/ARCHITECTURE.md ----------------------------------------------------------------------------------------


def located(path: str) -> Path:
    """A path of the page: relative to server/, or else to the root."""
    return next((base / path for base in (ROOT / "server", ROOT) if (base / path).exists()), ROOT / "server" / path)


def defines(path: Path, name: str) -> bool:
    """Whether the file defines this function, class, method or constant."""
    text = path.read_text()
    last = re.escape(name.rpartition(".")[2])
    match path.suffix:
        case ".py":
            return name in _names(ast.parse(text).body)
        case ".sql":
            return re.search(rf"\b(FUNCTION|TABLE|VIEW|TYPE) {re.escape(name)}\b", text) is not None
        case ".ts":
            return (
                re.search(rf"\b(function|class|const|interface|type) {last}\b|^  (async )?{last}\(", text, re.M)
                is not None
            )
    return False


def _names(body: list[ast.stmt], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for each in body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(prefix + each.name)
        if isinstance(each, ast.ClassDef):
            found |= _names(each.body, f"{prefix}{each.name}.")
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            found.add(prefix + each.target.id)
    return found


def test_the_architecture_page_names_what_there_is() -> None:
    """`path` and `path: name`, in the text and in the diagrams."""
    # The first cell of a row of the map is relative to the folder in the heading.
    text = re.sub(r"^\| `[^`:]+` \|", "", PAGE, flags=re.MULTILINE)
    named = re.findall(r"([\w./-]+(?:\.(?:py|sql|ts|md|yml|json)\b|/(?=`)))(?:: ([\w.]+))?", text)
    assert len(named) > 50
    wrong = [path for path, _ in named if not (located(path).exists() or (ROOT / "server" / path).resolve().exists())]
    wrong += [
        f"{path}: {name}"
        for path, name in named
        if name and located(path).exists() and not defines(located(path), name)
    ]
    assert not wrong, "server/ARCHITECTURE.md names what is not there:\n" + "\n".join(sorted(set(wrong)))


def test_the_map_names_every_module_and_no_other() -> None:
    mapped = set()
    for section in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        folder = re.match(r"`([\w./-]+)/`", section)
        assert folder is not None, section
        mapped |= {f"{folder[1]}/{module}" for module in re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)}
    there = {
        name
        for folder, pattern in MAPPED.items()
        for path in (ROOT / folder).glob(pattern)
        if not NOT_MAPPED.search(name := path.relative_to(ROOT).as_posix())
    }
    missing, gone = sorted(there - mapped), sorted(mapped - there)
    assert not missing + gone, "\n".join(["server/ARCHITECTURE.md lacks:", *missing, "and lists in vain:", *gone])


def test_the_readme_of_the_tests_names_every_folder_and_what_there_is_in_support() -> None:
    text = (ROOT / "tests" / "README.md").read_text()
    folders = {path.name for path in (ROOT / "tests").iterdir() if (path / "__init__.py").exists()}
    assert not {name for name in folders if f"`{name}/`" not in text}
    support = text.partition("## Support")[2].partition("##")[0]
    for module, name in re.findall(r"`(\w+\.py)(?:: (\w+))?`", support):
        path = ROOT / "tests" / "support" / module
        assert path.exists(), module
        assert not name or defines(path, name), f"{module}: {name}"
