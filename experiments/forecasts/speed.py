"""CPU seconds of a forecast of the eight tasks by NUTS, and of a fit by Laplace.

The compilation cache is not used.  A Laplace fit is that of one ladder, both steps of all tasks, in
a batch of sub-ladders; compilation is not counted.
"""

from __future__ import annotations

import argparse
import time

import jax
import numpy as np
import pandas as pd

from fitting.advise import design
from fitting.laws import CHINCHILLA
from fitting.observations import select
from fitting.observations.build import observe_tasks, with_targets
from fitting.observations.preparation import MAIN_TASKS, POOLED
from fitting.posterior import bayes, draws, sampler

N_LADDERS = 64
FEATURES = {"bpb": ["bpb"], "bpb and lm_loss (the default)": ["bpb", "lm_loss"]}


def run(table: pd.DataFrame, args: argparse.Namespace) -> None:
    """Prints times and the diagnostics of the sampler."""
    jax.config.update("jax_enable_compilation_cache", False)
    names = select.select_runs(table, args.train)
    runs = [select.parse_target(table, name) for name in args.target]
    tasks = {
        feature: [
            with_targets(task, table, runs)
            for task in observe_tasks(table, MAIN_TASKS, names, POOLED[feature], CHINCHILLA)
        ]
        for feature in ("bpb", "lm_loss")
    }
    data = {feature: [task.observations for task in every] for feature, every in tasks.items()}
    targets = [task.targets for task in tasks["bpb"]]
    for words, features in FEATURES.items():
        jax.clear_caches()
        for cached in (sampler._chains, draws._constrain):
            cached.cache_clear()
        start = time.process_time()
        found = {feature: bayes.fit(data[feature], sampler.nuts) for feature in features}
        print(f"NUTS, {words}: {time.process_time() - start:.0f} CPU s, compilation included")
        for feature, posterior in found.items():
            for step, of_step in posterior.steps.items():
                checks = ", ".join(f"{name} {value:.4g}" for name, value in of_step.health.items())
                print(f"  {feature}, {step}: {checks}")
    rng = np.random.default_rng(0)
    weights = np.ones((N_LADDERS, len(names)))
    for row in weights:
        row[rng.permutation(len(names))[: len(names) // 3]] = 0
    design.joint_predictions(data["bpb"], targets, weights)
    start = time.process_time()
    design.joint_predictions(data["bpb"], targets, weights)
    each = 1000 * (time.process_time() - start) / N_LADDERS
    print(f"Laplace: {each:.1f} CPU ms a ladder, both steps of eight tasks, once compiled")
