"""Checkpoints through Orbax: asynchronous, committed whole, verified when they are read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from fitting.table import InputError

logging.getLogger("absl").setLevel(logging.ERROR)


class Corrupt(InputError):
    """A checkpoint whose content is not what was saved."""


class Checkpoints:
    """The checkpoints of one run.

    Each holds `state` (parameters, optimiser, step) and `meta` (configuration, data position, and
    a digest of the state).  All are kept: tasks are scored at every one of them.
    """

    def __init__(self, directory: Path) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None, create=True, enable_async_checkpointing=True
        )
        self.directory = directory
        with self._writing():
            self._manager = ocp.CheckpointManager(directory.resolve(), options=options)

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Starts saving; returns once the state may be donated.

        Raises:
            InputError: the disk does not take it.
        """
        if step in self.steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            meta=ocp.args.JsonSave(meta | {"digest": digest(state)}),
        )
        with self._writing():
            self._manager.save(step, args=items)

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        return sorted(self._manager.all_steps())

    def restore(self, abstract_state: Any, step: int) -> tuple[Any, dict[str, Any]]:
        """State and meta of a step.

        Args:
            abstract_state: `jax.ShapeDtypeStruct`s with shardings, in the state's structure.
            step: a committed step.

        Raises:
            Corrupt: its files are damaged.
            InputError: they cannot be read just now.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), meta=ocp.args.JsonRestore()
        )
        name = f"{self.directory}: checkpoint {step}"
        try:
            with _quiet_threads():
                restored = self._manager.restore(step, args=items)
                state = jax.block_until_ready(restored["state"])
        except OSError as e:
            if e.errno not in (None, errno.ENOENT):
                raise InputError(f"{name} cannot be read: {e.strerror}; try again") from None
            raise Corrupt(f"{name} is corrupt (a file is missing)") from None
        except MemoryError:
            raise
        except Exception as e:  # Orbax says bare Exception of damage; nothing is lost by it
            reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:120]
            raise Corrupt(f"{name} is corrupt ({reason})") from None
        meta = restored["meta"]
        if not isinstance(meta, dict) or meta.pop("digest", None) != digest(state):
            raise Corrupt(f"{name} is corrupt (its content is not what was saved)")
        return state, meta

    def restore_newest(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
        """The newest step that is whole; corrupt ones are named and set aside.  None if none is."""
        for step in reversed(self.steps()):
            try:
                return self.restore(abstract_state, step)
            except Corrupt as e:
                self.set_aside(step)
                older = self.steps()
                then = f"going back to step {older[-1]}" if older else "starting again"
                print(f"{e}: {then}", file=sys.stderr)
        return None

    def set_aside(self, step: int) -> None:
        """Moves a step and those after it to `corrupt/`, so that they are trained again."""
        aside = self.directory.parent / "corrupt"
        aside.mkdir(exist_ok=True)
        for late in sorted((s for s in self.steps() if s >= step), reverse=True):  # killed: no gap
            n = len(list(aside.iterdir()))
            (self.directory / str(late)).rename(aside / f"{late}-{n}")
        self._manager.reload()

    def close(self) -> None:
        """Waits for what is being saved."""
        with self._writing():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as e:
            reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:120]
            raise InputError(f"{self.directory}: cannot be written: {reason}") from None


def digest(state: Any) -> str:
    """SHA-256 of every array's bytes, in tree order."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(state)):
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """Keeps Orbax and its helper threads from printing what we report in one line."""
    hook = threading.excepthook
    threading.excepthook = lambda args: None
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        threading.excepthook = hook
