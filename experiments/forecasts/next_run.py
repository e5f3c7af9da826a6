"""Compares the criterion of `ladder next` with refits: do both rank ladders in the same order?

The cheapest runs form a base, to which other runs are added.  The standard deviation that the
criterion predicts from the base is compared, by rank, with the one that a fit of all these runs
gives.  `design` predicts from the prior at the mode of the whole ladder: the effect of a choice of
runs, whatever they measure.
"""

from __future__ import annotations

import argparse
import itertools
from math import comb

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from fitting.advise import realised
from fitting.errors import InputError
from fitting.laws import CHINCHILLA
from fitting.observations import select
from fitting.observations.build import observe_tasks, with_targets
from fitting.observations.preparation import MAIN_TASKS, POOLED

N_BASE = 4  # the laws of 8 tasks fit three runs exactly, and the noise then has no mode
N_RUNS = 6  # runs of a sub-ladder, in the comparison of designs
N_LADDERS = 600
_ENOUGH = 10  # least number of ladders with the same largest run that are ranked among themselves
_SEED = 0


def run(table: pd.DataFrame, args: argparse.Namespace) -> None:
    """Prints rank correlations: for two and three runs added to a base, and for designs."""
    names = select.select_runs(table, args.train)
    if len(names) <= N_RUNS:
        raise InputError(f"{len(names)} runs: --train needs more than {N_RUNS}")
    runs = [select.parse_target(table, name) for name in args.target]
    tasks = [
        with_targets(task, table, runs)
        for task in observe_tasks(table, MAIN_TASKS, names, POOLED["bpb"], CHINCHILLA)
    ]
    data, targets = [task.observations for task in tasks], [task.targets for task in tasks]
    compute = np.log(data[0].x).sum(-1)
    order = [int(i) for i in np.argsort(compute)]
    rng = np.random.default_rng(_SEED)
    base = order[:N_BASE]
    for n_more in (2, 3):
        sets = _sets(sorted(order[N_BASE:]), n_more, rng)
        found = realised.criterion_against_realised(data, targets, base, sets)
        title = f"{', '.join(names[i] for i in base)} and {n_more} more"
        _report(title, *found, [[*base, *s] for s in sets], compute)
    sets = _sets(list(range(len(names))), N_RUNS, rng)
    found = realised.design_against_realised(data, targets, sets)
    _report(f"{N_RUNS} of {len(names)} by design", *found, sets, compute)


def _sets(runs: list[int], size: int, rng: np.random.Generator) -> list[list[int]]:
    """`N_LADDERS` different sets, or all if there are fewer."""
    if comb(len(runs), size) <= N_LADDERS:
        return [list(s) for s in itertools.combinations(runs, size)]
    found: set[tuple[int, ...]] = set()
    while len(found) < N_LADDERS:
        found.add(tuple(sorted(int(i) for i in rng.choice(runs, size, replace=False))))
    return [list(s) for s in sorted(found)]


def _report(
    title: str, expected: np.ndarray, realised: np.ndarray, ladders: list[list[int]],
    compute: np.ndarray,
) -> None:  # fmt: skip
    """Prints correlations of the mean standard deviation, also those of a simple rule."""
    known = np.isfinite(realised.reshape(len(realised), -1).min(axis=1))
    first, second = (np.sqrt(v[known]).mean(axis=(1, 2)) for v in (expected, realised))
    largest = np.array([compute[ladder].max() for ladder in ladders])[known]
    same = [np.isclose(largest, one) for one in np.unique(largest.round(9))]
    within = [_rank(first[of], second[of]) for of in same if of.sum() >= _ENOUGH]
    print(
        f"{title}: {known.sum()} of {len(ladders)} ladders, Spearman of the criterion with the "
        f"realised sd {_rank(first, second):.3f}; of the largest run's compute "
        f"{_rank(-largest, second):.3f}; of the criterion among ladders with the "
        f"same largest run {np.mean(within):.3f}",
        flush=True,
    )


def _rank(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.asarray(spearmanr(x, y))[0])
