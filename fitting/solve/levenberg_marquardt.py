"""Levenberg-Marquardt steps on a weighted Huber loss within bounds, for `fitting.solve`.

Two quadratic models compete for each step: iteratively reweighted least squares, which is safe
far from the minimum, and the Newton model of the Huber loss, which is exact near it (Huber, Ann.
Math. Statist. 35, 1964; Marquardt, J. SIAM 11, 1963).  Scaling laws have long curved valleys
(E against alpha): every step is bent along them by its second-order correction, geodesic
acceleration (Transtrum and Sethna, arXiv 1201.5885).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MAX_STEPS = 400
_ROUND = 8  # steps between looks at what has settled
_PATIENCE = 3  # steps in a row that gain next to nothing
_LITTLE = 1e-11  # of the objective: a gain of next to nothing
_STATIONARY = 1e-6  # largest component of the projected gradient
_NEAR = 0.05  # of a bound: a parameter that is drawn to it is put there
_FIRST_DAMPING = 1e-3
_DAMPINGS = np.array([0.02, 10.0])  # times the last good one: each step tries all


class Problem(NamedTuple):
    """Points of a problem, or of a batch of them: x (..., M, ...), y and weight (..., M)."""

    x: Any
    y: Any
    weight: Any


class State(NamedTuple):
    """Where a search, or each of a batch, stands; `damping` has one value a model."""

    theta: Any
    objective: Any
    damping: Any
    idle: Any
    steps: Any

    @classmethod
    def empty(cls, n: int, n_params: int) -> State:
        """A batch of n searches that have not begun."""
        return cls(
            np.zeros((n, n_params)),
            np.full(n, np.inf),
            np.full((n, 2), _FIRST_DAMPING),
            np.zeros(n, int),
            np.zeros(n, int),
        )

    def begin(self, rows: np.ndarray, starts: np.ndarray) -> None:
        """Begins searches anew in some rows of a batch."""
        for into, values in zip(self, State.empty(len(rows), starts.shape[1]), strict=True):
            into[rows] = values
        self.theta[rows] = starts


def advance(
    mean: Callable[[jax.Array, jax.Array], jax.Array],
    robust: bool,
    state: State,
    problem: Problem,
    busy: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    delta: jax.Array,
    pivot: jax.Array,
    unpivot: jax.Array,
) -> tuple[State, jax.Array, jax.Array]:
    """Takes a round of steps of one search.

    Returns:
        The state, whether the search is over, and whether it stands where the gradient vanishes
        but for what the bounds hold.
    """
    x, y, weight = problem
    identity = jnp.eye(len(lower))

    def residuals(theta: jax.Array) -> jax.Array:
        # A point of weight 0 may lie where the curve is undefined.
        return jnp.where(weight > 0, mean(theta, x) - y, 0.0)

    def slope_along(theta: jax.Array, move: jax.Array) -> jax.Array:
        return jax.jvp(residuals, (theta,), (move,))[1]

    def objective(theta: jax.Array) -> jax.Array:
        size = jnp.abs(residuals(theta))
        inner = jnp.minimum(size, delta)
        each = inner * jnp.where(size > delta, size - 0.5 * delta, 0.5 * size)
        value = jnp.sum(weight * each)
        return jnp.where(jnp.isfinite(value), value, jnp.inf)

    def step(state: State) -> State:
        theta = state.theta
        r, jacobian = residuals(theta), jax.jacfwd(residuals)(theta)
        size = jnp.abs(r)
        pull = weight * jnp.where(size > delta, delta / jnp.maximum(size, 1e-300), 1.0)
        gradient = jacobian.T @ (pull * r)
        reweighted = jacobian.T @ (pull[:, None] * jacobian)
        newton = jacobian.T @ (jnp.where(size > delta, 0.0, weight)[:, None] * jacobian)
        scale = jnp.maximum(jnp.diagonal(reweighted), 1e-30)
        root = jnp.sqrt(scale)
        of_pivot = jnp.maximum(jnp.diagonal(unpivot.T @ reweighted @ unpivot), 1e-30)
        metric = pivot.T @ (of_pivot[:, None] * pivot)

        def candidate(curvature: jax.Array, damping: jax.Array) -> tuple[jax.Array, jax.Array]:
            drawn = theta - gradient / (scale * (1.0 + damping))
            low = (drawn <= lower) & (gradient > 0) & (theta <= lower + _NEAR)
            high = (drawn >= upper) & (gradient < 0) & (theta >= upper - _NEAR)
            free = jnp.where(low | high, 0.0, 1.0)
            damped = (curvature + damping * metric) * free[:, None] * free[None, :]
            scaled = damped / (root[:, None] * root[None, :]) + jnp.diag(1.0 - free)
            factor = jax.scipy.linalg.cho_factor(scaled + 1e-15 * identity)

            def solved(right: jax.Array) -> jax.Array:
                return jax.scipy.linalg.cho_solve(factor, right * free / root) / root

            move = solved(-gradient)
            bend = jax.jvp(lambda t: slope_along(theta + t * move, move), (0.0,), (1.0,))[1]
            turn = solved(-(jacobian.T @ (pull * bend)))
            ahead, aside = (jnp.sqrt(jnp.sum(scale * v**2)) for v in (move, turn))
            turn = turn * jnp.minimum(1.0, ahead / jnp.maximum(aside, 1e-300))
            moved = theta + move + 0.5 * turn
            moved = jnp.where(low, lower, jnp.where(high, upper, moved))
            return jnp.clip(moved, lower, upper), -gradient @ move

        models = jnp.stack([reweighted, newton] if robust else [reweighted])
        dampings = state.damping[: len(models), None] * _DAMPINGS[None, :]
        tried, promised = jax.vmap(jax.vmap(candidate, in_axes=(None, 0)))(models, dampings)
        values = jax.vmap(jax.vmap(objective))(tried)
        best = jnp.take_along_axis(dampings, jnp.argmin(values, axis=1)[:, None], axis=1)[:, 0]
        lowered = jnp.min(values, axis=1) < state.objective
        damping = jnp.where(lowered, best, 30.0 * dampings[:, -1])
        i = jnp.argmin(values)
        value = values.reshape(-1)[i]
        better = value < state.objective
        gain = jnp.where(better, state.objective - value, 0.0)
        at_bottom = jnp.max(promised) <= 0.1 * _LITTLE * state.objective
        idle = jnp.where(gain <= _LITTLE * state.objective, state.idle + 1, 0)
        return State(
            jnp.where(better, tried.reshape(-1, len(theta))[i], theta),
            jnp.where(better, value, state.objective),
            jnp.clip(jnp.resize(damping, (2,)), 1e-14, 1e15),
            jnp.where(at_bottom, _PATIENCE, idle),
            state.steps + 1,
        )

    def over(state: State) -> jax.Array:
        spent = (state.idle >= _PATIENCE) | (state.steps >= MAX_STEPS)
        return spent | (state.objective <= 1e-28)  # as good as interpolation gets

    fresh = jnp.where(state.steps == 0, objective(state.theta), state.objective)
    first, until = state._replace(objective=fresh), state.steps + _ROUND
    last = jax.lax.while_loop(lambda s: busy & ~over(s) & (s.steps < until), step, first)
    r, jacobian = residuals(last.theta), jax.jacfwd(residuals)(last.theta)
    gradient = jacobian.T @ (weight * jnp.clip(r, -delta, delta))
    projected = last.theta - jnp.clip(last.theta - gradient, lower, upper)  # as in L-BFGS-B
    stationary = jnp.max(jnp.abs(projected)) < _STATIONARY
    return last, over(last), stationary & jnp.isfinite(last.objective)
