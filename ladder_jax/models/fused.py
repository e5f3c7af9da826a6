"""Causal attention that never holds all scores at once, by platform.

Splash attention (Pallas) on TPU, cuDNN on GPU, blocks of queries on CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fitting.errors import InputError
from ladder_jax import parallel
from ladder_jax.config import ModelConfig
from ladder_jax.models.blocked import blocked

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
_LANES = 128  # of a TPU's vector unit; the kernel's widths are multiples of it
_BLOCK = 512  # queries, and keys, of one tile

_AXES = ("batch", "heads", "length", None)


def attention(config: ModelConfig, length: int, dtype: jnp.dtype) -> Attend | None:
    """The kernel of causal attention: scaled queries (B, H, L, K), keys and values (B, G, L, K).

    Args:
        config: its `attention` chooses.
        length: L.
        dtype: that of queries, keys and values.

    Returns:
        The function of queries, keys and values, or None where attention is to be plain.

    Raises:
        InputError: `model.attention` is `fused`, and there is no kernel.
    """
    wanted, platform = config.attention, parallel.platform()
    if wanted == "plain":
        return None
    if platform == "tpu" and length % _LANES == 0:
        return functools.partial(splash, interpret=False)
    if platform in ("gpu", "cuda") and dtype == jnp.bfloat16:
        return _cudnn
    if platform == "cpu":
        return blocked
    if wanted == "fused":
        raise InputError(
            "`model.attention` fused needs a length that is a multiple of 128 on TPU, and bfloat16 "
            f"on GPU, but this is {platform}, {length} and {dtype}: use auto"
        )
    return None


def splash(
    query_BxHxLxK: jax.Array,
    key_BxGxLxK: jax.Array,
    value_BxGxLxK: jax.Array,
    interpret: bool = False,
) -> jax.Array:
    """Splash attention, heads over the mesh's tensor axis; `interpret` runs it without a TPU.

    Head dimensions are padded with zeros to a multiple of the lanes, which changes no result.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernel,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    k, length = query_BxHxLxK.shape[-1], query_BxHxLxK.shape[-2]
    block = int(np.gcd(length, _BLOCK))
    sizes = kernel.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )

    def local(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        heads, groups = query.shape[1], key.shape[1]
        mask = masks.MultiHeadMask([masks.CausalMask((length, length))] * heads)
        attend = kernel.make_splash_mha(
            mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
        )
        key, value = (jnp.repeat(x, heads // groups, axis=1) for x in (key, value))
        mixed: Any = jax.vmap(attend)(query, key, value)
        return mixed

    pad = [(0, 0), (0, 0), (0, 0), (0, -k % _LANES)]
    parts = [jnp.pad(x, pad) for x in (query_BxHxLxK, key_BxGxLxK, value_BxGxLxK)]
    return parallel.on_each_device(local, (_AXES,) * 3, _AXES)(*parts)[..., :k]


def _cudnn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    rows = [x.swapaxes(1, 2) for x in (query, key, value)]
    mixed = jax.nn.dot_product_attention(*rows, scale=1.0, is_causal=True, implementation="cudnn")
    return mixed.swapaxes(1, 2)
