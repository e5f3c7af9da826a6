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

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """A given step, or the newest that can be read; a corrupt one is skipped and named.

        Args:
            abstract_state: `jax.ShapeDtypeStruct`s with shardings, in the state's structure.
            step: the step to restore; the newest good one by default.

        Raises:
            InputError: no checkpoint can be read.
        """
        steps = self.steps() if step is None else [step]
        for candidate in reversed(steps):
            try:
                restored = self._manager.restore(
                    candidate,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(abstract_state),
                        meta=ocp.args.JsonRestore(),
                    ),
                )
                return jax.block_until_ready(restored["state"]), restored["meta"]
            except Exception as e:  # Orbax raises many kinds for damaged files
                reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:160]
                print(
                    f"{self.directory}: checkpoint {candidate} is corrupt ({reason})",
                    file=sys.stderr,
                )
                if step is None:
                    self._manager.delete(candidate)  # it will be written again
        raise InputError(f"{self.directory}: no checkpoint can be read; remove the run to restart")

    def close(self) -> None:
        """Waits for what is being saved."""
        self._manager.wait_until_finished()
        self._manager.close()
