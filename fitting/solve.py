"""Many small fits at once: bounded Levenberg-Marquardt on a weighted Huber loss, float64, one jit.

Every problem is one curve, its points, one row of weights (a resample, a subset, a task) and one
start.  Two quadratic models compete for each step: iteratively reweighted least squares, which is
safe far from the minimum, and the Newton model of the Huber loss, which is exact near it (Huber,
Ann. Math. Statist. 35, 1964; Marquardt, J. SIAM 11, 1963).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MAX_STEPS = 2000
_PATIENCE = 8  # steps in a row that gain next to nothing
_STATIONARY = 1e-6


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


class _State(NamedTuple):
    theta: jax.Array
    objective: jax.Array
    damping: jax.Array
    idle: jax.Array
    steps: jax.Array


def solve(
    mean: Callable[[jax.Array, jax.Array], jax.Array],
    bounds: tuple[np.ndarray, np.ndarray],
    starts: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    delta: float = np.inf,
) -> Solution:
    """Fits `mean(theta, x) = y` once for each row of weights, from the best of its starts.

    Args:
        mean: (theta of shape (P,), x of shape (M, ...)) -> shape (M,); a module-level function,
            since compiled code is kept by it.
        bounds: lower and upper, each of shape (P,).
        starts: shape (S, P).
        x: shape (M, ...), or (B, M, ...) for points of each problem's own.
        y: shape (M,) or (B, M).
        weights: shape (B, M), not negative.
        delta: Huber's; infinite for least squares.
    """
    own = np.ndim(y) == 2
    with jax.enable_x64():
        run = _compiled(mean, own)
        lower, upper = (np.asarray(b, float) for b in bounds)
        inside = np.clip(np.asarray(starts, float), lower, upper)
        theta, objective, converged = (
            np.asarray(v)
            for v in run(inside, x, y, np.asarray(weights, float), lower, upper, float(delta))
        )
    best = np.argmin(np.where(np.isfinite(objective), objective, np.inf), axis=1)
    rows = np.arange(len(best))
    return Solution(theta[rows, best], objective[rows, best], converged[rows, best])


@functools.cache
def _compiled(mean: Callable, own_points: bool) -> Callable:
    """(starts, x, y, weights, lower, upper, delta) -> arrays of shape (B, S, ...)."""
    one = functools.partial(_solve_one, mean)
    over_starts = jax.vmap(one, in_axes=(0, None, None, None, None, None, None))
    points = 0 if own_points else None
    return jax.jit(jax.vmap(over_starts, in_axes=(None, points, points, 0, None, None, None)))


def _solve_one(
    mean: Callable,
    start: jax.Array,
    x: jax.Array,
    y: jax.Array,
    weight: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    delta: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    def residuals(theta: jax.Array) -> jax.Array:
        return mean(theta, x) - y

    def objective(theta: jax.Array) -> jax.Array:
        size = jnp.abs(residuals(theta))
        inner = jnp.minimum(size, delta)
        value = jnp.sum(weight * inner * jnp.where(size > delta, size - 0.5 * delta, 0.5 * size))
        return jnp.where(jnp.isnan(value), jnp.inf, value)

    def step(state: _State) -> _State:
        theta = state.theta
        r, jacobian = residuals(theta), jax.jacfwd(residuals)(theta)
        size = jnp.abs(r)
        robust = weight * jnp.where(size > delta, delta / jnp.maximum(size, 1e-300), 1.0)
        gradient = jacobian.T @ (robust * r)
        held = ((theta <= lower) & (gradient > 0)) | ((theta >= upper) & (gradient < 0))
        free = jnp.where(held, 0.0, 1.0)
        reweighted = jacobian.T @ (robust[:, None] * jacobian)
        newton = jacobian.T @ (jnp.where(size > delta, 0.0, weight)[:, None] * jacobian)
        scale = jnp.maximum(jnp.diagonal(reweighted), 1e-30)

        def candidate(curvature: jax.Array) -> jax.Array:
            damped = curvature + state.damping * jnp.diag(scale)
            damped = damped * free[:, None] * free[None, :] + jnp.diag(1.0 - free)
            move = _solve_spd(damped, -gradient * free, scale)
            return jnp.clip(theta + move, lower, upper)

        tried = jnp.stack([candidate(reweighted), candidate(newton)])
        values = jax.vmap(objective)(tried)
        i = jnp.argmin(values)
        better = values[i] < state.objective
        gain = jnp.where(better, state.objective - values[i], 0.0)
        idle = gain <= 1e-13 * state.objective
        damping = state.damping * jnp.where(better, 0.2, 8.0)
        stuck = (idle & better) | (damping > 1e12)
        return _State(
            jnp.where(better, tried[i], theta),
            jnp.where(better, values[i], state.objective),
            jnp.clip(damping, 1e-15, 1e15),
            jnp.where(stuck, state.idle + 1, jnp.where(better, 0, state.idle)),
            state.steps + 1,
        )

    def more(state: _State) -> jax.Array:
        return (state.idle < _PATIENCE) & (state.steps < MAX_STEPS) & (state.objective > 0)

    zero = jnp.zeros((), int)
    first = _State(start, objective(start), jnp.asarray(1e-2), zero, zero)
    last = jax.lax.while_loop(more, step, first)
    r, jacobian = residuals(last.theta), jax.jacfwd(residuals)(last.theta)
    gradient = jacobian.T @ (weight * jnp.clip(r, -delta, delta))
    # What the bounds leave free of it: the test of L-BFGS-B.
    projected = last.theta - jnp.clip(last.theta - gradient, lower, upper)
    stationary = jnp.max(jnp.abs(projected)) < _STATIONARY
    return last.theta, last.objective, stationary & jnp.isfinite(last.objective)


def _solve_spd(matrix: jax.Array, right: jax.Array, scale: jax.Array) -> jax.Array:
    """Solves a small positive system by Cholesky, written out: a LAPACK call each is slower."""
    d = 1.0 / jnp.sqrt(scale)
    a = matrix * d[:, None] * d[None, :]
    n = a.shape[0]
    factor: list[list[Any]] = [[0.0] * n for _ in range(n)]
    for j in range(n):
        pivot = a[j, j] - sum(factor[j][k] ** 2 for k in range(j))
        factor[j][j] = jnp.sqrt(jnp.maximum(pivot, 1e-16))
        for i in range(j + 1, n):
            inner = sum(factor[i][k] * factor[j][k] for k in range(j))
            factor[i][j] = (a[i, j] - inner) / factor[j][j]
    b, half, full = right * d, [], [jnp.zeros(())] * n
    for i in range(n):
        half.append((b[i] - sum(factor[i][k] * half[k] for k in range(i))) / factor[i][i])
    for i in reversed(range(n)):
        inner = sum(factor[k][i] * full[k] for k in range(i + 1, n))
        full[i] = (half[i] - inner) / factor[i][i]
    return jnp.stack(full) * d
