"""Compiled code kept between processes, and freed memory kept within one: both save time."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
from pathlib import Path


def keep(cache: Path) -> None:
    """Makes JAX keep compiled programs below `cache`; call before JAX is imported.

    There is one folder per processor, since programs are machine code.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "xla" / _processor()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


# glibc's thresholds of mmap and of trimming; one arena, as a second would map large blocks again.
HELD = {"MMAP_THRESHOLD_": 1 << 30, "TRIM_THRESHOLD_": (1 << 31) - 1, "ARENA_MAX": 1}
_MALLOPT = {"MMAP_THRESHOLD_": -3, "TRIM_THRESHOLD_": -1, "ARENA_MAX": -8}


def hold_memory() -> None:
    """Makes glibc keep freed memory, which saves mapping every large temporary again.

    Call before JAX is imported: a thread that has an arena already keeps it.  Child processes can
    take `HELD` from their environment, each name after `MALLOC_`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in HELD.items():
            mallopt(_MALLOPT[name], value)


def _processor() -> str:
    """A hash of the processor's features: equal where machine code can be shared."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    features = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    text = "\n".join(sorted(set(features))) or platform.processor()
    return hashlib.sha256(text.encode()).hexdigest()[:12]
