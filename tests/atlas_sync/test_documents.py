"""SPEC.md's names and the README's examples agree with the code."""

import ast
import re
from pathlib import Path

import pytest

import atlas_sync
import protocol

PROTOCOL = Path(protocol.__file__).parent
PACKAGE = Path(atlas_sync.__file__).parent
README = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
NAMES = (PROTOCOL / "SPEC.md").read_text(encoding="utf-8").split("\n## 12. ")[1]
EXAMPLES = re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", README, re.S)


def test_every_name_for_implementers_is_in_both_clients() -> None:
    rows = [line.split(" | ") for line in NAMES.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    for thing, python, typescript in rows:
        for cell, folder in ((python, PACKAGE), (typescript, PROTOCOL / "js" / "src")):
            found = re.match(r"`(\w+)` in `([\w.]+)`", cell)
            assert found is not None, thing
            name, file = found.groups()
            source = (folder / file).read_text(encoding="utf-8")
            keyword = rf"\b(class|def|const|function|interface|type) {name}\b"
            declared = (
                rf"{keyword}|^{name}\b.*=|^  (async )?{name}\("  # or a constant of Python, a method of TypeScript
            )
            assert re.search(declared, source, re.M), f"{name} is not declared in {file}"


@pytest.mark.parametrize(("name", "source"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_the_examples_of_the_readme_use_what_the_package_exports(name: str, source: str) -> None:
    imported = {
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module == "atlas_sync"
        for alias in node.names
    }
    assert imported <= set(atlas_sync.__all__)
    exec(compile(source, name, "exec"), {})


def test_the_readme_names_every_module_of_the_package() -> None:
    inside = README.split("\n## Inside\n")[1]
    modules = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"`(\w+\.py)`", inside)) == modules
