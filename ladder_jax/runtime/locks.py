"""A lock file, so that only one process works in a directory at a time."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fitting.errors import InputError

FILE = ".lock"
PATIENCE_S = 15.0  # a killed process's lock is free at once; a live one keeps it


@contextlib.contextmanager
def held(path: Path, taken: str, patience: float = 0.0) -> Iterator[None]:
    """Makes the file and its directory, and keeps the file locked until the end of the block.

    Args:
        path: of the file; its content stays.
        taken: the message, after the directory's name, if another process has the lock.
        patience: seconds to wait for that process.

    Raises:
        InputError: the lock stays taken, or the file cannot be written or locked.
    """
    directory = path.parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115
    except OSError as e:
        raise InputError(f"{directory}: cannot be written: {e.strerror}") from None
    with file:
        deadline = time.monotonic() + patience
        try:
            while not _try(file, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise InputError(f"{directory}: {taken}")
                time.sleep(0.2)
        except OSError as e:
            why = f"its file system cannot lock files: mount it with flock ({e.strerror})"
            raise InputError(f"{directory}: {why}") from None
        yield


def is_held(path: Path) -> bool:
    """Whether a process on a machine that shares locks with this one holds the file."""
    try:
        with open(path, encoding="utf-8") as file:
            return not _try(file, fcntl.LOCK_SH)
    except OSError:
        return False


def _try(file: Any, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
