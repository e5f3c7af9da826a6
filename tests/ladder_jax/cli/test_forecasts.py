"""The front door of forecasts is light, and offers what fitting can do."""

import subprocess
import sys

from fitting import table
from fitting.forecast import methods
from ladder_jax.cli import forecasts
from tests.helpers import ROOT
from tests.planted import LADDER, TARGET, planted

HEAVY = ("flax", "grain", "orbax", "tensorflow", "tensorflow_datasets", "optax", "ray", "datasets")


def test_the_methods_offered_are_those_of_fitting():
    assert set(forecasts.METHODS) == set(methods.METHODS)


def test_a_forecast_from_a_csv_needs_no_library_of_training(tmp_path):
    """So it can be installed alone: `docs/install.md`."""
    table.write(planted(0, 0.005, 0.002).assign(task="arc_easy_test_rc_5shot"), tmp_path / "m.csv")
    arguments = [
        "predict", "--measurements", str(tmp_path / "m.csv"), "--train", *LADDER, "--target",
        TARGET, "--tasks", "arc_easy_test_rc_5shot", "--method", "least-squares", "--lock",
        "--figures", str(tmp_path / "figures"), "--out", str(tmp_path / "p.csv"),
    ]  # fmt: skip
    code = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None  # importing it fails
from ladder_jax import cli
sys.exit(cli.main({arguments!r}))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "p.csv").is_file()
