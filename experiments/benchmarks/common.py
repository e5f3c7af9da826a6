"""What the benchmarks share: processes of one thread, and CPU seconds."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from ladder_jax.runtime import compilation


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One core, one thread and nothing compiled for the processes that start meanwhile.

    Of the processes, not within ours: threads that wait would count as CPU seconds.
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
    """What a function returns, and the CPU seconds that it takes."""
    begin = time.process_time()
    found = function(*args)
    return found, time.process_time() - begin


def rounded(value: Any) -> Any:
    """Floats to four digits, at any depth."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
