"""What only this user may have written: the folder of a node, and the secrets in it.

Whoever can put a file there chooses the node's admin token and LiveKit secret. Root's are trusted: nothing can be kept
from root.
"""

import contextlib
import json
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import Preflight

#: Folders in RUN_DIR that the node trusts: what is in `agents` it may kill.
FOLDERS = ("logs", "valkey", "agents")
_ELSE = "or set another RUN_DIR."


def load(path: Path) -> dict[str, str]:
    """Return the texts of a JSON object that is this user's alone.

    Raises:
        Preflight: somebody else could have written or read it.
        OSError: it cannot be read; `FileNotFoundError` when there is none.
        ValueError: it is not what it should be.
    """
    # Neither followed nor waited for: a link or a pipe in its place is no file of ours.
    found = path.lstat()
    # guard: private-owner
    _check_owner(path, found)
    if not stat.S_ISREG(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no file"
        raise Preflight(f"{path} is {kind}: remove it, {_ELSE}")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor) as file:
        found = os.fstat(descriptor)
        # guard: private-file-owner
        _check_owner(path, found)
        # guard: private-file-mode
        if found.st_mode & 0o077:
            raise Preflight(
                f"{path} can be read or written by others (mode {stat.S_IMODE(found.st_mode):04o}): remove it, and new "
                f"secrets are made; or, if nobody has used that, run: chmod 600 {path}"
            )
        texts = json.load(file)
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("it is not an object of texts")
    return texts


def kept(path: Path) -> dict[str, str]:
    """Return the same; nothing where there is nothing, or nothing that can be read. Raises `Preflight`."""
    with contextlib.suppress(OSError, ValueError):
        return load(path)
    return {}


def check_folder(folder: Path) -> None:
    """Raise `Preflight` when somebody else could have put something into a node's folder, or could replace it.

    A sticky folder will do, and so will one that root has mounted, as Kubernetes does with a mode of 0777: what others
    have put there is refused.
    """
    given = folder.lstat()
    if stat.S_ISLNK(given.st_mode):
        _check_owner(folder, given)
    folder = folder.resolve()
    found = folder.stat()
    _check_owner(folder, found)
    if _is_open(folder, found, 0o022):
        raise Preflight(
            f"RUN_DIR={folder} can be written by others (mode {stat.S_IMODE(found.st_mode):04o}): what is in it may be "
            f"theirs. Look through it and run: chmod 700 {folder}, {_ELSE}"
        )
    for parent in folder.parents:
        if _is_open(parent, parent.stat(), 0o002):
            raise Preflight(
                f"RUN_DIR={folder} can be replaced by others, who may write in {parent}. Run: chmod o-w {parent}, "
                f"{_ELSE}"
            )
    enterable = found.st_mode & 0o011
    for path in _entries(folder):
        with contextlib.suppress(FileNotFoundError):  # a node that runs has removed it
            entry = path.lstat()
            _check_owner(path, entry)
            if enterable and entry.st_mode & 0o002 and not stat.S_ISLNK(entry.st_mode):
                raise Preflight(f"{path} can be written by others: remove it, {_ELSE}")


def check_program(path: Path) -> None:
    """Raise `Preflight` when a program that was built here could be somebody else's by now."""
    for part in (path.parent, path):
        found = part.stat()
        if found.st_uid not in {0, os.geteuid()} or _is_open(part, found, 0o002):
            raise Preflight(
                f"{part} belongs to {_name(found.st_uid)}, or others may write in it: remove {path}, or set "
                "XDG_CACHE_HOME to a folder of your own"
            )


def _entries(folder: Path) -> Iterator[Path]:
    yield from folder.iterdir()
    for name in FOLDERS:
        with contextlib.suppress(FileNotFoundError):
            yield from (folder / name).iterdir()


def _is_open(folder: Path, found: os.stat_result, bits: int) -> bool:
    """Return whether others may rename what is in a folder."""
    mounted = found.st_uid == 0 and folder.is_mount()
    return bool(found.st_mode & bits) and not found.st_mode & stat.S_ISVTX and not mounted


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in {0, os.geteuid()}:
        owner, me = _name(found.st_uid), _name(os.geteuid())
        raise Preflight(
            f"{path} belongs to {owner}, and this is {me}: what is in it may be anybody's. Do this as {owner}, remove "
            f"it, {_ELSE}"
        )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
