"""Layers of the OLMo 2 decoder (arXiv 2501.00656): norms follow attention and MLP.

Each parameter is declared with its logical axes (`axes=`), which `parallel.rules` maps to the mesh.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ladder_jax.config import ModelConfig
from ladder_jax.models import fused
from ladder_jax.models.linear import linear
from ladder_jax.models.protocol import Prefix
from ladder_jax.parallel import constrain

Rotary = tuple[jax.Array, jax.Array]


def visible(mask: jax.Array) -> jax.Array:
    """A float32 bias of scores: 0 where a mask is true, -1e30 elsewhere, which leaves no weight."""
    return jnp.where(mask, 0.0, -1e30).astype(jnp.float32)


def kernel(rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str, ...], std: float) -> nnx.Param:
    """A matrix from a normal truncated at three standard deviations."""
    value = std * jax.random.truncated_normal(rngs.params(), -3.0, 3.0, shape, jnp.float32)
    return nnx.Param(value, axes=axes)


def init_std(config: ModelConfig) -> float:
    """The configured standard deviation, or D^-0.5."""
    return config.init_std or config.d_model**-0.5


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis, in float32 (arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        self.scale = nnx.Param(jnp.ones(width), axes=("norm",))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        scaled = x32 * jax.lax.rsqrt(jnp.mean(x32**2, axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...]
        return (scaled * scale.reshape((1,) * (x.ndim - 1) + scale.shape)).astype(x.dtype)


def rotary(position_BxL: np.ndarray | jax.Array, head_dim: int, theta: float) -> Rotary:
    """Cosines and sines of the rotary angles, each float32 of shape (B, L, 1, K / 2).

    Known positions (numpy) become constants of the program instead of work in every layer.
    """
    xp: Any = np if isinstance(position_BxL, np.ndarray) else jnp
    frequency = np.float32(theta) ** (-np.arange(head_dim // 2, dtype=np.float32) * 2 / head_dim)
    angle = position_BxL[:, :, None, None].astype(np.float32) * frequency.reshape(1, 1, 1, -1)
    return jnp.asarray(xp.cos(angle)), jnp.asarray(xp.sin(angle))


def rotate(x_BxLxHxK: jax.Array, angles: Rotary) -> jax.Array:
    """Rotary position embedding, half-split: channel i is rotated with channel i + K/2."""
    cos, sin = angles
    first, second = jnp.split(x_BxLxHxK.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BxLxHxK.dtype)


class Attention(nnx.Module):
    """Grouped-query attention with RMSNorm over the whole query and key projections."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        d, std = config.d_model, init_std(config)
        heads, groups = config.n_heads * config.head_dim, config.kv_heads * config.head_dim
        self.query = kernel(rngs, (d, heads), ("embed", "heads"), std)
        self.key = kernel(rngs, (d, groups), ("embed", "heads"), std)
        self.value = kernel(rngs, (d, groups), ("embed", "heads"), std)
        self.out = kernel(rngs, (heads, d), ("heads", "embed"), std)
        self.query_norm = RMSNorm(heads, config.norm_eps)
        self.key_norm = RMSNorm(groups, config.norm_eps)
        self.n_heads, self.n_groups, self.head_dim = (
            config.n_heads,
            config.kv_heads,
            config.head_dim,
        )
        self.config, self.linear = config, config.linear

    def keys_values(self, x_BxLxD: jax.Array, angles: Rotary) -> tuple[jax.Array, jax.Array]:
        """Rotated keys, and values, each of shape (B, G, L, K)."""
        b, length, _ = x_BxLxD.shape
        shape = (b, length, self.n_groups, self.head_dim)
        key = self.key_norm(linear(x_BxLxD, self.key, self.linear)).reshape(shape)
        value = linear(x_BxLxD, self.value, self.linear).reshape(shape)
        return rotate(key, angles).transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)

    def __call__(
        self,
        x_BxLxD: jax.Array,
        angles: Rotary,
        bias_BxLxS: jax.Array | None,
        prefix: Prefix | None = None,
    ) -> jax.Array:
        """Attended values, shape (B, L, D); without a bias causal, by the accelerator's kernel."""
        b, length, _ = x_BxLxD.shape
        g, k = self.n_groups, self.head_dim
        r = self.n_heads // g
        q = self.query_norm(linear(x_BxLxD, self.query, self.linear))
        q = rotate(q.reshape(b, length, self.n_heads, k), angles)
        key, value = self.keys_values(x_BxLxD, angles)
        if bias_BxLxS is None:
            causal = fused.attention(self.config, length, q.dtype)
            assert causal is not None
            mixed = causal(q.transpose(0, 2, 1, 3) * k**-0.5, key, value).transpose(0, 2, 1, 3)
            return self._out(mixed)
        # Batch axes lead, and the R query heads of a group share one product with its keys.
        q_BxGxRxLxK = q.reshape(b, length, g, r, k).transpose(0, 2, 3, 1, 4) * k**-0.5
        mixed, total, top = attend(q_BxGxRxLxK, key, value, bias_BxLxS[:, None, None])
        if prefix is not None:  # shared by all rows: one product a group for all their queries
            q_GxMxK = q_BxGxRxLxK.transpose(1, 0, 2, 3, 4).reshape(1, g, 1, b * r * length, k)
            bias = visible(prefix.mask).reshape(1, 1, 1, 1, -1)
            parts = attend(q_GxMxK, prefix.key[None], prefix.value[None], bias)
            parts = [x.reshape(g, b, r, length, -1).swapaxes(0, 1) for x in parts]
            mixed, total = _joined((mixed, total, top), parts)
        mixed = (mixed / total).astype(x_BxLxD.dtype)
        return self._out(mixed.transpose(0, 3, 1, 2, 4))

    def _out(self, mixed_BxLxHK: jax.Array) -> jax.Array:
        rows = mixed_BxLxHK.reshape(*mixed_BxLxHK.shape[:2], -1)
        return linear(constrain(rows, "batch", "length", "heads"), self.out, self.linear)


def attend(
    q_BxGxRxLxK: jax.Array, key_BxGxSxK: jax.Array, value_BxGxSxK: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Softmax attention before its division.

    Args:
        q_BxGxRxLxK: scaled queries, R heads for each group of keys and values.
        key_BxGxSxK: keys.
        value_BxGxSxK: values.
        bias: added to the scores, broadcast to (B, G, R, L, S); see `visible`.

    Returns:
        Values summed under exp(score - top), (B, G, R, L, K); the sum of these weights; top, the
        greatest score; the last two float32 of shape (B, G, R, L, 1).
    """
    b, g, r, length, k = q_BxGxRxLxK.shape
    rows = q_BxGxRxLxK.reshape(b, g, r * length, k)
    score = jnp.matmul(rows, key_BxGxSxK.swapaxes(2, 3), preferred_element_type=jnp.float32)
    score = score.reshape(b, g, r, length, -1) + bias
    # Divided after the product with the values: the gradient then needs no sum over keys, which
    # XLA does slowly on CPU.
    top = jax.lax.stop_gradient(jnp.max(score, axis=-1, keepdims=True))
    weight = jnp.exp(score - top)
    total = jnp.sum(weight, axis=-1, keepdims=True)
    weight = weight.reshape(b, g, r * length, -1).astype(value_BxGxSxK.dtype)
    return (weight @ value_BxGxSxK).reshape(b, g, r, length, k), total, top


def _joined(own: Sequence[jax.Array], other: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Two attentions over disjoint keys as one: summed values and weights."""
    top = jnp.maximum(own[2], other[2])
    a, b = jnp.exp(own[2] - top), jnp.exp(other[2] - top)
    return own[0] * a + other[0] * b, own[1] * a + other[1] * b


class MLP(nnx.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        d, f, std = config.d_model, config.d_ff, init_std(config)
        self.gate = kernel(rngs, (d, f), ("embed", "mlp"), std)
        self.up = kernel(rngs, (d, f), ("embed", "mlp"), std)
        self.down = kernel(rngs, (f, d), ("mlp", "embed"), std)
        self.linear = config.linear

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        gate, up = (linear(x_BxLxD, kernel, self.linear) for kernel in (self.gate, self.up))
        hidden = constrain(jax.nn.silu(gate) * up, "batch", "length", "mlp")
        return linear(hidden, self.down, self.linear)


class Block(nnx.Module):
    """One decoder layer: x + norm(attention(x)), then x + norm(mlp(x))."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        self.attention = Attention(config, rngs)
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = MLP(config, rngs)
        self.mlp_norm = RMSNorm(config.d_model, config.norm_eps)

    def __call__(
        self,
        x_BxLxD: jax.Array,
        angles: Rotary,
        bias_BxLxS: jax.Array | None,
        prefix: Prefix | None = None,
    ) -> jax.Array:
        mixed = self.attention(x_BxLxD, angles, bias_BxLxS, prefix)
        x = x_BxLxD + self.attention_norm(mixed)
        x = x + self.mlp_norm(self.mlp(x))
        return constrain(x, "batch", "length", "embed")
