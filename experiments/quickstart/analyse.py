"""Compares two laws by extrapolation inside the grid: of N and D, and of compute only.

Command:  python -m experiments.quickstart.analyse quickstart/measurements.csv
Prints, for each split of the grid, the mean error of the forecasts of the held-out runs.  The
target is not used.
"""

from __future__ import annotations

import sys
from typing import Any

import pandas as pd

from experiments.quickstart.config import FORECAST, LADDER
from fitting import errors, table
from fitting.forecast import ForecastSpec, diagnose, predict
from fitting.observations import select

SPLITS = {
    "66K and 118K -> 209K": (["66K-*", "118K-*"], ["209K-*"]),
    "all but the largest run -> it": (["66K-*", "118K-*", "209K-0.*"], ["209K-1xC"]),
    ".25xC and .5xC -> 1xC": (["*-0.25xC", "*-0.5xC"], ["*-1xC"]),
}
INPUTS = {"nd": "N and D", "c": "compute"}


def held_in(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute errors of forecasts inside the grid: one row per (split, inputs)."""
    tasks = ["heldout", *LADDER.base.eval.tasks]
    grid = frame[frame["run"].isin([run.name for run in LADDER.runs()])]
    last = grid["step"] == grid.groupby("run")["step"].transform("max")
    runs = [run.name for run in LADDER.runs()]
    whole = predict.forecast(grid, ForecastSpec(runs[:-1], runs[-1:], tasks, **FORECAST))
    controls = {f.task for f in whole if diagnose.is_control(f)}
    rows = []
    for split, (train, held) in SPLITS.items():
        names = select.select_runs(grid, held)
        known = grid[~grid["run"].isin(names) | last]  # of held-out runs only the last step
        for inputs, words in INPUTS.items():
            settings: dict[str, Any] = FORECAST | {"inputs": inputs}
            forecasts = predict.forecast(known, ForecastSpec(train, names, tasks, **settings))
            made = predict.to_frame([f for f in forecasts if f.task not in controls])
            loss = (made["pred_loss"] / made["actual_loss"] - 1).abs().mean()
            rows.append((split, words, 100 * loss, 100 * made["abs_error"].mean()))
    return pd.DataFrame(rows, columns=["split", "law of", "loss error %", "accuracy error, points"])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m experiments.quickstart.analyse MEASUREMENTS\n\n{__doc__}")
    try:
        print(held_in(table.read(sys.argv[1], strict=True)[0]).round(2).to_string(index=False))
    except errors.InputError as e:
        sys.exit(str(e))
