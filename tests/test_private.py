"""Files that others may have written are not trusted, and others cannot read ours."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from server import private
from server.demo import run as demo
from server.demo.embedded import EmbeddedPostgres, EmbeddedPostgresError
from server.exceptions import ConfigError
from server.terminal.watch import Memory
from tests.support.cluster import temporary_folder
from tests.support.serving import token
from tests.support.waiting import LIMIT

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to another account")
STRANGER = 54_321
"""An account that is neither ours nor that of Postgres."""


@pytest.fixture
def shared() -> Iterator[Path]:
    """A shared folder, such as /tmp."""
    with temporary_folder() as folder:
        folder.chmod(0o1777)
        yield folder


def strangers(path: Path) -> None:
    path.mkdir()
    (path / "jwt-secret").write_text("known to the stranger " * 3)
    for each in (path, path / "jwt-secret"):
        os.chown(each, STRANGER, STRANGER)


def link_of_a_stranger(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    path.symlink_to(path.parent / "elsewhere")
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)


def link_to_a_stranger(path: Path) -> None:
    strangers(path.parent / "elsewhere")
    path.symlink_to(path.parent / "elsewhere")


def open_to_all(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def open_to_a_group(path: Path) -> None:
    path.mkdir()
    path.chmod(0o775)


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


TRAPS: dict[str, Callable[[Path], None]] = {
    "a folder open to all": open_to_all,
    "a folder open to a group": open_to_a_group,
    "a file": Path.touch,
    "a link that leads nowhere": dangling,
}
if os.geteuid() == 0:
    TRAPS |= {
        "a stranger's folder": strangers,
        "a stranger's link": link_of_a_stranger,
        "a link to a stranger's folder": link_to_a_stranger,
    }
traps = pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS)


@traps
def test_a_folder_that_others_can_write_to_is_refused_with_advice(shared: Path, trap: Callable[[Path], None]) -> None:
    trap(shared / "ours")
    with pytest.raises(ConfigError, match=r"choose another folder\.$") as error:
        private.folder(shared / "ours")
    assert str(shared / "ours") in str(error.value)


def test_a_new_folder_and_its_files_are_private_whatever_the_umask(shared: Path) -> None:
    before = os.umask(0)
    try:
        made = private.folder(shared / "new" / "ours")
        with open(made / "secret", "x", opener=private.opener) as file:
            file.write("secret")
        os.umask(0o277)
        assert private.folder(shared / "narrow", 0o711).stat().st_mode & 0o777 == 0o711
    finally:
        os.umask(before)
    assert made.stat().st_mode & 0o777 == 0o700
    assert (made / "secret").stat().st_mode & 0o777 == 0o600
    assert private.folder(made) == made


def test_our_existing_folder_keeps_its_mode_and_may_be_a_link(shared: Path) -> None:
    (shared / "ours").mkdir(mode=0o755)
    (shared / "link").symlink_to(shared / "ours")
    private.folder(shared / "link")
    assert (shared / "ours").stat().st_mode & 0o777 == 0o755


def test_no_file_is_written_through_a_link(shared: Path) -> None:
    (shared / "link").symlink_to(shared / "elsewhere")
    with pytest.raises(OSError), open(shared / "link", "wb", opener=private.opener):
        pass
    assert not (shared / "elsewhere").exists()


# ---- Who keeps something --------------------------------------------------------------------------------------------


def options(data: Path | None) -> demo.Options:
    return demo.Options(data=data, users=2, port=0, speed=1.0, replay=False, json=True)


@only_root
def test_the_demo_of_root_uses_no_secrets_of_another_account(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shared / "home").mkdir(mode=0o700)
    monkeypatch.chdir(shared / "home")
    monkeypatch.setattr("tempfile.tempdir", str(shared))
    elsewhere = demo._fallback()
    assert elsewhere.parent == shared
    strangers(elsewhere)
    with pytest.raises(ConfigError, match=rf"^{elsewhere} belongs to another account"):
        demo.run(options(None))
    assert {path.name for path in elsewhere.iterdir()} == {"jwt-secret"}


@traps
def test_the_demo_uses_no_secrets_that_another_account_may_have_written(
    shared: Path, trap: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    trap(shared / ".atlas")
    monkeypatch.chdir(shared)
    for data in (None, shared / ".atlas"):
        with pytest.raises(ConfigError, match="choose another folder"):
            demo.run(options(data))


@only_root
def test_no_postgres_starts_in_the_folder_of_another_account(shared: Path) -> None:
    strangers(shared / "data")
    with pytest.raises(EmbeddedPostgresError, match="belongs to another account"):
        EmbeddedPostgres(shared / "data").start()
    assert {path.name for path in (shared / "data").iterdir()} == {"jwt-secret"}


@traps
@pytest.mark.parametrize("command", ["watch", "chat"])
def test_a_device_in_a_terminal_stores_nothing_where_others_may_read_it(
    shared: Path, trap: Callable[[Path], None], command: str
) -> None:
    trap(shared / ".atlas")
    done = subprocess.run(
        [sys.executable, "-m", "server", command],
        cwd=shared,
        env={**os.environ, "ATLAS_TOKEN": token(uuid4())},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("atlas-sync: ")
    assert done.stderr.endswith("choose another folder.\n")
    assert done.stderr.count("\n") == 1


def test_the_files_of_watch_are_private(shared: Path) -> None:
    path = shared / "new" / "watch.json"
    memory = Memory.load(path)
    memory.save(b"cursor")
    (shared / "new" / "watch.json.new").write_text("of a start that was killed")
    (shared / "new" / "watch.json.new").chmod(0o644)
    memory.save(b"later")
    assert Memory.load(path).cursor == b"later"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
