"""Chooses the ways to accuracy and the discrepancy across public ladders, each by the others.

    python -m experiments.forecasts choose --measurements olmo.csv --public DIR

Every combination of ways (through bits per byte, through a text's loss, from N and D alone, and
their even mixtures) and of discrepancies forecasts the held-out runs, by Laplace's approximation.
Its score is the interval score (95 %) over the best combination's on the same ladder.  For each
ladder the combination is chosen by the geometric mean of this ratio over the other ladders.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from experiments.forecasts import public_ladders
from experiments.forecasts.published import SPLITS
from fitting.evaluation import backtest
from fitting.evaluation.backtest import Trial
from fitting.forecast import ForecastSpec, distribution
from fitting.forecast.parts import prepare
from fitting.posterior import bayes, laplace

DISCREPANCIES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
WAYS = {
    "bpb": ("own",), "text": ("text",), "N and D": ("inputs",), "bpb + text": ("own", "text"),
    "all": ("own", "text", "inputs"),
}  # fmt: skip


def run(table: pd.DataFrame, args: argparse.Namespace) -> None:
    """Prints scores of all combinations, and what each ladder's others would choose for it."""
    ladders = public_ladders.load(Path(args.public), table)
    trials = backtest.plan(ladders, {"laplace": ForecastSpec(method="laplace")}, SPLITS)
    cells = pd.DataFrame([c for trial in tqdm(trials, unit="split") for c in _cells(trial)])
    keys = ["ways", "discrepancy"]
    by_ladder = cells.groupby([*keys, "ladder"], sort=False)
    scores = by_ladder["score"].mean().unstack()
    cover = by_ladder["inside"].mean().unstack()
    ratios = scores / scores.min()
    print("interval score, points\n", (100 * scores).round(1).to_string(), sep="")
    print("\ncoverage of 95 % intervals\n", cover.round(2).to_string(), sep="")
    print("\nchosen by the other ladders: ladder, ways, discrepancy, ratio to the best, coverage")
    for ladder in [*scores.columns, None]:
        others = ratios.drop(columns=ladder) if ladder else ratios
        chosen = np.exp(np.log(others).mean(axis=1)).idxmin()
        told = (f"{ratios.loc[chosen, ladder]:.3f}  {cover.loc[chosen, ladder]:.3f}"
                if ladder else f"{np.exp(np.log(ratios.loc[chosen]).mean()):.3f}")  # fmt: skip
        print(f"{ladder or 'by all'}: {chosen[0]}, {chosen[1]:g}  {told}")


def _cells(trial: Trial) -> list[dict]:
    """A row per combination and measured accuracy; ways that a ladder lacks are left out of it."""
    p = distribution.probabilities([0.95])
    made: dict[tuple[str, float], dict[str, np.ndarray]] = {}
    actual: dict[str, np.ndarray] = {}
    for part in prepare(trial.table, trial.spec):
        way = {"bpb": "own", "inputs": "inputs"}.get(part.feature, "text")
        posterior = bayes.fit([task.observations for task in part.data], laplace.sample)
        for off in DISCREPANCIES:
            ahead = [task.targets for task in part.data]
            drawn = bayes.predict(posterior, ahead, discrepancy=off).accuracy
            assert drawn is not None
            made[way, off] = {
                task.task: np.quantile(drawn[:, t], p, axis=0).T for t, task in enumerate(part.data)
            }
        actual |= {task.task: task.measured["acc"].to_numpy(float) for task in part.data}
    rows = []
    for (name, ways), off in itertools.product(WAYS.items(), DISCREPANCIES):
        for task, measured in actual.items():
            parts = [made[w, off][task] for w in ways if task in made.get((w, off), {})]
            parts = parts or [made["inputs", off][task]]
            mixed = distribution.mixture(p, parts, [1.0] * len(parts))
            for quantiles, value in zip(mixed, measured, strict=True):
                if not np.isfinite(value):
                    continue
                low, high = (np.asarray(e) for e in distribution.interval(p, quantiles, 0.95))
                score = distribution.interval_score(low, high, np.asarray(value), 0.95)
                rows.append({
                    "ladder": trial.ladder, "ways": name, "discrepancy": off,
                    "score": float(score), "inside": bool(low <= value <= high),
                })  # fmt: skip
    return rows
