"""The bootstrap: fits to resampled runs, with residual noise.

Runs are resampled by Dirichlet weights (the Bayesian bootstrap of Rubin, Ann. Statist. 9, 1981):
drawing nine runs with replacement leaves fewer distinct ones than a law has parameters.  A run has
the same weight in both steps.  Residual noise has a Student t distribution.  Its degrees of freedom
are counted in runs, since the checkpoints of a run are not independent.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from fitting.forecast.fitted import FittedModel, FittedTask, Prediction
from fitting.observations.arrays import Observations, Targets
from fitting.solve import multistart
from fitting.solve.multistart import best_laws, best_links

N_RESAMPLES = 400
_NOISE_DRAWS = 25  # draws of residual noise for each resample
_SEED = 0
_LARGEST_LOG = 700.0  # exp of a larger number overflows


@dataclass(frozen=True)
class ResampledModel(FittedModel):
    """Curves of T tasks at the best minima, and their parameters for each of B resamples.

    Attributes:
        laws: parameters of the law, shape (B, T, P).
        links: parameters of each task's link, shape (B, P'), None for a task without a link.
    """

    laws: np.ndarray
    links: tuple[np.ndarray | None, ...]

    def predict(self, targets: Sequence[Targets], p: np.ndarray) -> list[Prediction]:
        """Predicts as `FittedModel.predict` documents; forecasts are medians of draws."""
        return [
            _predict(task, len(data.y), ahead, self.laws[:, t], self.links[t], p)
            for t, (task, data, ahead) in enumerate(
                zip(self.tasks, self.observations, targets, strict=True)
            )
        ]


def fit_resampled(data: Sequence[Observations]) -> ResampledModel:
    """Fits all resamples of all tasks at once, starting from the fit to all runs."""
    n_runs = len(data[0].y)
    rng = np.random.default_rng(_SEED)
    weights = n_runs * rng.dirichlet(np.ones(n_runs), N_RESAMPLES)
    step1, step2 = best_laws(data), best_links(data)
    laws = multistart.laws(data, weights, np.array([[fit.theta] for fit in step1])).theta
    starts = [None if fit is None else fit.theta for fit in step2]
    links = multistart.links_of_tasks(data, weights, starts)
    tasks = tuple(FittedTask(*both) for both in zip(step1, step2, strict=True))
    return ResampledModel(tuple(data), tasks, laws, tuple(links))


def _predict(
    task: FittedTask,
    n_runs: int,
    targets: Targets,
    law: np.ndarray,
    link: np.ndarray | None,
    p: np.ndarray,
) -> Prediction:
    """Quantiles from parameters of shape (B, P) and residual noise."""
    step1, step2 = task
    rng = np.random.default_rng([_SEED, 1])  # not the draws of the weights
    log_losses = _evaluate(step1.curve.log_mean, law, np.log(targets.inputs))
    dof = max(1, n_runs - len(step1.curve.params))
    noise = rng.standard_t(dof, (*log_losses.shape, _NOISE_DRAWS))
    log_losses = log_losses[..., None] + step1.residual_sd * noise  # (B, G, draws)
    # With one degree of freedom the tails are so heavy that some draws would overflow.
    losses = np.exp(np.minimum(log_losses, _LARGEST_LOG))
    first = _quantiles(losses, p)
    if step2 is None or link is None:
        return Prediction.of(step1.curve, first, None)
    flat = losses.reshape(len(losses), -1)
    means = _evaluate(step2.curve.mean, link, flat, own=True).reshape(losses.shape)
    dof = max(1, n_runs - len(step2.curve.params))
    accuracies = means + step2.residual_sd * rng.standard_t(dof, means.shape)
    return Prediction.of(step1.curve, first, _quantiles(np.clip(accuracies, 0.0, 1.0), p))


def _evaluate(
    function: Callable, theta: np.ndarray, x: np.ndarray, own: bool = False
) -> np.ndarray:
    """Evaluates a curve at each theta (B, P): at one x, or at an x (B, ...) for each theta."""
    with jax.enable_x64():
        return np.asarray(_over_thetas(function, own)(theta, x))


@functools.cache
def _over_thetas(function: Callable, own: bool) -> Callable:
    return jax.jit(jax.vmap(function, in_axes=(0, 0 if own else None)))


def _quantiles(draws: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Quantiles of draws of shape (B, G, draws) for each target: shape (G, Q)."""
    flat = np.moveaxis(draws, 1, 0).reshape(draws.shape[1], -1)
    return np.quantile(flat, p, axis=1).T
