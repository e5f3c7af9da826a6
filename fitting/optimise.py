"""Fits by scipy's optimisers with gradients from JAX, in float64.

`fit_law` is the paper's step 1 (L-BFGS-B on a Huber loss of log residuals), `fit_link` its step 2
(trust-region least squares).  Compiled functions are kept for each law and number of points, so
that a ladder of tasks compiles once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import jax
import numpy as np
import scipy.optimize
import scipy.special

from fitting.laws import Law, Link
from fitting.objectives import HUBER_DELTA, huber_sum

Curve = TypeVar("Curve", Law, Link)


@dataclass(frozen=True)
class Fit(Generic[Curve]):
    """A fitted law or link.

    Attributes:
        curve: what was fitted.
        theta: parameters, shape (P,).
        objective: the minimum (Huber sum for a law, sum of squares for a link).
        covariance: of theta, shape (P, P); zero rows for parameters on a bound.
        residual_sd: of one point about the curve (of the log for a law).
        explained: share of the variance of the points that the curve accounts for.
        n_points: points fitted.
        dof: points less free parameters, at least 1.
        on_bound: names of parameters that ended on a bound.
        condition: of the free parameters' Jacobian, columns scaled, exponents turning about the
            centre of the inputs: how much worse the worst combination of parameters is known.
        converged: whether the fit stopped at a stationary point.
    """

    curve: Curve
    theta: np.ndarray
    objective: float
    covariance: np.ndarray
    residual_sd: float
    explained: float
    n_points: int
    dof: int
    on_bound: tuple[str, ...]
    condition: float
    converged: bool


def search_law(law: Law, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """The paper's search for a law: L-BFGS-B on the Huber sum of log residuals.

    Args:
        law: what to fit.
        x: inputs, shape (M, I), positive.
        y: observations, shape (M,), positive.

    Returns:
        Parameters, the Huber sum, and whether the gradient has vanished.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    theta, value, stationary = _search_law(law, x.shape, x.tobytes(), y.tobytes())
    return theta.copy(), value, stationary


@functools.lru_cache(maxsize=256)  # engines and studies come back to the same points
def _search_law(
    law: Law, shape: tuple[int, ...], x: bytes, y: bytes
) -> tuple[np.ndarray, float, bool]:
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
    return result.x, float(result.fun), stationary


def search_link(link: Link, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """The paper's search for a link: bounded least squares, as its `curve_fit` does.

    Args:
        link: what to fit; its anchor, if it has one, is not added.
        x: feature, shape (M,).
        y: accuracy, shape (M,).

    Returns:
        Parameters, the sum of squares, and whether the search succeeded.
    """
    residuals, _ = _residuals(link)
    with jax.enable_x64():
        result = scipy.optimize.least_squares(
            lambda theta: np.asarray(residuals(theta, x, y)),
            link.start,
            jac="2-point",
            bounds=link.bounds,
            method="trf",
            max_nfev=500_000,
        )
    return result.x, 2 * result.cost, result.success


def fit_law(law: Law, x: np.ndarray, y: np.ndarray) -> Fit[Law]:
    """Fits a law to inputs of shape (M, I) and observations of shape (M,) as the paper does."""
    theta, objective, stationary = search_law(law, x, y)
    return summarise(law, theta, objective, np.log(x), np.log(y), stationary, HUBER_DELTA)


def fit_link(link: Link, x: np.ndarray, y: np.ndarray) -> Fit[Link]:
    """Fits a link, its anchor added, to features and accuracies of shape (M,) as the paper does."""
    x, y = with_anchor(link, x, y)
    theta, objective, success = search_link(link, x, y)
    return summarise(link, theta, objective, x, y, success)


def with_anchor(link: Link, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points, and the invented one that the paper adds."""
    if link.anchor is None:
        return x, y
    return np.append(x, link.anchor[0]), np.append(y, link.anchor[1])


def predict(curve: Law | Link, theta: np.ndarray, x: np.ndarray | float) -> np.ndarray:
    """The curve's value: a law at inputs of shape (..., I), a link at features of any shape."""
    with jax.enable_x64():
        if isinstance(curve, Law):
            return np.exp(np.asarray(_compiled(curve.log_mean)(theta, np.log(x))))
        return np.asarray(_compiled(curve.mean)(theta, np.asarray(x, float)))


@functools.cache
def _compiled(function: Callable) -> Callable:
    return jax.jit(function)


@functools.cache
def _huber_value_and_grad(law: Law) -> Callable:
    def objective(theta, log_x, log_y):
        return huber_sum(law.log_mean(theta, log_x) - log_y)

    return jax.jit(jax.value_and_grad(objective))


@functools.cache
def _residuals(curve: Law | Link) -> tuple[Callable, Callable]:
    """(theta, x, y) -> residuals, and their Jacobian; of logarithms for a law."""
    function = curve.log_mean if isinstance(curve, Law) else curve.mean

    def residuals(theta, x, y):
        return function(theta, x) - y

    return jax.jit(residuals), jax.jit(jax.jacfwd(residuals))


def huber_inflation(delta: float, sd: float) -> float:
    """Variance of a Huber fit over that of least squares, under normal noise of this sd.

    E[psi^2] / E[psi']^2 / sd^2 (Huber, Ann. Math. Statist. 35, 1964); pi / 2 as delta vanishes.
    """
    if sd <= 0:
        return 1.0
    k = delta / sd
    inside = scipy.special.erf(k / np.sqrt(2))
    density = np.exp(-(k**2) / 2) / np.sqrt(2 * np.pi)
    square = inside - 2 * k * density + k**2 * (1 - inside)
    return float(square / inside**2) if k > 1e-4 else float(np.pi / 2)


def _projected_gradient(theta: np.ndarray, gradient: np.ndarray, curve: Law | Link) -> float:
    """Largest component of the gradient that the bounds leave free to act."""
    lower, upper = curve.bounds
    return float(np.max(np.abs(theta - np.clip(theta - gradient, lower, upper))))


def summarise(
    curve: Curve,
    theta: np.ndarray,
    objective: float,
    x: np.ndarray,
    y: np.ndarray,
    converged: bool,
    huber_delta: float | None = None,
) -> Fit[Curve]:
    """A fit from its parameters: Gauss-Newton covariance over those that are not on a bound.

    Args:
        curve: law or link.
        theta: shape (P,).
        objective: the minimum.
        x: inputs that were fitted: logarithms of shape (M, I) for a law, shape (M,) for a link.
        y: observations, shape (M,); logarithms for a law.
        converged: whether the search ended at a stationary point.
        huber_delta: of the loss; None for least squares.
    """
    with jax.enable_x64():
        residuals, jacobian = (np.asarray(f(theta, x, y)) for f in _residuals(curve))
    lower, upper = curve.bounds
    near = 1e-6 * np.maximum(1.0, np.abs(theta))
    bound = (theta - lower < near) | (upper - theta < near)
    free = np.flatnonzero(~bound)
    dof = max(1, len(residuals) - len(free))
    variance = float(residuals @ residuals) / dof
    noise = variance * (huber_inflation(huber_delta, variance**0.5) if huber_delta else 1.0)
    covariance = np.zeros((len(theta), len(theta)))
    j = jacobian[:, free]
    # Columns differ by orders of magnitude (log A against E): scale before inverting.
    scale = _column_norms(j)
    inverse = np.linalg.pinv((j / scale).T @ (j / scale), rcond=1e-14, hermitian=True)
    covariance[np.ix_(free, free)] = noise * inverse / np.outer(scale, scale)
    return Fit(
        curve=curve,
        theta=theta,
        objective=objective,
        covariance=covariance,
        residual_sd=float(np.sqrt(variance)),
        explained=1 - float(np.var(residuals)) / max(float(np.var(y)), 1e-300),
        n_points=len(residuals),
        dof=dof,
        on_bound=tuple(n for n, b in zip(curve.names, bound, strict=True) if b),
        condition=_condition(curve, jacobian, x, free),
        converged=converged,
    )


def _column_norms(matrix: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(matrix, axis=0)
    return np.where(norms == 0, 1.0, norms)


def _condition(curve: Law | Link, jacobian: np.ndarray, x: np.ndarray, free: np.ndarray) -> float:
    if isinstance(curve, Law):
        jacobian = jacobian @ np.linalg.inv(curve.pivot(x))
    j = jacobian[:, free]
    sizes = np.linalg.svd(j / _column_norms(j), compute_uv=False)
    return float(sizes[0] / max(sizes[-1], 1e-300)) if len(sizes) else 1.0


def gradient(curve: Law | Link, theta: np.ndarray, x: np.ndarray | float) -> np.ndarray:
    """Gradient of a law's log mean, or of a link's mean, with respect to theta; shape (P,).

    Args:
        curve: law or link.
        theta: shape (P,).
        x: one point: inputs of shape (I,) for a law, a feature for a link.
    """
    with jax.enable_x64():
        if isinstance(curve, Law):
            return np.asarray(_compiled_grad(curve.log_mean, 0)(theta, np.log(x)))
        return np.asarray(_compiled_grad(curve.mean, 0)(theta, np.float64(x)))


def slope(link: Link, theta: np.ndarray, x: float) -> float:
    """Derivative of a link's accuracy with respect to its feature."""
    with jax.enable_x64():
        return float(_compiled_grad(link.mean, 1)(theta, np.float64(x)))


@functools.cache
def _compiled_grad(function: Callable, argument: int) -> Callable:
    return jax.jit(jax.grad(function, argnums=argument))
