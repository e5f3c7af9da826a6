"""Objectives of fits: pure functions of residuals."""

from __future__ import annotations

import jax
import jax.numpy as jnp

HUBER_DELTA = 1e-3  # of log-loss residuals (arXiv 2412.04403, Section 2.2)


def huber(residual: jax.Array, delta: float = HUBER_DELTA) -> jax.Array:
    """Huber loss elementwise: r^2 / 2 inside delta, delta (|r| - delta / 2) outside."""
    size = jnp.abs(residual)
    return jnp.where(size < delta, 0.5 * residual**2, delta * (size - 0.5 * delta))


def huber_sum(residuals: jax.Array) -> jax.Array:
    """Sum of Huber losses; the paper writes a mean, its code sums."""
    return jnp.sum(huber(residuals))
