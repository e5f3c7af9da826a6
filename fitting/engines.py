"""Ways to fit the two steps and to say how far off a forecast may be.

An engine takes the points of one task and returns fits with predictive intervals: where the
measured value will fall, not a band for the mean.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from fitting import solve, uncertainty
from fitting.laws import Law, Link
from fitting.objectives import HUBER_DELTA
from fitting.optimise import Fit, fit_law, fit_link, predict, summarise

N_RESAMPLES = 400
_NOISE_DRAWS = 25  # of residual noise, for each resample
_SEED = 0
_LARGEST_LOG = 700.0  # exp of more overflows


@dataclass(frozen=True)
class Points:
    """What is fitted and forecast for one task.

    Attributes:
        law: of step 1.
        link: of step 2, or None for a forecast of what the law gives.
        x: law inputs of the R training runs, shape (R, I).
        y: what the law gives, shape (R,).
        run: index of the run of each of M checkpoints, shape (M,).
        feature: shape (M,).
        accuracy: shape (M,).
        goals: law inputs of G targets, shape (G, I).
    """

    law: Law
    link: Link | None
    x: np.ndarray
    y: np.ndarray
    run: np.ndarray
    feature: np.ndarray
    accuracy: np.ndarray
    goals: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """Fits, and for each goal and level the forecast with its interval.

    Attributes:
        step1: the law.
        step2: the link, or None.
        first: of what the law gives: forecast, low and high, shape (G, K, 3).
        second: of the accuracy through the link, shape (G, K, 3), or None.
    """

    step1: Fit[Law]
    step2: Fit[Link] | None
    first: np.ndarray
    second: np.ndarray | None


Engine = Callable[[Points, Sequence[float]], Outcome]


def paper(points: Points, levels: Sequence[float]) -> Outcome:
    """arXiv 2412.04403 as published: one start, its optimisers; intervals by the delta method."""
    step1 = fit_law(points.law, points.x, points.y)
    step2 = None
    if points.link is not None:
        step2 = fit_link(points.link, points.feature, points.accuracy)
    return _by_delta_method(points, step1, step2, levels)


def least_squares(points: Points, levels: Sequence[float]) -> Outcome:
    """The paper's objectives at their best minima, from many starts; the same intervals."""
    step2 = None if points.link is None else _best_link(points, points.link)
    return _by_delta_method(points, _best_law(points), step2, levels)


def _by_delta_method(
    points: Points, step1: Fit[Law], step2: Fit[Link] | None, levels: Sequence[float]
) -> Outcome:
    first, second = [], []
    for goal in points.goals:
        value = float(predict(step1.curve, step1.theta, goal))
        spread = uncertainty.law_spread(step1, goal)
        halves = np.array([spread.half_width(level) for level in levels])
        first.append(value * np.exp(np.stack([0 * halves, -halves, halves], axis=-1)))
        if step2 is not None:
            through = float(predict(step2.curve, step2.theta, value))
            chained = uncertainty.chained_spread(step1, step2, goal)
            halves = np.array([chained.half_width(level) for level in levels])
            second.append(through + np.stack([0 * halves, -halves, halves], axis=-1))
    return Outcome(step1, step2, np.array(first), np.array(second) if second else None)


def bootstrap(points: Points, levels: Sequence[float]) -> Outcome:
    """Resampled runs plus residual noise; forecasts are medians.

    Runs are resampled by Dirichlet weights (the Bayesian bootstrap of Rubin, Ann. Statist. 9,
    1981): drawing nine runs with replacement leaves fewer distinct ones than a law has parameters.
    A run keeps its weight in both steps.  Residual noise is Student's, with the degrees of freedom
    that the runs leave: the checkpoints of a run are not independent.
    """
    n_runs = len(points.y)
    rng = np.random.default_rng(_SEED)
    weights = n_runs * rng.dirichlet(np.ones(n_runs), N_RESAMPLES)
    step1 = _best_law(points)
    theta = _solve_law(points, step1.theta[None], weights).theta
    log_first = _evaluate(points.law.log_mean, theta, np.log(points.goals))
    dof = max(1, n_runs - len(points.law.params))
    noise = rng.standard_t(dof, (*log_first.shape, _NOISE_DRAWS))
    log_losses = log_first[..., None] + step1.residual_sd * noise  # (B, G, draws)
    losses = np.exp(np.minimum(log_losses, _LARGEST_LOG))  # one run to spare: the tails are wild
    first = _quantiles(losses, levels)
    if points.link is None:
        return Outcome(step1, None, first, None)
    step2 = _best_link(points, points.link)
    theta = _solve_link(points, points.link, step2.theta[None], weights).theta
    flat = losses.reshape(len(losses), -1)
    means = _evaluate(points.link.mean, theta, flat, own=True).reshape(losses.shape)
    dof = max(1, n_runs - len(points.link.params))
    accuracies = means + step2.residual_sd * rng.standard_t(dof, means.shape)
    return Outcome(step1, step2, first, _quantiles(np.clip(accuracies, 0.0, 1.0), levels))


def _best_law(points: Points) -> Fit[Law]:
    law, log_x, log_y = points.law, np.log(points.x), np.log(points.y)
    theirs = fit_law(law, points.x, points.y).theta  # so that ours is never the worse
    starts = np.concatenate([law.start[None], theirs[None], law.starts(log_x, log_y)])
    found = _solve_law(points, starts, np.ones((1, len(log_y))))
    objective, converged = float(found.objective[0]), bool(found.converged[0])
    return summarise(law, found.theta[0], objective, log_x, log_y, converged, HUBER_DELTA)


def _solve_law(points: Points, starts: np.ndarray, weights: np.ndarray) -> solve.Solution:
    """One fit for each row of run weights, shape (B, R)."""
    law, log_x, log_y = points.law, np.log(points.x), np.log(points.y)
    return solve.solve(law.log_mean, law.bounds, starts, log_x, log_y, weights, HUBER_DELTA)


def _best_link(points: Points, link: Link) -> Fit[Link]:
    starts = np.concatenate([link.start[None], link.starts(points.feature, points.accuracy)])
    found = _solve_link(points, link, starts, np.ones((1, len(points.y))))
    objective, converged = 2 * float(found.objective[0]), bool(found.converged[0])
    return summarise(link, found.theta[0], objective, *_link_data(points, link), converged)


def _solve_link(
    points: Points, link: Link, starts: np.ndarray, weights: np.ndarray
) -> solve.Solution:
    """One fit for each row of run weights, shape (B, R); a checkpoint weighs what its run does."""
    of_points = weights[:, points.run]
    if link.anchor is not None:
        of_points = np.append(of_points, np.ones((len(weights), 1)), axis=1)
    return solve.solve(link.mean, link.bounds, starts, *_link_data(points, link), of_points)


def _link_data(points: Points, link: Link) -> tuple[np.ndarray, np.ndarray]:
    if link.anchor is None:
        return points.feature, points.accuracy
    return np.append(points.feature, link.anchor[0]), np.append(points.accuracy, link.anchor[1])


def _evaluate(
    function: Callable, theta: np.ndarray, x: np.ndarray, own: bool = False
) -> np.ndarray:
    """A curve at every theta of shape (B, P): at x, or at each theta's own x of shape (B, ...)."""
    with jax.enable_x64():
        return np.asarray(_over_thetas(function, own)(theta, x))


@functools.cache
def _over_thetas(function: Callable, own: bool) -> Callable:
    return jax.jit(jax.vmap(function, in_axes=(0, 0 if own else None)))


def _quantiles(draws: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Median and central interval of draws of shape (B, G, draws): shape (G, K, 3)."""
    flat = np.moveaxis(draws, 1, 0).reshape(draws.shape[1], -1)
    wanted = [(0.5, 0.5 - level / 2, 0.5 + level / 2) for level in levels]
    return np.moveaxis(np.quantile(flat, np.array(wanted), axis=1), -1, 0)


ENGINES: dict[str, Engine] = {
    "paper": paper,
    "least-squares": least_squares,
    "bootstrap": bootstrap,
}
