"""Laws that give an accuracy in a single step, without a link."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fitting.laws.base import Law, Param
from fitting.laws.loss import PAIRS, power_starts


def _single_step(theta: jax.Array, log_x: jax.Array) -> jax.Array:
    a, b, alpha, beta, e, p, q = theta
    score = jnp.exp(a - alpha * log_x[..., 0]) + jnp.exp(b - beta * log_x[..., 1]) + e
    return jnp.log(jnp.maximum(p * jax.nn.sigmoid(score) + q, 1e-6))


def _rising(theta: jax.Array, log_x: jax.Array) -> jax.Array:
    a, b, alpha, beta, e = theta
    return jnp.log(e - jnp.exp(a - alpha * log_x[..., 0]) - jnp.exp(b - beta * log_x[..., 1]))


def _rising_starts(log_x: np.ndarray, log_y: np.ndarray) -> np.ndarray:
    centre, y = log_x.mean(axis=0), np.exp(log_y)
    starts = []
    for alpha, beta in dict.fromkeys(((0.3, 0.3), (0.1, 0.1), (0.1, 0.6), *PAIRS)):
        for ceiling in (y.max() + 0.5 * np.ptp(y), 1.0, 1.5):
            left = np.log(max(ceiling - y.mean(), 1e-3) / 2)
            starts.append([left + alpha * centre[0], left + beta * centre[1], alpha, beta, ceiling])
    return np.array(starts)


def _single_step_starts(log_x: np.ndarray, log_y: np.ndarray) -> np.ndarray:
    low = np.exp(log_y.min())
    powers = power_starts(log_x, np.zeros(len(log_y)))
    return np.array([[*p[:4], p[4] - 1, -range_, min(1.0, low + range_)] for p in powers
                     for range_ in (0.5, 0.75)])  # fmt: skip


SINGLE_STEP = Law(
    name="Acc(N, D) = a sigmoid(A / N^alpha + B / D^beta + E) + b",
    inputs=("n_params", "n_tokens"),
    params=(
        Param("log_A", 3.0, 0.0),
        Param("log_B", 5.0, 0.0),
        Param("alpha", 0.2, 0.0),
        Param("beta", 0.3, 0.0),
        Param("E", 0.0),
        Param("a", -0.75, -1.0, 0.0),
        Param("b", 1.0, 0.0, 1.0),
    ),
    log_mean=_single_step,
    starts=_single_step_starts,
    terms=((0, 2, 0), (1, 3, 1)),
    citation="arXiv 2412.04403, Eq. 8; starts and bounds of its published code",
    of_accuracy=True,
)
RISING = Law(
    name="Acc(N, D) = E - A / N^alpha - B / D^beta",
    inputs=("n_params", "n_tokens"),
    params=(
        Param("log_A", 2.0, 0.0),
        Param("log_B", 2.0, 0.0),
        Param("alpha", 0.2, 0.0),
        Param("beta", 0.2),
        Param("E", 1.0),
    ),
    log_mean=_rising,
    starts=_rising_starts,
    terms=((0, 2, 0), (1, 3, 1)),
    citation="the code published with arXiv 2412.04403: step 1 of accuracy, its starts and bounds",
    of_accuracy=True,
)
