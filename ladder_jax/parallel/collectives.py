"""What the processes of one run agree on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fitting.errors import InputError

_SAID = 1024  # bytes of a complaint that goes to all processes


def is_primary() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def agreed(tree: Any) -> Any:
    """The first process's arrays and numbers, on every process, to the bit."""
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.atleast_1d(np.asarray(leaf)) for leaf in leaves]
    raw = [np.ascontiguousarray(x).view(np.uint8) for x in arrays]  # JAX would halve 64 bits
    sent = multihost_utils.broadcast_one_to_all(raw)
    pairs = zip(sent, arrays, leaves, strict=True)
    found = [np.asarray(x).view(y.dtype).reshape(np.shape(leaf)) for x, y, leaf in pairs]
    return structure.unflatten(found)


def all_agree(true: bool) -> bool:
    """Whether it is true on every process."""
    return bool(np.all(multihost_utils.process_allgather(np.array(true))))


def on_primary(function: Callable[[], object]) -> None:
    """Runs a function on the first process; what it complains of is raised on all.

    Raises:
        InputError: the function's.
    """
    said = ""
    if is_primary():
        try:
            function()
        except InputError as e:
            if jax.process_count() == 1:
                raise
            said = str(e)
    text = np.frombuffer(said.encode()[:_SAID].ljust(_SAID), np.uint8)
    said = bytes(agreed(text)).decode(errors="ignore").rstrip()
    if said:
        raise InputError(said)


def wait_for_all(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
