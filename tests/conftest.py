"""Fixtures of all tests: eight simulated devices, strict ranks, and the public measurements."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers and processes of tests share compiles
    _compiled = tempfile.mkdtemp(prefix="ladder-xla-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # small ones add up
    atexit.register(shutil.rmtree, _compiled, ignore_errors=True)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

_DATA = Path(os.environ.get("LADDER_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The published runs and reference results; without them, tests that need them are skipped."""
    if not _DATA.is_dir():
        pytest.skip("no public measurements: set LADDER_TEST_DATA to a folder that holds them")
    return _DATA


@pytest.fixture(scope="session")
def public_table(public_data):
    """All published measurements, imported once."""
    from ladder_jax.measurements.olmo_ladder import from_olmo_ladder

    frame, problems = from_olmo_ladder(public_data / "olmo_ladder_runs")
    assert problems == []
    return frame
