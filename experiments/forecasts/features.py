"""Compares features by their forecasts of held-out runs: each alone, and a mixture.

Every feature is used in the same two steps; `bpb + lm_loss` is the mixture in equal parts that is
the default of `--method bayes`.  The targets are scored once, last, in a separate table.
"""

from __future__ import annotations

import argparse

import pandas as pd

from fitting.evaluation import backtest
from fitting.forecast import ForecastSpec
from fitting.observations import select
from fitting.observations.preparation import MAIN_TASKS

METHODS = {
    "bpb": ForecastSpec(tasks=MAIN_TASKS, feature="bpb"),
    "lm_loss": ForecastSpec(tasks=MAIN_TASKS, feature="lm_loss"),
    "task_ce, laplace": ForecastSpec(  # NUTS does not mix
        tasks=MAIN_TASKS, feature="task_ce", method="laplace"
    ),
    "bpb + lm_loss": ForecastSpec(tasks=MAIN_TASKS),
}


def run(table: pd.DataFrame, args: argparse.Namespace) -> None:
    """Prints scores of each split and of all, errors by task, and scores of the targets."""
    runs = select.select_runs(table, args.train)
    parts = {**backtest.splits(table, runs), backtest.TARGETS: backtest.Split(runs, args.target)}
    cells, notes = backtest.score(table, parts, METHODS)
    for title, of_targets in (("Held-out runs of the ladder", False), ("The targets", True)):
        part = cells[(cells["split"] == backtest.TARGETS) == of_targets]
        print(f"\n{title}")
        print(backtest.summary(part).round(2).to_string(index=False))
        print(backtest.by_task(part).round(2).to_string(index=False))
    print(*(f"note: {note}" for note in notes), sep="\n")
