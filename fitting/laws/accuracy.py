"""Laws that give an accuracy in a single step, without a link or with a latent loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fitting.laws.base import POOLED, Law, Param, sum_of_powers
from fitting.laws.loss import PAIRS, power_starts


def _single_step(theta: jax.Array, log_x: jax.Array) -> jax.Array:
    a, b, alpha, beta, e, p, q = theta
    score = jnp.exp(a - alpha * log_x[..., 0]) + jnp.exp(b - beta * log_x[..., 1]) + e
    return jnp.log(jnp.maximum(p * jax.nn.sigmoid(score) + q, 1e-6))


def _rising(theta: jax.Array, log_x: jax.Array) -> jax.Array:
    a, b, alpha, beta, e = theta
    return jnp.log(e - jnp.exp(a - alpha * log_x[..., 0]) - jnp.exp(b - beta * log_x[..., 1]))


def _latent(theta: jax.Array, log_x: jax.Array) -> jax.Array:
    *powers, e, k, c, u = theta
    scales, exponents = powers[: len(powers) // 2], powers[len(powers) // 2 :]
    terms = [a - b * log_x[..., i] for i, (a, b) in enumerate(zip(scales, exponents, strict=True))]
    latent = sum_of_powers(terms, e)
    return jnp.log(jnp.maximum(c + (u - c) * jax.nn.sigmoid(-k * latent), 1e-9))


def _latent_starts(log_x: np.ndarray, log_y: np.ndarray) -> np.ndarray:
    powers = power_starts(log_x, np.zeros(len(log_y)))
    rest = np.array([5.0, 0.9 * np.exp(log_y.min()), 1.0])
    return np.concatenate([powers, np.broadcast_to(rest, (len(powers), 3))], axis=1)


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
_LINK = (Param("k", 5.0, 0.0), Param("c", 0.25, 0.0, 1.0), Param("u", 1.0, 0.0, 1.0))
_CITATION = "Hill's curve of a loss that was not measured; see fitting.posterior.hierarchy"
LATENT_LOSS = Law(
    name="Acc(N, D) = c + (u - c) / (1 + (A / N^alpha + B / D^beta + E)^k)",
    inputs=("n_params", "n_tokens"),
    params=(
        Param("log_A", 3.0),
        Param("log_B", 3.0),
        Param("alpha", 0.35, 0.0),
        Param("beta", 0.28, 0.0),
        Param("E", 0.5, 0.0),
        *_LINK,
    ),
    log_mean=_latent,
    starts=_latent_starts,
    terms=((0, 2, 0), (1, 3, 1)),
    citation=_CITATION,
    of_accuracy=True,
    methods=POOLED,
)
LATENT_COMPUTE = Law(
    name="Acc(C) = c + (u - c) / (1 + (A / C^alpha + E)^k)",
    inputs=("flops",),
    params=(Param("log_A", 3.0), Param("alpha", 0.16, 0.0), Param("E", 0.5, 0.0), *_LINK),
    log_mean=_latent,
    starts=_latent_starts,
    terms=((0, 1, 0),),
    citation=_CITATION,
    of_accuracy=True,
    methods=POOLED,
)
