"""The OLMo 2 decoder: token ids in, logits out.

Layers are stored stacked, one leading axis, whether they are unrolled (default, fastest on CPU) or
scanned (deep models, fast compiles): a checkpoint does not depend on the choice.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ladder_jax.config import ModelConfig
from ladder_jax.models.layers import Block, RMSNorm, init_std, kernel, linear, rotary
from ladder_jax.sharding import constrain

Params = dict[str, Any]


class Decoder(nnx.Module):
    """Input table, decoder layers, final norm, untied output head."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        shape, std = (config.vocab_size, config.d_model), init_std(config)
        self.embed = kernel(rngs, shape, ("vocab", "embed"), std)

        @nnx.split_rngs(splits=config.n_layers)
        @nnx.vmap
        def stacked(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs)

        self.layers = stacked(rngs)
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = kernel(rngs, shape[::-1], ("embed", "vocab"), std)
        self.scan_layers, self.remat, self.n_layers = (
            config.scan_layers,
            config.remat,
            config.n_layers,
        )
        self.head_dim, self.rope_theta = config.head_dim, config.rope_theta

    def hidden(
        self,
        token_BxL: jax.Array,
        position_BxL: jax.Array | None = None,
        mask_BxLxS: jax.Array | None = None,
    ) -> jax.Array:
        """Normalised last hidden states, shape (B, L, D).

        Args:
            token_BxL: token ids.
            position_BxL: rotary positions; 0, 1, ... by default.
            mask_BxLxS: which keys each query sees; causal by default.
        """
        length = token_BxL.shape[1]
        known = np.arange(length)[None] if position_BxL is None else position_BxL
        turn = rotary(known, self.head_dim, self.rope_theta)
        if mask_BxLxS is None:
            mask_BxLxS = jnp.tril(jnp.ones((length, length), bool))[None]
        x = constrain(jnp.take(self.embed[...], token_BxL, axis=0), "batch", "length", "embed")
        graph, stack = nnx.split(self.layers)

        def layer(x: jax.Array, params: nnx.State) -> tuple[jax.Array, None]:
            return nnx.merge(graph, params)(x, turn, mask_BxLxS), None

        if self.remat:
            layer = jax.checkpoint(layer)
        if self.scan_layers:
            x, _ = jax.lax.scan(layer, x, stack)
        else:  # split, not indexing: its gradient is one concatenation
            leaves, tree = jax.tree.flatten(stack)
            slices = [jax.lax.split(leaf, (1,) * self.n_layers, 0) for leaf in leaves]
            for parts in zip(*slices, strict=True):
                x, _ = layer(x, tree.unflatten([part[0] for part in parts]))
        return self.norm(x)

    def __call__(
        self,
        token_BxL: jax.Array,
        position_BxL: jax.Array | None = None,
        mask_BxLxS: jax.Array | None = None,
    ) -> jax.Array:
        """Logits, shape (B, L, V); arguments as in `hidden`."""
        return self.logits(self.hidden(token_BxL, position_BxL, mask_BxLxS))

    def logits(self, hidden_BxLxD: jax.Array) -> jax.Array:
        """The output head alone: hidden states to logits, shape (B, L, V)."""
        return constrain(linear(hidden_BxLxD, self.head), "batch", "length", "vocab")


def init_params(config: ModelConfig, key: jax.Array) -> Params:
    """Fresh parameters as nested dicts of float32 arrays."""
    return nnx.to_pure_dict(nnx.split(Decoder(config, nnx.Rngs(params=key)))[1])


def abstract_params(config: ModelConfig) -> Params:
    """The shapes and dtypes of `init_params`, without computing anything."""
    return jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))


def logical_axes(config: ModelConfig) -> Params:
    """The logical axes of every parameter, in the structure of `init_params`."""
    shapes = nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))[1]

    def axes(path: tuple[Any, ...], param: nnx.Param) -> tuple[str, ...]:
        own = param.get_metadata()["axes"]
        return ("layers", *own) if path[0].key == "layers" else own

    named = jax.tree_util.tree_map_with_path(
        axes, shapes, is_leaf=lambda x: isinstance(x, nnx.Param)
    )
    return nnx.to_pure_dict(named)


def bind(config: ModelConfig, params: Params) -> Decoder:
    """A decoder that holds these parameters; cheap, for use inside a jitted function."""
    return nnx.merge(_graph(config), nnx.State(params))


@functools.cache
def _graph(config: ModelConfig) -> nnx.GraphDef[Decoder]:
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))[0]
