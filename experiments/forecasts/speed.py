"""CPU seconds of a forecast of the eight tasks by the default method, and of a fit by Laplace.

The compilation cache is not used: the first forecast compiles, the second does not.  A Laplace fit
is that of one ladder, both steps of all tasks, in a batch of sub-ladders, once compiled.
"""

from __future__ import annotations

import argparse
import time

import jax
import numpy as np
import pandas as pd

from fitting.advise import design
from fitting.forecast import ForecastSpec, forecast
from fitting.forecast.parts import prepare

N_LADDERS = 64


def run(table: pd.DataFrame, args: argparse.Namespace) -> None:
    """Prints times and the checks of the sampler."""
    jax.config.update("jax_enable_compilation_cache", False)
    spec = ForecastSpec(args.train, args.target)
    for words in ("compilation included", "once compiled"):
        start = time.process_time()
        made = forecast(table, spec)
        print(f"bayes, eight tasks: {time.process_time() - start:.1f} CPU s, {words}")
    for feature, posterior in made[0].posteriors.items():
        for step, draws in posterior.steps.items():
            checks = ", ".join(f"{name} {value:.4g}" for name, value in draws.health.items())
            print(f"  {feature}, {step}: {checks or 'Laplace'}; before: {draws.attempts or 'none'}")
    first = prepare(table, spec)[0].data
    data, targets = [t.observations for t in first], [t.targets for t in first]
    rng, n_runs = np.random.default_rng(0), len(data[0].y)
    weights = np.ones((N_LADDERS, n_runs))
    for row in weights:
        row[rng.permutation(n_runs)[: n_runs // 3]] = 0
    design.joint_predictions(data, targets, weights)
    start = time.process_time()
    design.joint_predictions(data, targets, weights)
    each = 1000 * (time.process_time() - start) / N_LADDERS
    print(f"Laplace: {each:.1f} CPU ms a ladder, both steps of eight tasks, once compiled")
