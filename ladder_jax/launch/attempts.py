"""The log of the processes that worked on a run (`attempts.jsonl`), and whether one does now.

The process that works on a run appends a row when it begins, and keeps the file locked.  Since
another machine may not see the lock, it also updates the file's modification time.  Its launcher
appends how the attempt ended.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ladder_jax.runtime import locks, preemption

FILE = "attempts.jsonl"
_BEAT_S = 15.0  # between updates of the file's time
_STALE_S = 120.0  # after this time without an update, the other machine's process is dead


@contextlib.contextmanager
def record(directory: Path) -> Iterator[None]:
    """Logs that this process works on the run, and holds the lock until the end of the block.

    Raises:
        InputError: another process works on it, or the directory cannot be written.
    """
    path, over = directory / FILE, threading.Event()
    with locks.held(path, "another process is at work on it", locks.PATIENCE_S):
        _append(directory, {"began": _now(), "node": this_node(), "host": socket.gethostname(),
                            "pid": os.getpid()})  # fmt: skip
        threading.Thread(target=_beat, args=(path, over), daemon=True).start()
        try:
            yield
        finally:
            over.set()


def end(directory: Path, code: int | None, reason: str) -> None:
    """Logs how the last attempt ended; see `executor.Ended`."""
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        _append(directory, {"ended": _now(), "code": code, "reason": reason})


def read(directory: Path) -> list[dict[str, Any]]:
    """All rows, oldest first; a line cut by a kill is left out."""
    path, rows = directory / FILE, []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def is_alive(directory: Path, rows: list[dict[str, Any]]) -> bool:
    """Whether a process works on the run; `rows` are those of `read`."""
    if locks.is_held(directory / FILE) or locks.is_held(directory / locks.FILE):
        return True
    if not rows or "ended" in rows[-1] or rows[-1].get("host") == socket.gethostname():
        return False
    return time.time() - (directory / FILE).stat().st_mtime < _STALE_S


def failure(rows: list[dict[str, Any]]) -> str | None:
    """Why the last attempt failed; None if it did not."""
    last = rows[-1] if rows else {}
    if last.get("code") in (None, 0, preemption.EXIT_CODE):
        return None
    return str(last.get("reason") or f"exit status {last['code']}")


def this_node() -> str:
    """The name of this machine, or the name that the launcher has given to this node."""
    return os.environ.get("LADDER_NODE") or socket.gethostname()


def _append(directory: Path, row: dict[str, Any]) -> None:
    with open(directory / FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _beat(path: Path, over: threading.Event) -> None:
    while not over.wait(_BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
