"""Where tests are: a module of the server's core has a test module of its own, or this file says what tests it.

The test module of server/feed/hub.py is tests/feed/test_hub.py. The rest of the server (postgres, terminal, monitoring)
is tested through what it does, by the folders of tests/ that carry its name and by tests/integration.
"""

import ast
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
CORE: Final = ("declaration", "edge", "feed", "operations", "projection", "streams", "usage", "write")
TESTED_BY: Final = {
    "declaration/sql/audit.py": ["postgres/test_doctor.py"],
    "declaration/sql/streaming.py": ["postgres/test_streams.py", "integration/test_streams.py"],
    "declaration/sql/tracing.py": ["integration/test_trace.py"],
    "declaration/file/keys.py": ["declaration/test_parse.py"],
    "declaration/model.py": ["declaration/test_chat.py", "declaration/test_generated.py"],
    "declaration/file/problems.py": ["declaration/test_parse.py", "declaration/test_check.py"],
    "declaration/sql/publication.py": ["postgres/test_publication.py"],
    "declaration/sql/reading.py": ["declaration/test_generated.py"],
    "declaration/sql/recording.py": ["declaration/test_generated.py"],
    "declaration/sql/rights.py": ["declaration/test_generated.py"],
    "declaration/sql/pieces.py": ["declaration/test_generated.py"],
    "declaration/synced.py": ["feed/test_pages.py", "feed/test_snapshot.py"],
    "declaration/file/write.py": ["declaration/test_draft.py"],
    "declaration/sql/writing.py": ["declaration/test_generated.py"],
    "declaration/file/written.py": ["declaration/test_parse.py"],
    "edge/listen.py": ["integration/test_addresses.py"],
    "edge/registry.py": ["edge/test_connection.py", "integration/test_shutdown.py"],
    "edge/responses.py": ["integration/test_responses.py"],
    "edge/server.py": ["integration/test_shutdown.py"],
    "edge/usage.py": ["integration/test_usage.py"],
    "feed/encode.py": ["feed/test_pump.py", "integration/test_resume.py"],
    "feed/progress.py": ["integration/test_usage.py"],
    "feed/sweep.py": ["integration/test_doorbells.py"],
    "operations/adoptable.py": ["operations/test_adoption_plan.py", "postgres/test_adopt.py"],
    "operations/catalog.py": ["operations/test_adoption_plan.py", "operations/test_undo_plan.py"],
    "operations/swap.py": ["postgres/test_adopt.py", "postgres/test_undo.py"],
    "operations/trace_facts.py": ["operations/test_trace.py"],
    "operations/trace_outlook.py": ["operations/test_trace.py"],
    "operations/trace_words.py": ["operations/test_trace.py"],
    "write/isolation.py": ["attacks/test_poison.py"],
    "write/outage.py": ["integration/test_push_faults.py"],
    "write/push.py": ["write/test_rules.py", "write/test_batcher.py"],
    "write/intake.py": ["integration/test_push_rejected.py", "integration/test_push_malformed.py"],
}
"""Modules without a test module of their own, and what tests them."""
INTERFACES: Final = {"streams/ports.py", "usage/ports.py", "write/ports.py"}
"""Types only: mypy checks them."""

MODULES: Final = sorted(
    path.relative_to(ROOT / "server").as_posix()
    for package in CORE
    for path in (ROOT / "server" / package).rglob("*.py")
    if path.name != "__init__.py"
)
MIRRORS: Final = sorted(
    path
    for package in CORE
    for path in (ROOT / "tests" / package).glob("test_*.py")
    if path.stem != "test_chat"  # of a folder without modules
)


def mirror(module: str) -> Path:
    path = Path(module)
    return ROOT / "tests" / path.parts[0] / f"test_{path.name}"


def imported(path: Path) -> set[str]:
    """The modules that a file imports, and the names that it imports from packages."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("module", [module for module in MODULES if module not in INTERFACES])
def test_a_module_has_a_test_module_of_its_own_or_the_table_names_what_tests_it(module: str) -> None:
    assert mirror(module).exists() != (module in TESTED_BY), "either the one or the other"


def test_the_table_names_only_what_exists() -> None:
    assert TESTED_BY.keys() | INTERFACES <= set(MODULES)
    assert all((ROOT / "tests" / name).exists() for names in TESTED_BY.values() for name in names)


@pytest.mark.parametrize("test", MIRRORS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_test_module_tests_the_module_whose_name_it_carries(test: Path) -> None:
    modules = {f"server.{module.removesuffix('.py').replace('/', '.')}" for module in MODULES if mirror(module) == test}
    assert modules & imported(test)


def test_the_session_has_a_test_module_of_its_own() -> None:
    assert "server.session" in imported(ROOT / "tests" / "test_session.py")
