"""Speed of the 384 fits of compute against error: ours against a scipy loop.

Command:  python -m experiments.benchmarks.fitting
Hardware: one CPU core.  Time: about a minute.
Expected: README.md of this folder.

Eight tasks, 24 cut ladders, two steps, the same objectives on both sides.  Each fit has one start:
for the loop the paper's, for ours the first of the law's own starts (step 2: the paper's).  The
loop has hand-written gradients in plain numpy.  CPU seconds on one core, with one thread.  `cold`
is the first call of a process without compiled code, `warm` the median of the calls after it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from typing import Any

import numpy as np
import scipy.optimize
from tqdm import tqdm

from experiments.benchmarks import common
from experiments.task_ladders.study import PublishedRuns
from experiments.task_ladders.subladders import cuts
from fitting.errors import InputError
from fitting.laws import CHINCHILLA, SIGMOID
from fitting.observations.arrays import Observations
from fitting.solve import multistart
from fitting.solve.objectives import HUBER_DELTA
from ladder_jax.downloads import public_runs
from ladder_jax.measurements.olmo_ladder import from_olmo_ladder

_WARM_CALLS = 5
_SAME = 1 + 1e-5


def huber_and_gradient(
    p: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_y: np.ndarray
) -> tuple[float, np.ndarray]:
    """The objective of step 1 in plain numpy: its value and gradient, shape (5,)."""
    a, b = np.exp(p[0] - p[2] * log_n), np.exp(p[1] - p[3] * log_d)
    fitted = a + b + p[4]
    r = np.log(fitted) - log_y
    size = np.abs(r)
    value = np.where(size < HUBER_DELTA, r**2 / 2, HUBER_DELTA * (size - HUBER_DELTA / 2)).sum()
    slope = np.clip(r, -HUBER_DELTA, HUBER_DELTA) / fitted
    gradient = [slope @ a, slope @ b, -(slope @ (a * log_n)), -(slope @ (b * log_d)), slope.sum()]
    return value, np.array(gradient)


def sigmoid(x: np.ndarray, a: float, x0: float, k: float, b: float) -> np.ndarray:
    """The curve of step 2 in plain numpy."""
    return a / (1 + np.exp(-k * (x - x0))) + b


def loop(data: list[Observations], chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minima of both steps, each of shape (B, T), by scipy, one fit after the other."""
    first, second = np.empty((len(chosen), len(data))), np.empty((len(chosen), len(data)))
    bounds = list(zip(*CHINCHILLA.bounds, strict=True))
    options: Any = {"ftol": 0, "gtol": 1e-10, "maxiter": 10**6, "maxfun": 10**6}
    for b, runs in enumerate(tqdm(chosen, desc="scipy", disable=None, leave=False)):
        for t, p in enumerate(data):
            points = (*np.log(p.x[runs]).T, np.log(p.y[runs]))
            first[b, t] = scipy.optimize.minimize(
                huber_and_gradient, CHINCHILLA.start, points, "L-BFGS-B", jac=True, bounds=bounds,
                options=options,
            ).fun  # fmt: skip
            some = runs[p.run]
            x, y = np.append(p.feature[some], 0.0), np.append(p.accuracy[some], 1.0)
            found, _ = scipy.optimize.curve_fit(
                sigmoid, x, y, SIGMOID.start, bounds=SIGMOID.bounds, maxfev=500_000
            )
            second[b, t] = ((sigmoid(x, *found) - y) ** 2).sum()
    return first, second


def ours(data: list[Observations], chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minima of both steps, each of shape (B, T), by our batched solver."""
    weights = np.asarray(chosen, float)
    starts = np.array([
        [CHINCHILLA.starts(np.log(p.x[runs]), np.log(p.y[runs]))[:1] for p in data]
        for runs in chosen
    ])  # fmt: skip
    first = multistart.laws(data, weights, starts)
    link_starts = np.tile(SIGMOID.start, (len(data), 1, 1))
    second = multistart.links(data, SIGMOID, weights, link_starts)
    return first.objective, 2 * second.objective


def main(arguments: list[str] | None = None) -> None:
    """Prints one JSON line per measurement, and at the end the ratios."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.fitting", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python -m experiments.benchmarks.fitting",
    )  # fmt: skip
    parser.add_argument("--runs", metavar="DIR", help="the CSVs (default: what was downloaded)")
    args = parser.parse_args(arguments)
    runs = args.runs or str(public_runs.olmo_ladder())
    process = multiprocessing.get_context("spawn").Process(target=_measure, args=(runs,))
    with common.one_thread():
        process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


def _measure(runs: str) -> None:
    try:
        frame, _ = from_olmo_ladder(runs)
    except InputError as e:
        sys.exit(f"python -m experiments.benchmarks.fitting: {e}")
    tasks = PublishedRuns(frame).data("bpb")
    data = [d.observations for d in tasks]
    _, chosen = cuts(tasks[0].final)
    np.seterr(all="ignore")  # exp overflows in some steps of the loop
    _check_gradient(data[0])
    n = 2 * chosen.shape[0] * len(data)

    (mine, cold), warm = common.timed(ours, data, chosen), []
    for _ in range(_WARM_CALLS):
        mine, seconds = common.timed(ours, data, chosen)
        warm.append(seconds)
    theirs, plain = common.timed(loop, data, chosen)
    settled = chosen.sum(axis=1) > len(CHINCHILLA.params)  # with fewer runs a law only interpolates
    no_worse = [
        float(np.mean(mine[0][settled] <= theirs[0][settled] * _SAME)),
        float(np.mean(mine[1] <= theirs[1] * _SAME)),
    ]
    for side, seconds in (
        ("scipy loop", plain), ("ours, cold", cold), ("ours, warm", float(np.median(warm))),
    ):  # fmt: skip
        print(json.dumps({"side": side, "fits": n, "cpu_s": round(seconds, 3)}))
    print(json.dumps({"step1_no_worse": no_worse[0], "step2_no_worse": no_worse[1]}))
    ratios = {"warm": plain / float(np.median(warm)), "cold": cold / plain}
    print(json.dumps({
        "loop_over_ours_warm": round(ratios["warm"], 1),
        "ours_cold_over_loop": round(ratios["cold"], 2),
    }))  # fmt: skip


def _check_gradient(p: Observations) -> None:
    log_n, log_d = np.log(p.x).T
    off = scipy.optimize.check_grad(
        lambda q: huber_and_gradient(q, log_n, log_d, np.log(p.y))[0],
        lambda q: huber_and_gradient(q, log_n, log_d, np.log(p.y))[1],
        CHINCHILLA.start,
    )
    assert off < 1e-6, off


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"python -m experiments.benchmarks.fitting: {e}")
