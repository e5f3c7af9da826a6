"""The objectives of the paper at their best minima: all tasks, resamples and starts at once.

Every function takes the points of T tasks that share their R runs, and B rows of run weights
(resamples, subsets); results lie on axes (B, T, ...).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fitting.laws import Link
from fitting.observations.build import Points
from fitting.solve import batched
from fitting.solve.batched import Solution
from fitting.solve.fit import with_anchor
from fitting.solve.objectives import HUBER_DELTA


def laws(data: Sequence[Points], weights: np.ndarray, starts: np.ndarray) -> Solution:
    """Fits the law of step 1.

    Args:
        data: of T tasks with one law.
        weights: of the runs, shape (B, R).
        starts: shape (T, S, P), or (B, T, S, P).

    Returns:
        theta (B, T, P), the Huber sums (B, T) and whether they are stationary (B, T).
    """
    law, n, n_tasks = data[0].law, len(weights), len(data)
    log_x, log_y = np.log([p.x for p in data]), np.log([p.y for p in data])
    found = batched.solve(
        law.log_mean,
        law.bounds,
        np.broadcast_to(starts, (n, n_tasks, *starts.shape[-2:])).reshape(-1, *starts.shape[-2:]),
        np.tile(log_x, (n, 1, 1)),
        np.tile(log_y, (n, 1)),
        np.repeat(weights, n_tasks, axis=0),
        HUBER_DELTA,
        law.pivot(log_x[0]),
    )
    return _shaped(found, n)


def links(data: Sequence[Points], link: Link, weights: np.ndarray, starts: np.ndarray) -> Solution:
    """Fits the link of step 2; a checkpoint weighs what its run does, the anchor always 1.

    Args:
        data: of T tasks with this link.
        link: what to fit.
        weights: of the runs, shape (B, R).
        starts: shape (T, S, P), or (B, T, S, P).

    Returns:
        theta (B, T, P), half the sums of squares (B, T) and whether they are stationary (B, T).
    """
    n, n_tasks, n_runs = len(weights), len(data), weights.shape[1]
    sets = [with_anchor(link, p.feature, p.accuracy) for p in data]
    longest = max(len(y) for _, y in sets)
    x, y = np.ones((n_tasks, longest)), np.zeros((n_tasks, longest))
    run = np.full((n_tasks, longest), n_runs + 1)  # the padding
    for t, (points, (feature, accuracy)) in enumerate(zip(data, sets, strict=True)):
        x[t, : len(feature)], y[t, : len(feature)] = feature, accuracy
        run[t, : len(feature)] = n_runs  # the anchor
        run[t, : len(points.run)] = points.run
    known = np.concatenate([weights, np.ones((n, 1)), np.zeros((n, 1))], axis=1)
    found = batched.solve(
        link.mean,
        link.bounds,
        np.broadcast_to(starts, (n, n_tasks, *starts.shape[-2:])).reshape(-1, *starts.shape[-2:]),
        np.tile(x, (n, 1)),
        np.tile(y, (n, 1)),
        known[:, run].reshape(n * n_tasks, -1),
    )
    return _shaped(found, n)


def _shaped(found: Solution, n: int) -> Solution:
    return Solution(*(v.reshape(n, -1, *v.shape[1:]) for v in found))
