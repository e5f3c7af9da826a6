"""Laws of loss: sums of power terms in N and D, or in compute."""

from __future__ import annotations

import itertools

import jax
import numpy as np

from fitting.laws.base import ALL_METHODS, Law, Param, sum_of_powers


def _chinchilla(theta: jax.Array, log_x: jax.Array) -> jax.Array:
    a, b, alpha, beta, e = theta
    return sum_of_powers([a - alpha * log_x[..., 0], b - beta * log_x[..., 1]], e)


def _compute_only(theta: jax.Array, log_x: jax.Array) -> jax.Array:
    a, alpha, e = theta
    return sum_of_powers([a - alpha * log_x[..., 0]], e)


# Starts of a power law: floors, as shares of the lowest loss, and exponents; the best come first.
_FIRST = (
    *((0.8, pair) for pair in ((0.3, 0.3), (0.6, 0.1), (0.1, 0.6))),
    (0.4, (0.3, 0.3)),
    (0.0, (0.1, 0.1)),
)
PAIRS = tuple(itertools.product((0.1, 0.3, 0.6), repeat=2))
_CHOICES = tuple(dict.fromkeys((*_FIRST, *itertools.product((0.0, 0.4, 0.8), PAIRS))))
_FLOORS, _EXPONENTS = (np.array(v) for v in zip(*_CHOICES, strict=True))  # (S,), (S, 2)


def power_starts(log_x: np.ndarray, log_y: np.ndarray) -> np.ndarray:
    """Starts, shape (S, P): equal terms at the centre, with sum (1 - floor share) x mean loss."""
    n_terms = log_x.shape[1]
    exponents = _EXPONENTS[:, :n_terms]
    left = np.log((1 - _FLOORS) * np.exp(log_y.mean()) / n_terms)
    scales = left[:, None] + exponents * log_x.mean(axis=0)
    return np.concatenate([scales, exponents, _FLOORS[:, None] * np.exp(log_y.min())], axis=1)


CHINCHILLA = Law(
    name="L(N, D) = A / N^alpha + B / D^beta + E",
    inputs=("n_params", "n_tokens"),
    params=(
        Param("log_A", 3.0, 0.0),
        Param("log_B", 6.0, 0.0),
        Param("alpha", 0.1, 0.0),
        Param("beta", 0.2, 0.0),
        Param("E", 1.0, 0.0),
    ),
    log_mean=_chinchilla,
    starts=power_starts,
    terms=((0, 2, 0), (1, 3, 1)),
    citation="arXiv 2412.04403, Eq. 1; starts and bounds of its published code",
    methods=ALL_METHODS,
)
COMPUTE_ONLY = Law(
    name="L(C) = A / C^alpha + E",
    inputs=("flops",),
    params=(Param("log_A", 3.0, 0.0), Param("alpha", 0.1, 0.0, 1.0), Param("E", 1.0, 0.0)),
    log_mean=_compute_only,
    starts=power_starts,
    terms=((0, 1, 0),),
    citation="arXiv 2412.04403, Eq. 4; starts and bounds of its published code",
    methods=ALL_METHODS,
)
