"""Which feature forecasts held-out runs best, and do features together do better?

Every feature goes through the same two steps; `bpb + lm_loss` is the even mixture that
`--method bayes` makes by default.  The targets are scored once, last, in a table of their own.
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
    """Prints scores a split and over all, errors by task, and the targets."""
    runs = select.select_runs(table, args.train)
    parts = {**backtest.splits(table, runs), backtest.TARGETS: backtest.Split(runs, args.target)}
    cells, notes = backtest.score(table, parts, METHODS)
    for title, of_targets in (("Held-out runs of the ladder", False), ("The targets", True)):
        part = cells[(cells["split"] == backtest.TARGETS) == of_targets]
        print(f"\n{title}")
        print(backtest.summary(part).round(2).to_string(index=False))
        print(backtest.by_task(part).round(2).to_string(index=False))
    print(*(f"note: {note}" for note in notes), sep="\n")
