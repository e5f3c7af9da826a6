"""Memory and peak FLOP rates of accelerators, and of this CPU."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

_GIB = 2**30
_CPU_WIDTH, _CPU_TIMES = 768, 5


@dataclass(frozen=True)
class Chip:
    """An accelerator, as one JAX device.

    Attributes:
        hbm_bytes: memory available to programs.
        flops: peak per second, dense bfloat16.
    """

    hbm_bytes: int
    flops: float


# Rates: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, NVIDIA's data sheets (dense).  Memory: NVIDIA's
# data sheets, Google's page for v4; of the other TPUs what libtpu 0.0.42.1 says is available when a
# program does not fit, a little off the pages' 16, 95 and 32 GB.
CHIPS = {
    "TPU v4": Chip(32 * _GIB, 275e12),
    "TPU v5 lite": Chip(round(15.75 * _GIB), 197e12),
    "TPU v5": Chip(round(95.74 * _GIB), 459e12),
    "TPU v6 lite": Chip(round(31.25 * _GIB), 918e12),
    "TPU v5e": Chip(round(15.75 * _GIB), 197e12),
    "TPU v6e": Chip(round(31.25 * _GIB), 918e12),
    "NVIDIA A100": Chip(80 * _GIB, 312e12),
    "NVIDIA H100": Chip(80 * _GIB, 989e12),
    "NVIDIA H200": Chip(141 * _GIB, 989e12),
}


def chip_of(device: Any) -> Chip | None:
    """The entry of `CHIPS` for a device: the longest name that its kind begins with, or None."""
    names = [name for name in CHIPS if device.device_kind.startswith(name)]
    return CHIPS[max(names, key=len)] if names else None


def peak_flops(device: Any) -> float | None:
    """Peak floating-point operations per second: from `CHIPS`, or measured on a CPU."""
    if device.platform == "cpu":
        return _cpu_flops() / jax.local_device_count()
    chip = chip_of(device)
    return chip.flops if chip else None


@functools.cache
def _cpu_flops() -> float:
    """The best rate of a few float32 matrix products, on the threads of this process."""
    x = jnp.ones((_CPU_WIDTH, _CPU_WIDTH), jnp.float32)
    multiply = jax.jit(lambda x: x @ x)
    multiply(x).block_until_ready()
    best = float("inf")
    for _ in range(_CPU_TIMES):
        begin = time.perf_counter()
        multiply(x).block_until_ready()
        best = min(best, time.perf_counter() - begin)
    return 2 * _CPU_WIDTH**3 / best
