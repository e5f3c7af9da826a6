"""Many small fits at once: bounded, robust least squares from many starts, float64, one jit.

Every search has one curve, its points, one row of weights (a resample, a subset, a task) and one
start.  `fitting.solve.levenberg_marquardt` takes the steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from fitting.solve import levenberg_marquardt
from fitting.solve.levenberg_marquardt import FitPoints, Fixed, Mean, State

_PLACES = 16  # searches at work at once: enough to fill vector units, few enough for the cache


class Solution(NamedTuple):
    """Minima of B fits.

    Attributes:
        theta: shape (B, P).
        objective: shape (B,).
        converged: shape (B,): whether the gradient vanishes, apart from components
            that a bound holds.
    """

    theta: np.ndarray
    objective: np.ndarray
    converged: np.ndarray


def solve(
    mean: Mean,
    bounds: tuple[np.ndarray, np.ndarray],
    starts: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    delta: float = np.inf,
    pivot: np.ndarray | None = None,
) -> Solution:
    """Fits `mean(theta, x) = y` once for each of B rows of weights, from the best of its starts.

    The searches, fits times starts, share a few places; each place takes the next search as soon as
    its own is over.  One shape is compiled, and no search waits for the slowest.

    Args:
        mean: (theta of shape (P,), x of shape (M, ...)) -> shape (M,); a module-level function,
            since compiled code is kept by it.
        bounds: lower and upper, each of shape (P,).
        starts: shape (B or 1, S, P).
        x: shape (B or 1, M, ...).
        y: shape (B or 1, M).
        weights: shape (B, M), not negative; points of weight 0 are ignored.
        delta: Huber's; infinite for least squares.
        pivot: (P, P), unit determinant: theta -> coordinates in which the data determine the
            parameters as independently as possible; steps are damped in these.  Default: theta.
    """
    lower, upper = (np.asarray(b, float) for b in bounds)
    pivot = np.eye(len(lower)) if pivot is None else np.asarray(pivot, float)
    fixed = Fixed(lower, upper, float(delta), pivot, np.linalg.inv(pivot))
    weights = np.asarray(weights, float)
    n = len(weights)
    x, y, starts = (
        np.broadcast_to(np.asarray(v, float), (n, *np.shape(v)[1:])) for v in (x, y, starts)
    )
    starts = np.clip(starts, lower, upper)
    found, converged = _search(mean, FitPoints(x, y, weights), starts, fixed)
    by_start = found.objective.reshape(n, -1)
    chosen = np.arange(n) * starts.shape[1] + np.argmin(by_start, axis=1)
    return Solution(found.theta[chosen], found.objective[chosen], converged[chosen])


def _search(
    mean: Mean, points: FitPoints, starts: np.ndarray, fixed: Fixed
) -> tuple[State, np.ndarray]:
    """Searches from S starts for each of B fits: final states and convergence, B S rows."""
    n, n_starts, n_params = starts.shape
    m = points.y.shape[1]
    fit_of, start_of = np.divmod(np.arange(n * n_starts), n_starts)
    found, converged = State.empty(len(fit_of), n_params), np.zeros(len(fit_of), bool)
    shape = (_PLACES, _padded(m))
    active = FitPoints(np.ones((*shape, *points.x.shape[2:])), np.ones(shape), np.zeros(shape))
    state = State.empty(_PLACES, n_params)
    place = np.full(_PLACES, -1)  # the search that each works on
    advance = _compiled(mean, bool(np.isfinite(fixed.delta)))
    waiting = 0
    with jax.enable_x64():
        while waiting < len(fit_of) or (place >= 0).any():
            free = np.flatnonzero(place < 0)[: len(fit_of) - waiting]
            place[free] = begun = np.arange(waiting, waiting + len(free))
            waiting += len(free)
            for column, values in zip(active, points, strict=True):
                column[free, :m] = values[fit_of[begun]]
            state.begin(free, starts[fit_of[begun], start_of[begun]])
            busy = place >= 0
            after, done, stationary = advance(state, active, busy, fixed)
            state = State(*(np.array(v) for v in after))
            over = np.flatnonzero(busy & np.asarray(done))
            for column, values in zip(found, state, strict=True):
                column[place[over]] = values[over]
            converged[place[over]] = np.asarray(stationary)[over]
            place[over] = -1
    return found, converged


def _padded(m: int) -> int:
    """Length that m points are padded to: few shapes are compiled (powers of 2, then of 256)."""
    return max(8, 1 << (m - 1).bit_length()) if m <= 256 else -(-m // 256) * 256


@functools.cache
def _compiled(mean: Mean, robust: bool) -> Callable:
    """A round of steps of every place, compiled."""
    one = functools.partial(levenberg_marquardt.advance, mean, robust)
    return jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None)))
