"""Checkpoints through Orbax: asynchronous, committed whole, restored from the newest good one."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from fitting.table import InputError

logging.getLogger("absl").setLevel(logging.ERROR)


class Corrupt(InputError):
    """A checkpoint that cannot be read."""


class Checkpoints:
    """The checkpoints of one run.

    Each holds `state` (parameters, optimiser, step) and `meta` (configuration and data position).
    All are kept: tasks are scored at every one of them.
    """

    def __init__(self, directory: Path) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None, create=True, enable_async_checkpointing=True
        )
        self.directory = directory
        try:
            self._manager = ocp.CheckpointManager(directory.resolve(), options=options)
        except OSError as e:
            raise InputError(f"{directory}: cannot be written: {e.strerror}") from None

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Starts saving; returns once the state may be donated."""
        if step in self.steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
            ),
        )

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        return sorted(self._manager.all_steps())

    def restore(self, abstract_state: Any, step: int) -> tuple[Any, dict[str, Any]]:
        """State and meta of a step.

        Args:
            abstract_state: `jax.ShapeDtypeStruct`s with shardings, in the state's structure.
            step: a committed step.

        Raises:
            Corrupt: it cannot be read.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), meta=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=items)
            return jax.block_until_ready(restored["state"]), restored["meta"]
        except Exception as e:  # Orbax raises many kinds for damaged files
            reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:160]
            raise Corrupt(f"{self.directory}: checkpoint {step} is corrupt ({reason})") from None

    def restore_newest(self, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """The newest step that can be read; corrupt ones are named and dropped.

        Raises:
            InputError: none can be read.
        """
        for step in reversed(self.steps()):
            try:
                return self.restore(abstract_state, step)
            except Corrupt as e:
                print(e, file=sys.stderr)
                self.drop_from(step)
        raise InputError(f"{self.directory}: no checkpoint can be read; remove the run to restart")

    def drop_from(self, step: int) -> None:
        """Deletes a step and those after it, to be trained again."""
        for late in self.steps():
            if late >= step:
                self._manager.delete(late)

    def close(self) -> None:
        """Waits for what is being saved."""
        self._manager.wait_until_finished()
        self._manager.close()
