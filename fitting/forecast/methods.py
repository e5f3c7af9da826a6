"""Ways to fit the two steps and to say how far off a forecast may be.

An engine takes the points of all tasks and returns fits with predictive distributions, as
quantiles: where the measured value will fall, not a band for the mean.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from fitting.laws import Law, Link
from fitting.laws.curves import predict
from fitting.observations.build import Points
from fitting.posterior import bayes as posterior
from fitting.posterior import sampler
from fitting.posterior.bayes import Posterior
from fitting.solve import delta, multistart
from fitting.solve.fit import Fit, summarise, with_anchor
from fitting.solve.lbfgs import fit_law, fit_link
from fitting.solve.objectives import HUBER_DELTA

N_RESAMPLES = 400
_NOISE_DRAWS = 25  # of residual noise, for each resample
_SEED = 0
_LARGEST_LOG = 700.0  # exp of more overflows


@dataclass(frozen=True)
class Outcome:
    """Fits, and the predictive distribution for each goal.

    Attributes:
        step1: the law.
        step2: the link, or None.
        first: quantiles of what the law gives, shape (G, Q).
        second: quantiles of the accuracy through the link, shape (G, Q), or None.
        posterior: what they were drawn from, of the methods that draw; all tasks share it.
    """

    step1: Fit[Law]
    step2: Fit[Link] | None
    first: np.ndarray
    second: np.ndarray | None
    posterior: Posterior | None = None


Engine = Callable[[Sequence[Points], np.ndarray], list[Outcome]]  # points, probabilities (Q,)


def paper(data: Sequence[Points], p: np.ndarray) -> list[Outcome]:
    """arXiv 2412.04403 as published: one start, its optimisers; intervals by the delta method."""
    outcomes = []
    for points in data:
        step1 = fit_law(points.law, points.x, points.y)
        step2 = None
        if points.link is not None:
            step2 = fit_link(points.link, points.feature, points.accuracy)
        outcomes.append(_by_delta_method(points, step1, step2, p))
    return outcomes


def least_squares(data: Sequence[Points], p: np.ndarray) -> list[Outcome]:
    """The paper's objectives at their best minima, from many starts; the same intervals."""
    fits = zip(data, _best_laws(data), _best_links(data), strict=True)
    return [_by_delta_method(points, step1, step2, p) for points, step1, step2 in fits]


def _by_delta_method(
    points: Points, step1: Fit[Law], step2: Fit[Link] | None, p: np.ndarray
) -> Outcome:
    first, second = [], []
    for goal in points.goals:
        value = float(predict(step1.curve, step1.theta, goal))
        first.append(value * np.exp(delta.law_spread(step1, goal).quantiles(p)))
        if step2 is not None:
            through = float(predict(step2.curve, step2.theta, value))
            second.append(through + delta.chained_spread(step1, step2, goal).quantiles(p))
    return Outcome(step1, step2, np.array(first), np.array(second) if second else None)


def bootstrap(data: Sequence[Points], p: np.ndarray) -> list[Outcome]:
    """Resampled runs plus residual noise; forecasts are medians.

    Runs are resampled by Dirichlet weights (the Bayesian bootstrap of Rubin, Ann. Statist. 9,
    1981): drawing nine runs with replacement leaves fewer distinct ones than a law has parameters.
    A run keeps its weight in both steps.  Residual noise is Student's, with the degrees of freedom
    that the runs leave: the checkpoints of a run are not independent.
    """
    n_runs = len(data[0].y)
    rng = np.random.default_rng(_SEED)
    weights = n_runs * rng.dirichlet(np.ones(n_runs), N_RESAMPLES)
    step1, step2 = _best_laws(data), _best_links(data)
    first = multistart.laws(data, weights, np.array([[fit.theta] for fit in step1])).theta
    second = _resampled_links(data, step2, weights)
    return [
        _from_resamples(points, one, two, first[:, t], second[t], p)
        for t, (points, one, two) in enumerate(zip(data, step1, step2, strict=True))
    ]


def _from_resamples(
    points: Points,
    step1: Fit[Law],
    step2: Fit[Link] | None,
    first: np.ndarray,
    second: np.ndarray | None,
    p: np.ndarray,
) -> Outcome:
    """Draws of losses and accuracies from parameters of shape (B, P) and residual noise."""
    rng = np.random.default_rng([_SEED, 1])  # other draws than the weights'
    n_runs = len(points.y)
    log_losses = _evaluate(points.law.log_mean, first, np.log(points.goals))
    dof = max(1, n_runs - len(points.law.params))
    noise = rng.standard_t(dof, (*log_losses.shape, _NOISE_DRAWS))
    log_losses = log_losses[..., None] + step1.residual_sd * noise  # (B, G, draws)
    losses = np.exp(np.minimum(log_losses, _LARGEST_LOG))  # one run to spare: the tails are wild
    quantiles = _quantiles(losses, p)
    if step2 is None or second is None:
        return Outcome(step1, None, quantiles, None)
    flat = losses.reshape(len(losses), -1)
    means = _evaluate(step2.curve.mean, second, flat, own=True).reshape(losses.shape)
    dof = max(1, n_runs - len(step2.curve.params))
    accuracies = means + step2.residual_sd * rng.standard_t(dof, means.shape)
    return Outcome(step1, step2, quantiles, _quantiles(np.clip(accuracies, 0.0, 1.0), p))


def _best_laws(data: Sequence[Points]) -> list[Fit[Law]]:
    law = data[0].law
    starts = []
    for points in data:
        theirs = fit_law(law, points.x, points.y).theta  # so that ours is never the worse
        own = law.starts(np.log(points.x), np.log(points.y))
        starts.append(np.concatenate([law.start[None], theirs[None], own]))
    found = multistart.laws(data, np.ones((1, len(data[0].y))), np.array(starts))
    return [
        summarise(
            law, theta, float(objective), np.log(points.x), np.log(points.y), bool(settled),
            HUBER_DELTA,
        )
        for points, theta, objective, settled in zip(
            data, found.theta[0], found.objective[0], found.converged[0], strict=True
        )
    ]  # fmt: skip


def _with_links(data: Sequence[Points]) -> tuple[Link | None, list[int]]:
    """The link that the tasks with a second step share, and which they are."""
    which = [t for t, points in enumerate(data) if points.link is not None]
    return (data[which[0]].link if which else None), which


def _best_links(data: Sequence[Points]) -> list[Fit[Link] | None]:
    fits: list[Fit[Link] | None] = [None] * len(data)
    link, which = _with_links(data)
    if link is None:
        return fits
    linked = [data[t] for t in which]
    own = [link.starts(points.feature, points.accuracy) for points in linked]
    starts = np.array([np.concatenate([link.start[None], s]) for s in own])
    found = multistart.links(linked, link, np.ones((1, len(data[0].y))), starts)
    for i, t in enumerate(which):
        x, y = with_anchor(link, data[t].feature, data[t].accuracy)
        objective, settled = 2 * float(found.objective[0, i]), bool(found.converged[0, i])
        fits[t] = summarise(link, found.theta[0, i], objective, x, y, settled)
    return fits


def _resampled_links(
    data: Sequence[Points], fits: Sequence[Fit[Link] | None], weights: np.ndarray
) -> list[np.ndarray | None]:
    """Of each task with a link: parameters of shape (B, P)."""
    thetas: list[np.ndarray | None] = [None] * len(data)
    link, which = _with_links(data)
    if link is None:
        return thetas
    starts = np.array([[fit.theta] for fit in fits if fit is not None])
    found = multistart.links([data[t] for t in which], link, weights, starts)
    for i, t in enumerate(which):
        thetas[t] = found.theta[:, i]
    return thetas


def _evaluate(
    function: Callable, theta: np.ndarray, x: np.ndarray, own: bool = False
) -> np.ndarray:
    """A curve at every theta of shape (B, P): at x, or at each theta's own x of shape (B, ...)."""
    with jax.enable_x64():
        return np.asarray(_over_thetas(function, own)(theta, x))


@functools.cache
def _over_thetas(function: Callable, own: bool) -> Callable:
    return jax.jit(jax.vmap(function, in_axes=(0, 0 if own else None)))


def _quantiles(draws: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Of draws of shape (B, G, draws): shape (G, Q)."""
    flat = np.moveaxis(draws, 1, 0).reshape(draws.shape[1], -1)
    return np.quantile(flat, p, axis=1).T


def bayes(data: Sequence[Points], p: np.ndarray) -> list[Outcome]:
    """The posterior of `fitting.hierarchy`, sampled."""
    return _from_posterior(data, p, sampler.nuts)


def laplace(data: Sequence[Points], p: np.ndarray) -> list[Outcome]:
    """The posterior of `fitting.hierarchy`, taken as normal about its mode."""
    return _from_posterior(data, p, sampler.laplace)


def _from_posterior(
    data: Sequence[Points], p: np.ndarray, sample: posterior.Sampler
) -> list[Outcome]:
    found = posterior.fit(data, sample)
    losses, accuracies = posterior.predict(found, data)
    outcomes = []
    for t, points in enumerate(data):
        step1, step2 = posterior.curves(found, points, t)
        first, second = np.quantile(losses[:, t], p, axis=0).T, None
        if accuracies is not None and t in found.linked:
            second = np.quantile(accuracies[:, found.linked.index(t)], p, axis=0).T
        outcomes.append(Outcome(step1, step2, first, second, found))
    return outcomes


ENGINES: dict[str, Engine] = {
    "paper": paper,
    "least-squares": least_squares,
    "bootstrap": bootstrap,
    "bayes": bayes,
    "laplace": laplace,
}
POOLING = ("bayes", "laplace")  # methods in which tasks learn from one another
