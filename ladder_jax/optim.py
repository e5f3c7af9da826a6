"""AdamW and its schedule, as in arXiv 2412.04403, with the schedule's numbers as arguments.

Runs of one size share a compiled step whatever their learning rate and length.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ladder_jax.config import OptimConfig

Schedule = dict[str, Any]


def schedule_of(config: OptimConfig, n_steps: int) -> Schedule:
    """The numbers of a run's schedule, to be passed to the jitted step."""
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


def transformation(config: OptimConfig) -> optax.GradientTransformation:
    """Clipped, decayed Adam directions; the step multiplies them by the learning rate.

    Weight decay covers every parameter but the input table, unless `decay_embeddings`.
    """

    def decayed(params: Any) -> Any:
        every = jax.tree.map(lambda _: True, params)
        if not config.decay_embeddings:
            every["embed"] = False
        return every

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
    )
