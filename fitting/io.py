"""Writes files completely or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from fitting.errors import InputError


def write_atomically(path: str | Path, write_to: Callable[[Path], object]) -> None:
    """Calls `write_to(temporary file)` and moves the result to `path` only if it succeeds.

    A symbolic link is followed.

    Raises:
        InputError: the path cannot be written, or is a directory or device.
    """
    if not str(path):
        raise InputError("the output path is empty: name a file")
    final = Path(os.path.realpath(path))
    if final.exists() and not final.is_file():
        raise InputError(f"{path}: cannot be written: it is no regular file")
    temporary = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(final.suffix, f".{final.stem}-", final.parent)
        os.close(handle)
        temporary = Path(name)
        write_to(temporary)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp allows access by the owner only
        os.replace(temporary, final)
    except OSError as e:
        raise InputError(f"{path}: cannot be written: {e.strerror or e}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_json(path: Path) -> Any:
    """Parses a JSON file that this program wrote.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: cannot be read ({e}); remove it to have it made again") from None


def write_csv(frame: pd.DataFrame, path: str | Path) -> None:
    """Writes a frame as CSV, completely or not at all; floats keep every digit.

    Raises:
        InputError: see `write_atomically`.
    """
    write_atomically(path, lambda p: frame.to_csv(p, index=False, lineterminator="\n"))
