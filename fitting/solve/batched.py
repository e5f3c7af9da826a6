"""Many small fits at once: bounded, robust least squares from many starts, float64, one jit.

Every problem is one curve, its points, one row of weights (a resample, a subset, a task) and one
start.  `fitting.marquardt` takes the steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from fitting.solve import levenberg_marquardt
from fitting.solve.levenberg_marquardt import Problem, State

_PLACES = 16  # problems at work at once: enough to fill vector units, few enough for the cache


class Solution(NamedTuple):
    """Minima of B problems.

    Attributes:
        theta: shape (B, P).
        objective: shape (B,).
        converged: shape (B,): whether the gradient vanishes but for what the bounds hold.
    """

    theta: np.ndarray
    objective: np.ndarray
    converged: np.ndarray


def solve(
    mean: Callable[[jax.Array, jax.Array], jax.Array],
    bounds: tuple[np.ndarray, np.ndarray],
    starts: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    delta: float = np.inf,
    pivot: np.ndarray | None = None,
) -> Solution:
    """Fits `mean(theta, x) = y` once for each of B rows of weights, from the best of its starts.

    Problems times starts are worked off by a few places, each taking the next one as soon as its
    own has settled: one compiled shape, and none waits for the slowest.

    Args:
        mean: (theta of shape (P,), x of shape (M, ...)) -> shape (M,); a module-level function,
            since compiled code is kept by it.
        bounds: lower and upper, each of shape (P,).
        starts: shape (B or 1, S, P).
        x: shape (B or 1, M, ...).
        y: shape (B or 1, M).
        weights: shape (B, M), not negative; points of weight 0 are as good as absent.
        delta: Huber's; infinite for least squares.
        pivot: (P, P), unit determinant: theta -> coordinates in which the data decide on each
            parameter alone as far as possible; steps are held back in these.  Default: theta.
    """
    lower, upper = (np.asarray(b, float) for b in bounds)
    weights = np.asarray(weights, float)
    n, m = weights.shape
    x, y, starts = (
        np.broadcast_to(np.asarray(v, float), (n, *np.shape(v)[1:])) for v in (x, y, starts)
    )
    starts = np.clip(starts, lower, upper)
    job_problem, job_start = np.divmod(np.arange(n * starts.shape[1]), starts.shape[1])
    found = State.empty(len(job_problem), len(lower))
    converged = np.zeros(len(job_problem), bool)

    x_at_work, y_at_work = (np.ones((_PLACES, _padded(m), *v.shape[2:])) for v in (x, y))
    at_work = Problem(x_at_work, y_at_work, np.zeros((_PLACES, _padded(m))))
    state = State.empty(_PLACES, len(lower))
    place = np.full(_PLACES, -1)  # the job that each works on
    pivot = np.eye(len(lower)) if pivot is None else np.asarray(pivot, float)
    fixed = (lower, upper, float(delta), pivot, np.linalg.inv(pivot))
    advance = _compiled(mean, bool(np.isfinite(delta)))
    waiting = 0
    with jax.enable_x64():
        while waiting < len(job_problem) or (place >= 0).any():
            free = np.flatnonzero(place < 0)[: len(job_problem) - waiting]
            place[free] = jobs = np.arange(waiting, waiting + len(free))
            waiting += len(free)
            for into, values in zip(at_work, (x, y, weights), strict=True):
                into[free, :m] = values[job_problem[jobs]]
            state.begin(free, starts[job_problem[jobs], job_start[jobs]])
            busy = place >= 0
            after, done, stationary = advance(state, at_work, busy, *fixed)
            state = State(*(np.array(v) for v in after))
            over = np.flatnonzero(busy & np.asarray(done))
            for into, values in zip(found, state, strict=True):
                into[place[over]] = values[over]
            converged[place[over]] = np.asarray(stationary)[over]
            place[over] = -1
    by_start = found.objective.reshape(n, -1)
    chosen = np.arange(n) * starts.shape[1] + np.argmin(by_start, axis=1)
    return Solution(found.theta[chosen], found.objective[chosen], converged[chosen])


def _padded(m: int) -> int:
    """Few shapes, each compiled once: powers of two, then multiples of 256."""
    return max(8, 1 << (m - 1).bit_length()) if m <= 256 else -(-m // 256) * 256


@functools.cache
def _compiled(mean: Callable, robust: bool) -> Callable:
    """A round of steps of every place."""
    one = functools.partial(levenberg_marquardt.advance, mean, robust)
    return jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None, None, None, None, None)))
