"""Where the program keeps its files."""

from __future__ import annotations

import os
from pathlib import Path

import pooch


def cache_dir() -> Path:
    """Where downloads are kept: `LADDER_CACHE`, or the user's cache directory."""
    return Path(os.environ.get("LADDER_CACHE") or pooch.os_cache("ladder_jax")).expanduser()
