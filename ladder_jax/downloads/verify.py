"""Files checked against their published SHA-256."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pooch

from fitting.errors import InputError


@contextmanager
def writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        reason = e.strerror or e
        raise InputError(f"{target}: cannot be written: {reason}; set LADDER_CACHE") from None


def has(path: Path, sha256: str) -> bool:
    return path.is_file() and pooch.file_hash(str(path)) == sha256


def verified(path: Path, sha256: str, needs: str) -> Path:
    """The path itself, if the file is as published; `needs` says what `source` must hold."""
    if not path.is_file():
        raise InputError(f"{path}: not found; `source` must hold {needs}")
    try:
        same = has(path, sha256)
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror}; check its permissions") from None
    if not same:
        reject(str(path))
    return path


def reject(where: str) -> None:
    raise InputError(f"{where}: its SHA-256 is not the published one; fetch the file again")
