"""Exact counts of the OLMo 2 decoder."""

from __future__ import annotations

from ladder_jax.config import ModelConfig
from ladder_jax.models.protocol import Counts


def counts(model: ModelConfig) -> Counts:
    """Parameters, and products in attention, in closed form."""
    d, kv = model.d_model, model.kv_heads * model.head_dim
    projections = 2 * d * d + 2 * d * kv  # query and output; key and value
    mlp = 3 * d * model.d_ff
    norms = model.n_layers * (3 * d + kv) + d  # after attention and MLP, query, key; the last
    table = model.vocab_size * d
    return Counts(
        non_embedding=model.n_layers * (projections + mlp) + norms,
        input_table=table,
        output_head=table,
        norm_scales=norms,
        attention=model.n_layers * d * model.seq_len,
    )
