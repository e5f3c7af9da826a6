"""Causal attention for CPUs: blocks of queries, each with only the keys up to its own end."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

_BLOCK = 64  # queries of a block, at the least
_BLOCKS = 8  # at the most: each is compiled by itself


def blocked(
    query_BxHxLxK: jax.Array, key_BxGxLxK: jax.Array, value_BxGxLxK: jax.Array
) -> jax.Array:
    """Softmax of scaled queries times keys, over values: (B, H, L, K) in the values' dtype.

    Scores are float32 of shape keys x queries: sums and maxima over keys then vectorise, several
    times as fast in XLA on CPU.
    """
    b, heads, length, k = query_BxHxLxK.shape
    groups = key_BxGxLxK.shape[1]
    query = query_BxHxLxK.reshape(b, groups, heads // groups, length, k)
    mixed, size = [], max(_BLOCK, -(-length // _BLOCKS))
    for start in range(0, length, size):
        stop = min(start + size, length)
        key, value = key_BxGxLxK[:, :, :stop], value_BxGxLxK[:, :, :stop]
        rows = query[:, :, :, start:stop].reshape(b, groups, -1, k)
        score = jnp.matmul(key, rows.swapaxes(2, 3), preferred_element_type=jnp.float32)
        seen = np.arange(stop)[:, None] <= np.arange(start, stop)
        seen = np.tile(seen, heads // groups)[None, None]  # the R heads of a group side by side
        score = jnp.where(seen, score, -1e30)
        top = jax.lax.stop_gradient(jnp.max(score, axis=2, keepdims=True))
        weight = jnp.exp(score - top)
        total = jnp.sum(weight, axis=2)[..., None]
        part = jnp.einsum("bgsm,bgsk->bgmk", weight.astype(value.dtype), value) / total
        mixed.append(part.reshape(b, heads, stop - start, k))
    return jnp.concatenate(mixed, axis=2).astype(value_BxGxLxK.dtype)
