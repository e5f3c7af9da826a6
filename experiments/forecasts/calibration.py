"""Simulation-based calibration of both steps: 200 ladders from the priors, sampled by NUTS.

Two chains of 400 draws per ladder are enough for ranks.  Writes a figure of rank histograms.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fitting.io import write_atomically
from fitting.posterior import calibration, sampler
from fitting.posterior.draws import Draws, Model

N_LADDERS = 200
OUT = Path("calibration")


def nuts(model: Model, arguments: tuple[np.ndarray, ...], seed: int) -> Draws:
    """Samples two short chains, which are enough for ranks."""
    return sampler.run_nuts(model, arguments, seed, n_chains=2, n_warmup=400, n_draws=400)


def run(table: pd.DataFrame | None, args: argparse.Namespace) -> None:
    """Prints a test of the ranks of every quantity; writes ranks.csv and ranks.png."""
    ranks, failed = calibration.ranks(range(args.ladders), nuts)
    tests = calibration.uniformity(ranks)
    write_atomically(OUT / "ranks.csv", lambda p: ranks.to_csv(p, index=False))
    write_atomically(OUT / "ranks.png", lambda p: histograms(ranks, tests).savefig(p, dpi=110))
    print(tests.round(3).to_string(index=False))
    print(f"{len(ranks)} ladders; the short chains of {failed} fail the checks of a full run")
    print(f"least p {tests['p'].min():.3f}, corrected for {len(tests)} tests "
          f"{tests['p_holm'].min():.3f}; p <= .01 would show a fault")  # fmt: skip
    print(OUT / "ranks.png")


def histograms(ranks: pd.DataFrame, tests: pd.DataFrame) -> Figure:
    """One panel per quantity; the grey band holds 95 % of the counts of uniform ranks."""
    from scipy.stats import binom

    n_columns = 6
    n_rows = -(-ranks.shape[1] // n_columns)
    fig = Figure(figsize=(2.4 * n_columns, 1.6 * n_rows + 0.4), layout="constrained")
    axes = fig.subplots(n_rows, n_columns, squeeze=False)
    low, high = binom.ppf([0.025, 0.975], len(ranks), 1 / calibration.N_RANKS)
    colour = matplotlib.colormaps["viridis"](0.4)
    for ax in axes.flat[ranks.shape[1] :]:
        ax.set_visible(False)
    for ax, row in zip(axes.flat, tests.to_dict("records"), strict=False):
        ax.axhspan(low, high, color="0.88")
        ax.hist(ranks[row["quantity"]], bins=calibration.N_RANKS, range=(0, 1), color=colour)
        ax.set_title(f"{row['quantity']}\np {row['p']:.3f}", fontsize=7)
        ax.set(xticks=[], yticks=[])
    return fig
