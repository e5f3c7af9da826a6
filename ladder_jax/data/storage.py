"""Files of a build, on a disk or in a bucket: written atomically, checked by SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from fitting.errors import InputError, first_line
from ladder_jax.runtime import locks

_PARTIAL = ".partial-"
_PATIENCE_S = 20.0  # for a bucket to answer at all
_BLOCK = 1 << 20


def is_remote(root: epath.Path) -> bool:
    """Whether the path is in a bucket."""
    return "://" in str(root)


@contextlib.contextmanager
def claim(root: epath.Path) -> Iterator[None]:
    """Makes the directory, checks that it can be written, and keeps a second build out of it.

    Buckets have no lock: two builds there write the same objects twice.

    Raises:
        InputError: it cannot be written, a bucket does not answer within 20 seconds, or another
            build holds the directory.
    """
    _within_patience(root)
    if is_remote(root):
        yield
        return
    with locks.held(Path(root) / locks.FILE, "another build is writing there"):
        for left in Path(root).glob(f"{_PARTIAL}*"):  # by a build that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield


def _within_patience(root: epath.Path) -> None:
    """Writes a file in a thread of its own, as a client may go on trying for minutes."""
    failed: list[BaseException] = []

    def probe() -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            (root / ".writable").write_text("")
            (root / ".writable").unlink()
        except BaseException as e:  # clients of buckets have their own classes
            failed.append(e)

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    if thread.is_alive():
        raise InputError(
            f"{root}: no answer within {_PATIENCE_S:.0f} s: check the network and the credentials "
            "(gcloud auth application-default login)"
        )
    if not failed:
        return
    if isinstance(failed[0], ImportError):
        raise InputError(f"{root}: buckets need a package: pip install 'ladder_jax[gcs]'")
    raise InputError(f"{root}: cannot be written: {first_line(failed[0])}") from None


@contextlib.contextmanager
def scratch(root: epath.Path) -> Iterator[Path]:
    """A temporary local directory; on the disk of `root` if that is local."""
    where = None if is_remote(root) else str(root)
    with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=where) as directory:
        yield Path(directory)


def publish(local: Path, final: epath.Path) -> dict[str, Any]:
    """Moves a finished file of `scratch` to its place.

    Returns:
        Its `bytes` and `sha256`.
    """
    seen = {"bytes": local.stat().st_size, "sha256": checksum(epath.Path(local))}
    if is_remote(final):  # an object is there once it is whole
        with open(local, "rb") as source, final.open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)  # pyright: ignore[reportArgumentType]
    else:
        with open(local, "rb") as file:
            os.fsync(file.fileno())
        os.replace(local, final)
    return seen


def checksum(path: epath.Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)  # pyright: ignore[reportArgumentType]
    return digest.hexdigest()


def is_whole(path: epath.Path, seen: dict[str, Any]) -> bool:
    """Whether a file is what `publish` said it was."""
    try:
        return path.stat().length == seen["bytes"] and checksum(path) == seen["sha256"]
    except FileNotFoundError:
        return False


def write_json(path: epath.Path, tree: Any, root: epath.Path) -> None:
    """Writes JSON below `root`, whole or not at all; a file that says the same is left alone."""
    text = json.dumps(tree, indent=1) + "\n"
    if path.exists() and path.read_text() == text:
        return
    with scratch(root) as directory:
        (directory / path.name).write_text(text, encoding="utf-8")
        publish(directory / path.name, path)


def read_json(path: epath.Path) -> Any:
    """Reads JSON; None if there is no such file.

    Raises:
        InputError: it is there and holds no JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise InputError(f"{path}: is damaged: remove it") from None
