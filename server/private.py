"""Private folders and files: other accounts can neither read them nor have placed anything in them."""

import os
import stat
from collections.abc import Collection
from pathlib import Path

from server.exceptions import ConfigError


def folder(path: Path, mode: int = 0o700, trusted: Collection[int] = ()) -> Path:
    """Create the folder with `mode` if it does not exist; an existing one keeps its mode. It may belong to root, to our
    account, and to the accounts `trusted` (user ids).

    Raises ConfigError if it belongs to another account or others may write in it: in a shared folder such as /tmp, any
    account can create it before us and place its own secrets in it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode)
        except FileExistsError:
            pass
        else:
            path.chmod(mode)  # whatever the umask
        link, found = path.lstat(), path.stat()
    except OSError as error:
        raise ConfigError(f"{path} cannot be used ({error.strerror}): choose another folder.") from None
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{path} is not a folder: choose another folder.")
    if not {link.st_uid, found.st_uid} <= {0, os.geteuid(), *trusted}:
        raise ConfigError(
            f"{path} belongs to another account, which can have put anything into it: delete it, or choose another "
            "folder."
        )
    if found.st_mode & 0o022:
        raise ConfigError(
            f"Other accounts may write in {path}: run chmod go-w on it, if all that is in it is yours, or choose "
            "another folder."
        )
    return path


def opener(path: str, flags: int) -> int:
    """An `opener` for `open`: only our account can read a new file, and a symbolic link is not followed."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
