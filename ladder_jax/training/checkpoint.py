"""Checkpoints through Orbax: saved asynchronously, committed whole, verified on reading."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import sys
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from fitting.errors import InputError, first_line
from ladder_jax import parallel

_RECENT = 2
_PARTIAL = ".orbax-checkpoint-tmp"

logging.getLogger("absl").setLevel(logging.ERROR)


class _Manager(ocp.CheckpointManager):
    """Leaves requests to stop to `runtime.preemption`: JAX reports each one only once."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Corrupt(InputError):
    """A checkpoint whose content is not what was saved."""


class Checkpoints:
    """The checkpoints of one run.

    Each holds `state` (parameters, optimiser, step) and `meta` (configuration, data position, and
    a digest of the state).  All processes of a run make one and call it alike.

    Args:
        directory: on a disk that every process sees.
        kept: given by a run that trains: steps that stay when newer ones are saved, beside the
            last two; partial saves of an earlier process are removed.  By default all stay.
    """

    def __init__(self, directory: Path, kept: Collection[int] | None = None) -> None:
        recent = None if kept is None else _RECENT  # one may turn out to be corrupt
        policy = policies.AnyPreservationPolicy(
            [policies.LatestN(recent), policies.CustomSteps([*(kept or ())])]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            create=True,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=kept is not None,
            single_host_load_and_broadcast=jax.process_count() > 1,
        )
        self.directory = directory
        if kept is not None and parallel.is_primary():
            for partial in sorted(directory.glob(f"*{_PARTIAL}*")):
                print(f"{partial}: was only saved in part: removed", file=sys.stderr)
        with self._writing():
            self._manager = _Manager(directory.resolve(), options=options)

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Starts saving; returns once the state may be donated.

        Raises:
            InputError: it cannot be written.
        """
        if step in self.steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            meta=ocp.args.JsonSave(meta | {"digest": digest(state)}),
        )
        with self._writing():
            if not self._manager.save(step, args=items):
                raise ValueError(f"step {step} was not taken")

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        return sorted(map(int, self._manager.all_steps()))

    def restore(self, abstract_state: Any, step: int) -> tuple[Any, dict[str, Any]]:
        """State and meta of a step.

        Args:
            abstract_state: `jax.ShapeDtypeStruct`s with shardings, in the state's structure.
            step: a committed step.

        Raises:
            Corrupt: its files are damaged.
            InputError: they cannot be read at the moment.
        """
        name = f"{self.directory}: checkpoint {step}"
        state, meta, damage = None, None, None
        try:
            state, meta = self._read(abstract_state, step, name)
        except Corrupt as e:
            damage = e
        if not parallel.all_agree(damage is None):
            raise damage or Corrupt(f"{name} is corrupt (another process cannot read it)")
        if not isinstance(meta, dict) or meta.pop("digest", None) != digest(state):
            raise Corrupt(f"{name} is corrupt (its content is not what was saved)")
        return state, meta

    def _read(self, abstract_state: Any, step: int, name: str) -> tuple[Any, Any]:
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), meta=ocp.args.JsonRestore()
        )
        try:
            with _quiet_threads():
                restored = self._manager.restore(step, args=items)
                return jax.block_until_ready(restored["state"]), restored["meta"]
        except OSError as e:
            if e.errno not in (None, errno.ENOENT):
                raise InputError(f"{name} cannot be read: {e.strerror}; try again") from None
            raise Corrupt(f"{name} is corrupt (a file is missing)") from None
        except MemoryError:
            raise
        except jax.errors.JaxRuntimeError as e:  # memory, or another process: not the files
            reason = first_line(e, 120)
            raise InputError(f"{name} cannot be read: {reason}; try again") from None
        except Exception as e:  # Orbax has no narrower class for damage
            reason = first_line(e, 120)
            raise Corrupt(f"{name} is corrupt ({reason})") from None

    def restore_newest(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
        """State and meta of the newest step that is whole, or None; sets corrupt steps aside."""
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
        # Newest first, so that a kill leaves no gap.
        late = sorted((s for s in self.steps() if s >= step), reverse=True)
        parallel.wait_for_all("corrupt")
        if parallel.is_primary():
            aside = self.directory.parent / "corrupt"
            aside.mkdir(exist_ok=True)
            for each in late:
                n = len(list(aside.iterdir()))
                (self.directory / str(each)).rename(aside / f"{each}-{n}")
        parallel.wait_for_all("set aside")
        self._manager.reload()

    def close(self) -> None:
        """Waits until everything is saved."""
        with self._writing():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as e:
            reason = first_line(e, 120)
            raise InputError(f"{self.directory}: cannot be written: {reason}") from None


def digest(state: Any) -> str:
    """A hash of every array's bits and their positions, whatever the sharding."""
    leaves = jax.tree.leaves(state)
    sums = np.asarray(jax.device_get(_sums(leaves)))
    shapes = [(x.shape, str(x.dtype)) for x in leaves]
    return hashlib.sha256(repr(shapes).encode() + sums.tobytes()).hexdigest()


@jax.jit
def _sums(leaves: list[jax.Array]) -> jax.Array:
    """Two sums, modulo 2^32, of each array's hashed elements: integers add up in any order."""
    return jnp.stack([half for leaf in leaves for half in _hashed(leaf)])


def _hashed(leaf: jax.Array) -> tuple[jax.Array, jax.Array]:
    kind = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    mixed = bits ^ (place * np.uint32(0x9E3779B9))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):  # the end of MurmurHash3
        mixed = (mixed ^ (mixed >> shift)) * np.uint32(factor)
    mixed ^= mixed >> 16
    return jnp.sum(mixed), jnp.sum((mixed ^ (mixed >> 15)) * np.uint32(0x27D4EB2F))


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """Silences Orbax and its helper threads, whose errors are reported in one line."""
    hook = threading.excepthook
    threading.excepthook = lambda args: None
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        threading.excepthook = hook
