"""Checks that only this user can have written a node's folder and the secrets in it.

A user who can put a file there chooses the node's admin token and LiveKit secret. Files of root are trusted, because
root can read and write everything.
"""

import contextlib
import json
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import Preflight

#: Folders in RUN_DIR that the node trusts: it kills processes that `agents` names.
FOLDERS = ("logs", "valkey", "agents")
_OR_ELSE = "or set another RUN_DIR."


def load(path: Path) -> dict[str, str]:
    """Return the strings of a JSON object in a file that only this user can read or write.

    Raises:
        Preflight: another user could have read or written the file.
        OSError: it cannot be read; `FileNotFoundError` if it does not exist.
        ValueError: its content is wrong.
    """
    # lstat, and O_NOFOLLOW and O_NONBLOCK below: a link or a pipe is not our file.
    status = path.lstat()
    # guard: private-owner
    _check_owner(path, status)
    if not stat.S_ISREG(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no regular file"
        raise Preflight(f"{path} is {kind}: remove it, {_OR_ELSE}")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor) as file:
        status = os.fstat(descriptor)
        # guard: private-file-owner
        _check_owner(path, status)
        # guard: private-file-mode
        if status.st_mode & 0o077:
            raise Preflight(
                f"{path} can be read or written by others (mode {stat.S_IMODE(status.st_mode):04o}): remove it, and "
                f"new secrets are generated; or, if no other user has read or changed it, run: chmod 600 {path}"
            )
        texts = json.load(file)
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("it is not an object of strings")
    return texts


def load_or_empty(path: Path) -> dict[str, str]:
    """Return the same; an empty dict if the file is missing or cannot be read. Raises `Preflight`."""
    with contextlib.suppress(OSError, ValueError):
        return load(path)
    return {}


def check_folder(folder: Path) -> None:
    """Raise `Preflight` if another user could have put files into a node's folder, or could replace the folder.

    A sticky folder is accepted, and one that root has mounted, as Kubernetes does with mode 0777; files of other users
    in it are refused.
    """
    link = folder.lstat()
    if stat.S_ISLNK(link.st_mode):
        _check_owner(folder, link)
    folder = folder.resolve()
    status = folder.stat()
    _check_owner(folder, status)
    if _is_open(folder, status, 0o022):
        raise Preflight(
            f"RUN_DIR={folder} can be written by others (mode {stat.S_IMODE(status.st_mode):04o}): its files may be "
            f"theirs. Check them and run: chmod 700 {folder}, {_OR_ELSE}"
        )
    for parent in folder.parents:
        if _is_open(parent, parent.stat(), 0o002):
            raise Preflight(
                f"RUN_DIR={folder} can be replaced by others, who may write in {parent}. Run: chmod o-w {parent}, "
                f"{_OR_ELSE}"
            )
    enterable = status.st_mode & 0o011
    for path in _entries(folder):
        with contextlib.suppress(FileNotFoundError):  # a running node has removed it
            entry = path.lstat()
            _check_owner(path, entry)
            if enterable and entry.st_mode & 0o002 and not stat.S_ISLNK(entry.st_mode):
                raise Preflight(f"{path} can be written by others: remove it, {_OR_ELSE}")


def check_program(path: Path) -> None:
    """Raise `Preflight` if another user could have replaced a program that was built here."""
    for part in (path.parent, path):
        status = part.stat()
        if status.st_uid not in {0, os.geteuid()} or _is_open(part, status, 0o002):
            raise Preflight(
                f"{part} belongs to {_name(status.st_uid)}, or others may write in it: remove {path}, or set "
                "XDG_CACHE_HOME to a folder of your own"
            )


def _entries(folder: Path) -> Iterator[Path]:
    yield from folder.iterdir()
    for name in FOLDERS:
        with contextlib.suppress(FileNotFoundError):
            yield from (folder / name).iterdir()


def _is_open(folder: Path, status: os.stat_result, bits: int) -> bool:
    """Return whether others may rename the files in a folder."""
    mounted = status.st_uid == 0 and folder.is_mount()
    return bool(status.st_mode & bits) and not status.st_mode & stat.S_ISVTX and not mounted


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in {0, os.geteuid()}:
        owner, user = _name(status.st_uid), _name(os.geteuid())
        raise Preflight(
            f"{path} belongs to {owner}, and this is {user}: its content cannot be trusted. Do this as {owner}, remove "
            f"it, {_OR_ELSE}"
        )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
