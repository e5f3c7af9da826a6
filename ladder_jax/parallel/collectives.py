"""Values and decisions that the processes of one run share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fitting.errors import InputError

_MESSAGE_BYTES = 1024  # of an error that goes to all processes


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
    """Runs a function on the first process; an `InputError` that it raises is raised on all.

    Raises:
        InputError: from the function.
    """
    message = ""
    if is_primary():
        try:
            function()
        except InputError as e:
            if jax.process_count() == 1:
                raise
            message = str(e)
    text = np.frombuffer(message.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES), np.uint8)
    message = bytes(agreed(text)).decode(errors="ignore").rstrip()
    if message:
        raise InputError(message)


def wait_for_all(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
