"""Levenberg-Marquardt steps on a weighted Huber loss within bounds, for `fitting.solve.batched`.

Two quadratic models compete for each step: iteratively reweighted least squares, which is safe
far from the minimum, and the Newton model of the Huber loss, which is exact near it (Huber, Ann.
Math. Statist. 35, 1964; Marquardt, J. SIAM 11, 1963).  Scaling laws have long curved valleys
(E against alpha): every step is bent along them by its second-order correction, geodesic
acceleration (Transtrum and Sethna, arXiv 1201.5885).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MAX_STEPS = 400
_ROUND = 8  # steps between checks of which searches are over
_PATIENCE = 3  # steps in a row with a negligible gain that end a search
_NEGLIGIBLE = 1e-11  # gain, relative to the objective
_STATIONARY = 1e-6  # largest component of the projected gradient
_NEAR = 0.05  # distance from a bound within which a parameter that moves to it is put on it
_FIRST_DAMPING = 1e-3
_DAMPINGS = np.array([0.02, 10.0])  # times the last successful one: each step tries all

Mean = Callable[[jax.Array, jax.Array], jax.Array]  # (theta (P,), x (M, ...)) -> (M,)


class FitPoints(NamedTuple):
    """Points of one fit, or of a batch of fits: x (..., M, ...), y and weight (..., M)."""

    x: Any
    y: Any
    weight: Any


class Fixed(NamedTuple):
    """Quantities that are equal for all searches.

    Attributes:
        lower: bounds, shape (P,).
        upper: bounds, shape (P,).
        delta: Huber's; infinite for least squares.
        pivot: theta -> coordinates in which steps are damped, shape (P, P).
        unpivot: its inverse, shape (P, P).
    """

    lower: Any
    upper: Any
    delta: Any
    pivot: Any
    unpivot: Any


class State(NamedTuple):
    """The state of a search, or of each of a batch.

    Attributes:
        theta: shape (P,).
        objective: at theta.
        damping: one value for each of the two models, shape (2,).
        idle: steps in a row with a negligible gain.
        steps: steps taken.
    """

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
        """Starts new searches in some rows of a batch."""
        for column, values in zip(self, State.empty(len(rows), starts.shape[1]), strict=True):
            column[rows] = values
        self.theta[rows] = starts


class RoundResult(NamedTuple):
    """The state of a search after a round of steps.

    Attributes:
        state: after the round.
        over: whether the search is over.
        stationary: whether the gradient vanishes, apart from components that a bound holds.
    """

    state: State
    over: jax.Array
    stationary: jax.Array


class _LocalModel(NamedTuple):
    """The objective near theta: gradient, metric of the steps, and scales."""

    theta: jax.Array
    jacobian: jax.Array
    pull: jax.Array  # weight times the derivative of the Huber loss over the residual, (M,)
    gradient: jax.Array
    scale: jax.Array
    root: jax.Array
    metric: jax.Array


def advance(
    mean: Mean, robust: bool, state: State, points: FitPoints, busy: jax.Array, fixed: Fixed
) -> RoundResult:
    """Takes a round of steps of one search.

    Args:
        mean: the curve.
        robust: whether the loss is Huber's; else least squares, with one model of it.
        state: of the search; its objective is computed where no step has been taken.
        points: to fit.
        busy: whether the search goes on; if not, nothing changes.
        fixed: bounds, delta and pivot.
    """
    residuals = functools.partial(_residuals, mean, points)
    objective = functools.partial(_objective, residuals, points.weight, fixed.delta)
    step = functools.partial(_step, residuals, objective, robust, points.weight, fixed)
    fresh = jnp.where(state.steps == 0, objective(state.theta), state.objective)
    first, until = state._replace(objective=fresh), state.steps + _ROUND
    last = jax.lax.while_loop(lambda s: busy & ~_over(s) & (s.steps < until), step, first)
    r, jacobian = residuals(last.theta), jax.jacfwd(residuals)(last.theta)
    gradient = jacobian.T @ (points.weight * jnp.clip(r, -fixed.delta, fixed.delta))
    moved = jnp.clip(last.theta - gradient, fixed.lower, fixed.upper)
    projected = last.theta - moved  # as in L-BFGS-B
    stationary = jnp.max(jnp.abs(projected)) < _STATIONARY
    return RoundResult(last, _over(last), stationary & jnp.isfinite(last.objective))


def _residuals(mean: Mean, points: FitPoints, theta: jax.Array) -> jax.Array:
    # A point of weight 0 may lie where the curve is undefined.
    return jnp.where(points.weight > 0, mean(theta, points.x) - points.y, 0.0)


def _objective(
    residuals: Callable, weight: jax.Array, delta: jax.Array, theta: jax.Array
) -> jax.Array:
    """Weighted Huber sum; infinite where it is not a number."""
    size = jnp.abs(residuals(theta))
    inner = jnp.minimum(size, delta)
    each = inner * jnp.where(size > delta, size - 0.5 * delta, 0.5 * size)
    value = jnp.sum(weight * each)
    return jnp.where(jnp.isfinite(value), value, jnp.inf)


def _over(state: State) -> jax.Array:
    spent = (state.idle >= _PATIENCE) | (state.steps >= MAX_STEPS)
    return spent | (state.objective <= 1e-28)  # as good as interpolation gets


def _step(
    residuals: Callable,
    objective: Callable,
    robust: bool,
    weight: jax.Array,
    fixed: Fixed,
    state: State,
) -> State:
    """Tries every model at every damping; keeps the best result if it lowers the objective."""
    local, models = _local_model(residuals, robust, weight, fixed, state.theta)
    candidate = functools.partial(_candidate, residuals, fixed, local)
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
    at_bottom = jnp.max(promised) <= 0.1 * _NEGLIGIBLE * state.objective
    idle = jnp.where(gain <= _NEGLIGIBLE * state.objective, state.idle + 1, 0)
    return State(
        jnp.where(better, tried.reshape(-1, len(state.theta))[i], state.theta),
        jnp.where(better, value, state.objective),
        jnp.clip(jnp.resize(damping, (2,)), 1e-14, 1e15),
        jnp.where(at_bottom, _PATIENCE, idle),
        state.steps + 1,
    )


def _local_model(
    residuals: Callable, robust: bool, weight: jax.Array, fixed: Fixed, theta: jax.Array
) -> tuple[_LocalModel, jax.Array]:
    """The objective near theta, and the curvatures (n, P, P) of the models that compete."""
    r, jacobian = residuals(theta), jax.jacfwd(residuals)(theta)
    size = jnp.abs(r)
    outside = size > fixed.delta
    pull = weight * jnp.where(outside, fixed.delta / jnp.maximum(size, 1e-300), 1.0)
    gradient = jacobian.T @ (pull * r)
    reweighted = jacobian.T @ (pull[:, None] * jacobian)
    newton = jacobian.T @ (jnp.where(outside, 0.0, weight)[:, None] * jacobian)
    scale = jnp.maximum(jnp.diagonal(reweighted), 1e-30)
    root = jnp.sqrt(scale)
    pivoted = fixed.unpivot.T @ reweighted @ fixed.unpivot
    of_pivot = jnp.maximum(jnp.diagonal(pivoted), 1e-30)
    metric = fixed.pivot.T @ (of_pivot[:, None] * fixed.pivot)
    models = jnp.stack([reweighted, newton] if robust else [reweighted])
    return _LocalModel(theta, jacobian, pull, gradient, scale, root, metric), models


def _candidate(
    residuals: Callable,
    fixed: Fixed,
    local: _LocalModel,
    curvature: jax.Array,
    damping: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The parameters after one damped and bent step, and the gain that the model promises."""
    theta, gradient, root = local.theta, local.gradient, local.root
    drawn = theta - gradient / (local.scale * (1.0 + damping))
    low = (drawn <= fixed.lower) & (gradient > 0) & (theta <= fixed.lower + _NEAR)
    high = (drawn >= fixed.upper) & (gradient < 0) & (theta >= fixed.upper - _NEAR)
    free = jnp.where(low | high, 0.0, 1.0)
    damped = (curvature + damping * local.metric) * free[:, None] * free[None, :]
    scaled = damped / (root[:, None] * root[None, :]) + jnp.diag(1.0 - free)
    factor = jax.scipy.linalg.cho_factor(scaled + 1e-15 * jnp.eye(len(theta)))

    def solved(right: jax.Array) -> jax.Array:
        return jax.scipy.linalg.cho_solve(factor, right * free / root) / root

    def slope_along(at: jax.Array, direction: jax.Array) -> jax.Array:
        return jax.jvp(residuals, (at,), (direction,))[1]

    move = solved(-gradient)
    bend = jax.jvp(lambda t: slope_along(theta + t * move, move), (0.0,), (1.0,))[1]
    correction = solved(-(local.jacobian.T @ (local.pull * bend)))
    ahead, aside = (jnp.sqrt(jnp.sum(local.scale * v**2)) for v in (move, correction))
    correction = correction * jnp.minimum(1.0, ahead / jnp.maximum(aside, 1e-300))
    moved = theta + move + 0.5 * correction
    moved = jnp.where(low, fixed.lower, jnp.where(high, fixed.upper, moved))
    return jnp.clip(moved, fixed.lower, fixed.upper), -gradient @ move
