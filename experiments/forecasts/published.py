"""The backtest over public ladders: every method, errors, scores, coverage, and how fits ended.

    python -m experiments.forecasts published --measurements olmo.csv --public DIR --out DIR

`olmo.csv` comes from `ladder measure --from olmo-ladder`; the other ladders are imported from the
folder `--public` with the maps that the package ships.  Writes cells.csv, fits.csv and
backtest.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from experiments.forecasts import public_ladders
from fitting import io
from fitting.evaluation import backtest, summary
from fitting.evaluation.backtest import Trial
from fitting.evaluation.ladders import MeasuredLadder
from fitting.forecast import ForecastSpec
from fitting.forecast.methods import METHODS, POOLING
from fitting.report import charts

SPLITS = 3  # of a ladder, at most


def run(table: pd.DataFrame, args: argparse.Namespace) -> None:
    """Prints the tables of scores, and how many fits ended how."""
    ladders = public_ladders.load(Path(args.public), table)
    trials = [trial for ladder in ladders for trial in _trials(ladder)]
    scores = backtest.run(trials)
    cells, out = scores.cells, Path(args.out)
    io.write_csv(cells, out / "cells.csv")
    io.write_csv(scores.fits, out / "fits.csv")
    scored = summary.summary(cells)
    for title, rows in summary.tables(scored).items():
        print(f"\n{title}")
        print(pd.DataFrame(rows[1:], columns=rows[0]).to_string(index=False))
    print(f"\nfits\n{_ends(scores.fits).to_string()}")
    for text in scores.failures:
        print(f"note: {text}")
    figure = charts.backtest(scored)
    io.write_atomically(out / "backtest.png", lambda p: figure.savefig(p, dpi=150))
    print(out / "backtest.png")


def _trials(ladder: MeasuredLadder) -> list[Trial]:
    """The fits of one ladder; only pooled methods can forecast accuracies without any loss."""
    metrics = set(ladder.table["metric"])
    names = list(METHODS) if metrics & {"bpb", "lm_loss"} else list(POOLING)
    return backtest.plan([ladder], {name: ForecastSpec(method=name) for name in names}, SPLITS)


def _ends(fits: pd.DataFrame) -> pd.DataFrame:
    """By ladder: fits by NUTS, repeated ones and those by Laplace in its place; worst checks."""
    nuts = fits[fits["method"] == "bayes"]
    counts = nuts.pivot_table(index="ladder", columns="engine", aggfunc="size", fill_value=0)
    passed = nuts[nuts["engine"] != "Laplace"].groupby("ladder")
    return counts.assign(
        r_hat=passed["r_hat"].max(), ess=passed["ess"].min(), divergent=passed["divergent"].max()
    )
