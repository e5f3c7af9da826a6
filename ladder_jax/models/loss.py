"""Cross-entropy of tokens: of given logits, or a chunk of logits at a time (arXiv 2411.09009).

Logits of all tokens, (B, L, V) in float32, are the largest array of a training step.
`summed_loss` holds those of one chunk at a time, and takes their gradients in the forward pass,
before the next chunk.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from ladder_jax.parallel import constrain, row_shards

CHUNK = 512  # tokens
Sums = tuple[jax.Array, jax.Array]


def token_nats(logits_BxLxV: jax.Array, target_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Negative log-likelihood and log-normaliser of each target, float32 of shape (B, L).

    The gold logit is picked by comparison, which stays local when the vocabulary is sharded.
    """
    logits = logits_BxLxV.astype(jnp.float32)
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    column = jnp.arange(logits.shape[-1]).reshape(1, 1, -1)
    gold = jnp.sum(jnp.where(target_BxL[..., None] == column, logits, 0.0), axis=-1)
    return normaliser - gold, normaliser


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def summed_loss(
    hidden_BxLxD: jax.Array,
    head_DxV: jax.Array,
    target_BxL: jax.Array,
    weight_BxL: jax.Array,
    z_loss: float = 0.0,
    chunk: int = CHUNK,
) -> Sums:
    """The sum over tokens of weight x (nats + z_loss x log-normaliser^2), and of weight x nats.

    Logits and sums are float32, matrix products in the dtype of the hidden states.  Chunks cut the
    length and not the rows, so that rows stay where the mesh has them.

    Args:
        hidden_BxLxD: last hidden states.
        head_DxV: the output head; its gradient has its dtype.
        target_BxL: token ids; any number where the weight is 0.
        weight_BxL: weight of each target.
        z_loss: coefficient of the squared log-normaliser (arXiv 2204.02311, section 5).
        chunk: tokens on each device whose logits are computed at once.

    Returns:
        Two scalars.  Only the first has gradients, and only for hidden states and head.
    """
    chunks = _chunks(chunk, hidden_BxLxD, target_BxL, weight_BxL)
    head = _gathered(head_DxV, hidden_BxLxD.dtype)

    def add(sums: Sums, part: Any) -> tuple[Sums, None]:
        own, _ = _chunk_loss(head, z_loss, *part)
        return jax.tree.map(jnp.add, sums, own), None

    return jax.lax.scan(add, (jnp.zeros(()), jnp.zeros(())), chunks)[0]


def _forward(
    hidden: jax.Array,
    head_DxV: jax.Array,
    target: jax.Array,
    weight: jax.Array,
    z_loss: float,
    chunk: int,
) -> tuple[Sums, Sums]:
    """The sums, and the gradients of the first for hidden states and head."""
    rows, length, _ = hidden.shape
    chunks = _chunks(chunk, hidden, target, weight)
    head = _gathered(head_DxV, hidden.dtype)

    def add(carry: Any, part: Any) -> tuple[Any, jax.Array]:
        sums, d_head = carry
        own, d_logits = _chunk_loss(head, z_loss, *part)
        d_logits = d_logits.astype(hidden.dtype)
        product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        d_head = d_head + product("rtd,rtv->rdv", part[0], d_logits)
        d_head = constrain(d_head, "batch", "embed", "vocab")
        d_hidden = product("rtv,dv->rtd", d_logits, head).astype(hidden.dtype)
        return (jax.tree.map(jnp.add, sums, own), d_head), constrain(
            d_hidden, "batch", "length", "embed"
        )

    # Devices with different rows sum the head's gradients by themselves first, then once together.
    zero = constrain(jnp.zeros((row_shards(), *head.shape)), "batch", "embed", "vocab")
    (sums, d_head), d_hidden = jax.lax.scan(add, ((jnp.zeros(()), jnp.zeros(())), zero), chunks)
    d_hidden = d_hidden.reshape(len(d_hidden), rows, -1, hidden.shape[-1]).swapaxes(0, 1)
    d_hidden = d_hidden.reshape(rows, -1, hidden.shape[-1])[:, :length]
    return sums, (d_hidden, jnp.sum(d_head, axis=0).astype(head_DxV.dtype))


def _backward(z_loss: float, chunk: int, gradients: Sums, cotangents: Sums) -> Any:
    d_hidden, d_head = ((cotangents[0] * x).astype(x.dtype) for x in gradients)
    return d_hidden, d_head, None, None


summed_loss.defvjp(_forward, _backward)


def _chunk_loss(
    head_DxV: jax.Array, z_loss: float, x_RxTxD: jax.Array, target: jax.Array, weight: jax.Array
) -> tuple[Sums, jax.Array]:
    """The sums of a chunk, and the gradient of the first for its logits.

    The gold logit is picked by comparison, which stays local when the vocabulary is sharded.
    """
    logits = jnp.einsum("rtd,dv->rtv", x_RxTxD, head_DxV, preferred_element_type=jnp.float32)
    logits = constrain(logits, "batch", "length", "vocab")
    top = jnp.max(logits, axis=-1, keepdims=True)
    exponential = jnp.exp(logits - top)
    total = jnp.sum(exponential, axis=-1, keepdims=True)
    normaliser = top + jnp.log(total)
    is_gold = target[..., None] == jnp.arange(logits.shape[-1]).reshape(1, 1, -1)
    gold = jnp.sum(jnp.where(is_gold, logits, 0.0), axis=-1, keepdims=True)
    weight = weight[..., None].astype(jnp.float32)
    nats = jnp.sum(weight * (normaliser - gold))
    objective = nats + z_loss * jnp.sum(weight * normaliser**2)
    scale = weight * (1 + 2 * z_loss * normaliser) / total
    return (objective, nats), exponential * scale - jnp.where(is_gold, weight, 0.0)


def _chunks(chunk: int, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Arrays (B, L, ...) as (chunks, R, T, ...): R parts of the rows by device, T tokens each."""
    rows, length = arrays[0].shape[:2]
    shards = row_shards()
    n = math.ceil(length / max(1, chunk * shards // rows))
    width = math.ceil(length / n)

    def cut(x: jax.Array) -> jax.Array:  # padding of the last chunk has weight 0
        tail = [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, [(0, 0), (0, n * width - length), *tail])
        x = x.reshape(rows, n, width, *x.shape[2:]).swapaxes(0, 1)
        x = x.reshape(n, shards, -1, *x.shape[3:])
        return constrain(x, None, "batch", *[None] * (x.ndim - 2))

    return tuple(map(cut, arrays))


def _gathered(head_DxV: jax.Array, dtype: Any) -> jax.Array:
    """The head in the dtype of the chunks, gathered along D on every device."""
    return constrain(head_DxV.astype(dtype), "embed", "vocab")
