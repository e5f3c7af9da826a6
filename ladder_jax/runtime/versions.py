"""Versions of the packages that affect results, and the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform


def environment() -> dict[str, str]:
    """Versions of the packages that affect results, and the machine in a few words."""
    packages = ("ladder_jax", "jax", "flax", "optax", "numpy", "scipy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    machine = f"{platform.system()}, {platform.machine()}, {os.cpu_count()} CPUs"
    return versions | {"Python": platform.python_version(), "machine": machine}
