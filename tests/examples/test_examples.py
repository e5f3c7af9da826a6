"""The scripts of `examples/` do what their first lines say."""

import os
import subprocess
import sys

import pandas as pd
import pytest

from fitting import table
from fitting.forecast import ForecastSpec, forecast, to_frame
from tests.helpers import ROOT, story
from tests.planted import LADDER, TARGET, planted

TASK = "arc_easy_test_rc_5shot"
SMALL = """
from ladder_jax.config import DataConfig, EvalConfig, ModelConfig, RunConfig
from ladder_jax.ladder import Ladder, Recipe, Target

def model(d_model, n_layers):
    return ModelConfig(d_model=d_model, n_heads=2, n_layers=n_layers, d_ff=2 * d_model,
                       vocab_size=300, seq_len=16, init_std=0.0)

BASE = RunConfig(data=DataConfig("local", {path!r}, vocab_size=300, heldout_fraction=0.25),
                 eval=EvalConfig(n_checkpoints=2, heldout_tokens=400))
RECIPE = Recipe(batch_seqs_ref=8, batch_exponent=0.0, batch_granularity=8, lr_ref=1e-3,
                extra_steps=0, tokens_per_param=0.1)
LATER = Ladder("small", {{"c": model(32, 2)}}, (1.0,), RECIPE, BASE).runs()
LADDER = Ladder("small", {{"a": model(16, 1), "b": model(32, 1)}}, (0.5, 1.0), RECIPE, BASE,
                {{run.name: Target(run, run.n_tokens) for run in LATER}})
FORECAST = {{"method": "bootstrap", "inputs": "c"}}
"""


def execute(*words) -> str:
    """What the example prints; it runs in a process of its own, as for a user."""
    result = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_csv_gives_the_forecast_of_the_five_lines(tmp_path):
    frame = planted(0, 0.005, 0.002).assign(task=TASK)
    path, out = tmp_path / "measurements.csv", tmp_path / "predictions.csv"
    table.write(frame, path)
    printed = execute(
        ROOT / "examples/forecast_from_csv.py", path, "--train", *LADDER, "--targets", TARGET,
        "--tasks", TASK, "--method", "least-squares", "--out", out,
    )  # fmt: skip
    assert TARGET in printed
    spec = ForecastSpec(train=LADDER, targets=[TARGET], tasks=[TASK], method="least-squares")
    expected, found = to_frame(forecast(table.read(path)[0], spec)), pd.read_csv(out)
    assert found["pred"].to_list() == pytest.approx(expected["pred"].to_list(), abs=1e-6)


@pytest.mark.slow
def test_an_experiment_file_gives_a_report(tmp_path, monkeypatch):
    (tmp_path / "text").mkdir()
    for i in range(12):
        (tmp_path / "text" / f"{i}.txt").write_text(story(i), encoding="utf-8")
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "small.py").write_text(SMALL.format(path=str(tmp_path / "text")), encoding="utf-8")
    out = tmp_path / "out"
    printed = execute(ROOT / "examples/study_from_file.py", tmp_path / "small.py", "--out", out)
    assert "c-1xC" in printed
    assert str(out / "report" / "index.html") in printed
    assert pd.read_csv(out / "predictions.csv")["actual_loss"].notna().all()
    assert (out / "predictions.lock").is_file()
