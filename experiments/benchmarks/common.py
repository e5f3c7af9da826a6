"""Helpers of the benchmarks: processes with one thread, and CPU seconds."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from ladder_jax.runtime import compilation


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Gives processes started inside the block one core, one thread and no compilation cache.

    It does not apply to this process: waiting threads of it would count as CPU seconds.
    """
    cores, before = os.sched_getaffinity(0), dict(os.environ)
    os.sched_setaffinity(0, {min(cores)})
    os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "MKL", "OMP")}
    os.environ |= {f"MALLOC_{name}": str(value) for name, value in compilation.HELD.items()}
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        os.environ.clear()
        os.environ.update(before)


def timed(function: Callable, *args: Any) -> tuple[Any, float]:
    """Calls a function; returns its result and the CPU seconds that it took."""
    begin = time.process_time()
    found = function(*args)
    return found, time.process_time() - begin


def rounded(value: Any) -> Any:
    """Rounds floats to four digits, at any depth."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
