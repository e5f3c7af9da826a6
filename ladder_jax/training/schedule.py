"""The learning-rate schedule of arXiv 2412.04403, with its numbers as arguments.

Runs of one size share a compiled step whatever their learning rate and length.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ladder_jax.config import OptimConfig

Schedule = dict[str, Any]


def schedule_of(config: OptimConfig, n_steps: int) -> Schedule:
    """The numbers of a run's schedule, which are arguments of the jitted step."""
    return {
        "lr_peak": np.float32(config.lr_peak),
        "lr_final_ratio": np.float32(config.lr_final_ratio),
        "warmup_steps": np.float32(config.warmup_steps),
        "n_steps": np.float32(n_steps),
    }


def learning_rate(schedule: Schedule, step: jax.Array) -> jax.Array:
    """Learning rate of a 0-based step: linear warm-up, then a cosine over the run's own length."""
    warmup, n_steps = schedule["warmup_steps"], schedule["n_steps"]
    rise = (step + 1) / jnp.maximum(warmup, 1)
    done = jnp.clip((step + 1 - warmup) / jnp.maximum(n_steps - warmup, 1), 0.0, 1.0)
    final = schedule["lr_final_ratio"]
    fall = final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * done))
    return schedule["lr_peak"] * jnp.where(step < warmup, rise, fall)
