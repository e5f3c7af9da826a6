"""A fitted law or link: parameters, covariance, residuals and conditioning."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import jax
import numpy as np
import scipy.optimize
import scipy.special

from fitting.laws.base import Law, Link

Curve = TypeVar("Curve", Law, Link)


@dataclass(frozen=True)
class Fit(Generic[Curve]):
    """A fitted law or link.

    Attributes:
        curve: the law or link.
        theta: parameters, shape (P,).
        objective: the minimum (Huber sum for a law, sum of squares for a link).
        covariance: of theta, shape (P, P); zero rows for parameters on a bound.
        residual_sd: standard deviation of one observation about the curve, in logs for a law.
        explained: share of the variance of the observations that the curve accounts for.
        n_points: number of observations.
        dof: observations less free parameters, at least 1.
        on_bound: names of parameters that ended on a bound.
        condition: condition number of the free parameters' Jacobian, its columns scaled, with
            scales taken at the centre of the inputs: how much less precisely the worst combination
            of parameters is known than the best.
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


def with_anchor(link: Link, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Observations and the link's anchor, an invented point that the paper adds, if it has one."""
    if link.anchor is None:
        return x, y
    return np.append(x, link.anchor[0]), np.append(y, link.anchor[1])


@functools.cache
def residuals_of(curve: Law | Link) -> tuple[Callable, Callable]:
    """Compiled (theta, x, y) -> residuals (of logarithms for a law), and their Jacobian."""
    function = curve.log_mean if isinstance(curve, Law) else curve.mean

    def residuals(theta, x, y):
        return function(theta, x) - y

    return jax.jit(residuals), jax.jit(jax.jacfwd(residuals))


def huber_inflation(delta: float, sd: float) -> float:
    """Variance of a Huber fit relative to least squares, for normal noise with this sd.

    E[psi^2] / E[psi']^2 / sd^2 (Huber, Ann. Math. Statist. 35, 1964); pi / 2 as delta vanishes.
    """
    if sd <= 0:
        return 1.0
    k = delta / sd
    inside = scipy.special.erf(k / np.sqrt(2))
    density = np.exp(-(k**2) / 2) / np.sqrt(2 * np.pi)
    square = inside - 2 * k * density + k**2 * (1 - inside)
    return float(square / inside**2) if k > 1e-4 else float(np.pi / 2)


def summarise(
    curve: Curve,
    theta: np.ndarray,
    objective: float,
    x: np.ndarray,
    y: np.ndarray,
    converged: bool,
    huber_delta: float | None = None,
) -> Fit[Curve]:
    """Makes a fit from its parameters, with a Gauss-Newton covariance.

    Args:
        curve: law or link.
        theta: shape (P,).
        objective: the minimum.
        x: the fitted inputs: logarithms of shape (M, I) for a law, shape (M,) for a link.
        y: observations, shape (M,); logarithms for a law.
        converged: whether the search ended at a stationary point.
        huber_delta: delta of the Huber loss; None for least squares.
    """
    with jax.enable_x64():
        residuals, jacobian = (np.asarray(f(theta, x, y)) for f in residuals_of(curve))
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
