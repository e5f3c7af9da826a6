"""AdamW, as in arXiv 2412.04403."""

from __future__ import annotations

import optax

from ladder_jax.config import ModelConfig, OptimConfig
from ladder_jax.models.protocol import Params
from ladder_jax.models.registry import architecture


def transformation(model: ModelConfig, config: OptimConfig) -> optax.GradientTransformation:
    """Clipped, decayed Adam directions; the step multiplies them by the learning rate.

    Args:
        model: says which parameters weight decay covers; token tables, such as the decoder's input
            table, only with `decay_embeddings`.
        config: the constants.
    """

    def decayed(params: Params) -> Params:
        return architecture(model).decayed(params, config.decay_embeddings)

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
    )
