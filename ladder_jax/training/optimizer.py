"""AdamW, as in arXiv 2412.04403."""

from __future__ import annotations

from typing import Any

import jax
import optax

from ladder_jax.config import OptimConfig


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
