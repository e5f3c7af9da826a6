"""Fits by scipy's optimisers with gradients from JAX, in float64.

`fit_law` is the paper's step 1 (L-BFGS-B on a Huber loss of log residuals), `fit_link` its step 2
(trust-region least squares).  Compiled functions are kept for each law and number of
observations, so that many tasks compile once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import scipy.optimize
import scipy.special

from fitting.laws.base import Law, Link
from fitting.solve.fit import Fit, residuals_of, summarise, with_anchor
from fitting.solve.objectives import HUBER_DELTA, huber_sum


class Found(NamedTuple):
    """Where a search ended: parameters of shape (P,), the objective there, and convergence."""

    theta: np.ndarray
    objective: float
    converged: bool


def search_law(law: Law, x: np.ndarray, y: np.ndarray) -> Found:
    """Searches for a law as the paper does: L-BFGS-B on the Huber sum of log residuals.

    Args:
        law: to fit.
        x: inputs, shape (M, I), positive.
        y: observations, shape (M,), positive.

    Returns:
        `objective` is the Huber sum; `converged`: the gradient has vanished.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    found = _search_law(law, x.shape, x.tobytes(), y.tobytes())
    return found._replace(theta=found.theta.copy())


@functools.lru_cache(maxsize=256)  # methods and studies fit the same observations again
def _search_law(law: Law, shape: tuple[int, ...], x: bytes, y: bytes) -> Found:
    log_x, log_y = np.log(np.frombuffer(x).reshape(shape)), np.log(np.frombuffer(y))
    value_and_grad = _huber_value_and_grad(law)

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = value_and_grad(theta, log_x, log_y)
        return float(value), np.asarray(grad)

    with jax.enable_x64():
        result = scipy.optimize.minimize(
            objective,
            law.start,
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(*law.bounds, strict=True)),
            options={"ftol": 0.0, "gtol": 1e-10, "maxiter": 1_000_000, "maxfun": 1_000_000},
        )
    stationary = _projected_gradient(result.x, result.jac, law) < 1e-6
    return Found(result.x, float(result.fun), stationary)


def search_link(link: Link, x: np.ndarray, y: np.ndarray) -> Found:
    """Searches for a link as the paper does: bounded least squares (`curve_fit`).

    Args:
        link: to fit; its anchor, if it has one, is not added.
        x: feature, shape (M,).
        y: accuracy, shape (M,).

    Returns:
        `objective` is the sum of squares; `converged`: scipy reports success.
    """
    residuals, _ = residuals_of(link)
    with jax.enable_x64():
        result = scipy.optimize.least_squares(
            lambda theta: np.asarray(residuals(theta, x, y)),
            link.start,
            jac="2-point",
            bounds=link.bounds,
            method="trf",
            max_nfev=500_000,
        )
    return Found(result.x, 2 * result.cost, result.success)


def fit_law(law: Law, x: np.ndarray, y: np.ndarray) -> Fit[Law]:
    """Fits a law to inputs of shape (M, I) and observations of shape (M,) as the paper does."""
    end = search_law(law, x, y)
    return summarise(
        law, end.theta, end.objective, np.log(x), np.log(y), end.converged, HUBER_DELTA
    )


def fit_link(link: Link, x: np.ndarray, y: np.ndarray) -> Fit[Link]:
    """Fits a link, its anchor added, to features and accuracies of shape (M,) as the paper does."""
    x, y = with_anchor(link, x, y)
    end = search_link(link, x, y)
    return summarise(link, end.theta, end.objective, x, y, end.converged)


@functools.cache
def _huber_value_and_grad(law: Law) -> Callable:
    def objective(theta, log_x, log_y):
        return huber_sum(law.log_mean(theta, log_x) - log_y)

    return jax.jit(jax.value_and_grad(objective))


def _projected_gradient(theta: np.ndarray, gradient: np.ndarray, curve: Law | Link) -> float:
    """Largest component of the gradient, leaving out what pushes against a bound."""
    lower, upper = curve.bounds
    return float(np.max(np.abs(theta - np.clip(theta - gradient, lower, upper))))
