"""Which law extrapolates better inside the grid: N and D, or compute alone?

Command:  python -m experiments.quickstart.analyse quickstart/measurements.csv
Prints, for each split of the grid, the mean error of the forecasts of what was held out.  The
target takes no part.
"""

from __future__ import annotations

import sys
from typing import Any

import pandas as pd

from experiments.quickstart.config import FORECAST, LADDER
from fitting import predict, table

SPLITS = {
    "66K and 118K -> 209K": (["66K-*", "118K-*"], ["209K-*"]),
    "all but the largest run -> it": (["66K-*", "118K-*", "209K-0.*"], ["209K-1xC"]),
    ".25xC and .5xC -> 1xC": (["*-0.25xC", "*-0.5xC"], ["*-1xC"]),
}
INPUTS = {"nd": "N and D", "c": "compute"}


def held_in(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute errors of forecasts inside the grid: a row a (split, inputs)."""
    tasks = ["heldout", *LADDER.base.eval.tasks]
    grid = frame[frame["run"].isin([run.name for run in LADDER.runs()])]
    last = grid["step"] == grid.groupby("run")["step"].transform("max")
    rows = []
    for split, (train, held) in SPLITS.items():
        names = predict.points.select_runs(grid, held)
        known = grid[~grid["run"].isin(names) | last]  # held-out runs: as they ended
        for inputs, words in INPUTS.items():
            settings: dict[str, Any] = FORECAST | {"inputs": inputs}
            made = predict.to_frame(predict.forecast(known, train, names, tasks, **settings))
            loss = (made["pred_loss"] / made["actual_loss"] - 1).abs().mean()
            rows.append((split, words, 100 * loss, 100 * made["abs_error"].mean()))
    return pd.DataFrame(rows, columns=["split", "law of", "loss error %", "accuracy error, points"])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m experiments.quickstart.analyse MEASUREMENTS\n\n{__doc__}")
    print(held_in(table.read(sys.argv[1])[0]).round(2).to_string(index=False))
