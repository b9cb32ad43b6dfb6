"""What the modules of the client may know."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import atlas_sync
from atlas_sync import codec as codec_module
from atlas_sync import comeback as comeback_module
from atlas_sync import floors as floors_module
from atlas_sync import mutation as mutation_module
from atlas_sync import outbox as outbox_module
from atlas_sync import replica as replica_module
from atlas_sync import rows as rows_module
from atlas_sync import schema as schema_module
from atlas_sync import session as session_module
from atlas_sync import stream_group as stream_group_module
from atlas_sync import stream_text as stream_text_module
from atlas_sync import streams as streams_module
from atlas_sync import view as view_module
from atlas_sync import wire as wire_module

PACKAGE = Path(atlas_sync.__file__).parent


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return plain | {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_the_client_imports_what_its_own_distribution_depends_on_and_nothing_else() -> None:
    names = {name.split(".")[0] for path in PACKAGE.rglob("*.py") for name in imports(path)}
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = project["optional-dependencies"]["streams"]
    dependencies = {dependency.split(">=")[0] for dependency in [*project["dependencies"], *extra]}
    assert names - sys.stdlib_module_names - {"atlas_sync"} == dependencies


def test_a_device_needs_no_httpx() -> None:
    known = [path.name for path in PACKAGE.glob("*.py") if "httpx" in imports(path)]
    assert known == ["stream_http.py"]
    loaded = "import atlas_sync, sys; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0


def test_both_distributions_ask_for_the_same_versions_of_what_the_client_needs() -> None:
    root = Path(__file__).parents[2]
    small, whole = (
        tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for folder in (PACKAGE.parent, root)
    )
    assert {*small["dependencies"], *small["optional-dependencies"]["streams"]} <= set(whole["dependencies"])
    assert (small["version"], small["requires-python"]) == (whole["version"], whole["requires-python"])


def test_the_package_exports_what_it_lists() -> None:
    assert atlas_sync.__all__ == sorted(atlas_sync.__all__)
    assert all(hasattr(atlas_sync, name) for name in atlas_sync.__all__)
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.parametrize(
    ("module", "others", "encodes"),
    [
        (rows_module, set(), False),
        (schema_module, {"checks", "rows"}, False),
        (floors_module, {"rows", "schema"}, False),
        (replica_module, {"floors", "mutation", "outbox", "rows", "schema", "session", "streams"}, False),
        (mutation_module, {"rows", "schema"}, False),
        (codec_module, {"checks", "mutation"}, True),
        (wire_module, {"checks", "codec", "mutation", "rows", "schema"}, False),
        (session_module, {"checks", "codec", "mutation", "rows", "schema", "streams", "wire"}, False),
        (comeback_module, {"session"}, False),
        (outbox_module, {"codec", "comeback", "mutation", "rows", "schema", "session", "wire"}, False),
        (stream_text_module, set(), False),
        (stream_group_module, {"stream_text"}, False),
        (streams_module, {"rows"}, False),
        (view_module, {"mutation", "outbox", "rows", "schema", "streams"}, False),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_client_awaits_nothing_reads_no_clock_and_knows_its_encodings_in_one_place(
    module: ModuleType, others: set[str], encodes: bool
) -> None:
    imported = imports(Path(str(module.__file__)))
    assert not imported & {"asyncio", "time", "socket", "random", "datetime", "msgspec", "sqlite3"}
    own = {name for name in imported if name.startswith(("atlas_sync", "protocol"))}
    assert own == {f"atlas_sync.{name}" for name in others}
    assert imported & {"msgpack", "json"} == ({"msgpack", "json"} if encodes else set())
