"""Compares features by their forecasts of held-out runs: each alone, and a mixture.

Every feature is used in the same two steps; `bpb + lm_loss` is the mixture in equal parts that is
the default of `--method bayes`.  The targets are scored once, last, in a separate table.
"""

from __future__ import annotations

import argparse

import pandas as pd

from fitting.evaluation import backtest, summary
from fitting.evaluation.ladders import MeasuredLadder
from fitting.forecast import ForecastSpec
from fitting.observations.preparation import MAIN_TASKS

METHODS = {
    "bpb": ForecastSpec(feature="bpb"),
    "lm_loss": ForecastSpec(feature="lm_loss"),
    "task_ce, laplace": ForecastSpec(feature="task_ce", method="laplace"),  # NUTS does not mix
    "bpb + lm_loss": ForecastSpec(),
}


def run(table: pd.DataFrame, args: argparse.Namespace) -> None:
    """Prints scores of each split and of all, errors by task, and scores of the targets."""
    ladder = MeasuredLadder("ladder", table, args.train, MAIN_TASKS, targets=args.target)
    cells, notes, _ = backtest.run(backtest.plan([ladder], METHODS))
    cells = cells[cells["kind"] == "acc"]  # their losses are of different features
    for title, of_targets in (("Held-out runs of the ladder", False), ("The targets", True)):
        part = cells[(cells["split"] == backtest.TARGETS) == of_targets]
        print(f"\n{title}")
        print(summary.summary(part, "split").round(2).to_string(index=False))
        print(summary.by_task(part).round(2).to_string(index=False))
    print(*(f"note: {note}" for note in notes), sep="\n")
