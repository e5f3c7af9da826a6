"""The OLMo 2 decoder: token ids in, logits out.

Layers are stored stacked along a leading axis, whether they are unrolled (default, fastest on CPU)
or scanned (deep models, fast compiles): a checkpoint does not depend on the choice.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ladder_jax.config import ModelConfig
from ladder_jax.models import fused
from ladder_jax.models.layers import (
    Block,
    RMSNorm,
    Rotary,
    init_std,
    kernel,
    rotary,
    visible,
)
from ladder_jax.models.linear import linear
from ladder_jax.models.loss import summed_loss, token_nats
from ladder_jax.models.protocol import PADDING, Batch, Loss, Params, Prefix, Width
from ladder_jax.parallel import constrain, platform

_REMAT = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


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
        self.config = config

    def hidden(
        self,
        token_BxL: jax.Array,
        position_BxL: jax.Array | None = None,
        mask_BxLxS: jax.Array | None = None,
        prefix: Prefix | None = None,
    ) -> jax.Array:
        """Normalised last hidden states, shape (B, L, D).

        Args:
            token_BxL: token ids.
            position_BxL: rotary positions; 0, 1, ... by default.
            mask_BxLxS: which keys each query sees; causal by default.
            prefix: keys and values of all layers, of tokens that precede every row.
        """
        angles = self._angles(token_BxL, position_BxL)
        if mask_BxLxS is None:
            bias = self._causal(token_BxL, plain=prefix is not None)
        else:
            bias = visible(mask_BxLxS)

        def layer(x: jax.Array, block: Block, own: Any) -> tuple[jax.Array, None]:
            before = prefix and Prefix(own[0], own[1], prefix.mask)
            return block(x, angles, bias, before), None

        own = prefix and (prefix.key, prefix.value)
        x, _ = self._through(layer, self._embedded(token_BxL), own)
        return self.norm(x)

    def keys_values(self, token_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values of every layer, each of shape (N, B, G, L, K), positions 0, 1, ..."""
        angles = self._angles(token_BxL, None)
        bias = self._causal(token_BxL, plain=True)

        def layer(x: jax.Array, block: Block, own: None) -> tuple[jax.Array, Any]:
            return block(x, angles, bias), block.attention.keys_values(x, angles)

        return self._through(layer, self._embedded(token_BxL), None)[1]

    def _causal(self, token_BxL: jax.Array, plain: bool = False) -> jax.Array | None:
        """A causal bias of shape (1, L, L), or None where a kernel masks by itself."""
        length = token_BxL.shape[1]
        kernel = fused.attention(self.config, length, self.head[...].dtype)
        if kernel is not None and not plain:
            return None
        return visible(jnp.tril(jnp.ones((length, length), bool))[None])

    def _embedded(self, token_BxL: jax.Array) -> jax.Array:
        return constrain(jnp.take(self.embed[...], token_BxL, axis=0), "batch", "length", "embed")

    def _angles(self, token_BxL: jax.Array, position_BxL: jax.Array | None) -> Rotary:
        known = np.arange(token_BxL.shape[1])[None] if position_BxL is None else position_BxL
        return rotary(known, self.config.head_dim, self.config.rope_theta)

    def _through(self, layer: Any, x: jax.Array, extra: Any) -> tuple[jax.Array, Any]:
        """Applies all layers in order, and stacks what each gives.

        Args:
            layer: (x, block, its part of `extra`) -> x, output.
            x: input of the first layer.
            extra: arrays with a leading axis of layers, or None.
        """
        graph, stack = nnx.split(self.layers)

        def step(x: jax.Array, part: Any) -> tuple[jax.Array, Any]:
            params, own = part
            return layer(x, nnx.merge(graph, params), own)

        if self.config.remat != "none":
            step = jax.checkpoint(step, policy=_REMAT[self.config.remat])
        if self.config.scan_layers:
            return jax.lax.scan(step, x, (stack, extra))
        # Split, not indexing: its gradient is one concatenation.
        leaves, tree = jax.tree.flatten((stack, extra))
        slices = [jax.lax.split(leaf, (1,) * self.config.n_layers, 0) for leaf in leaves]
        outputs = []
        for parts in zip(*slices, strict=True):
            x, output = step(x, tree.unflatten([part[0] for part in parts]))
            outputs.append(output)
        return x, jax.tree.map(lambda *each: jnp.stack(each), *outputs)

    def __call__(
        self,
        token_BxL: jax.Array,
        position_BxL: jax.Array | None = None,
        mask_BxLxS: jax.Array | None = None,
    ) -> jax.Array:
        """Logits, shape (B, L, V); arguments as in `hidden`."""
        return self.logits(self.hidden(token_BxL, position_BxL, mask_BxLxS))

    def logits(self, hidden_BxLxD: jax.Array) -> jax.Array:
        """Logits from hidden states, float32 of shape (B, L, V).

        In bfloat16, logits of choices that differ by little would be equal.
        """
        logits = linear(hidden_BxLxD, self.head, dtype=jnp.float32)
        return constrain(logits, "batch", "length", "vocab")


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


def divisibility(config: ModelConfig) -> dict[str, Width]:
    """Config fields that must divide over the mesh, and the logical axes that they lie on."""
    return {
        "d_model": Width("embed", config.d_model),
        "d_ff": Width("mlp", config.d_ff),
        "n_heads": Width("heads", config.n_heads),
        "n_kv_heads": Width("heads", config.kv_heads),
        "vocab_size": Width("vocab", config.vocab_size),
    }


def decayed(params: Params, decay_embeddings: bool) -> Params:
    """Which parameters weight decay covers: all but, unless `decay_embeddings`, the input table."""
    every = jax.tree.map(lambda _: True, params)
    return every if decay_embeddings else every | {"embed": False}


def abstract_batch(config: ModelConfig, n_seqs: int) -> Batch:
    """`tokens`, int32 of shape (B, L + 1): inputs and, shifted by one, targets."""
    return {"tokens": jax.ShapeDtypeStruct((n_seqs, config.seq_len + 1), np.int32)}


def n_predicted(batch: Batch) -> jax.Array:
    """Targets that are no padding, over all leading axes: a scalar."""
    return jnp.sum(batch["tokens"][..., 1:] != PADDING)


def loss(
    config: ModelConfig, params: Params, batch: Batch, n_tokens: jax.Array, z_loss: float
) -> Loss:
    """Cross-entropy of next tokens, and with the z-loss; see `Architecture.loss`."""
    inputs, targets = _inputs_targets(batch)
    weight = jnp.where(targets != PADDING, 1 / n_tokens, 0.0)
    bound = bind(config, params)
    if config.loss_chunk:
        hidden, head = bound.hidden(inputs), bound.head[...]
        sums: Any = summed_loss(hidden, head, targets, weight, z_loss, config.loss_chunk)
        return Loss(*sums)
    nats, normaliser = token_nats(bound(inputs), targets)
    total = jnp.sum(weight * nats)
    return Loss(total + z_loss * jnp.sum(weight * normaliser**2), total)


def sequence_nats(config: ModelConfig, params: Params, batch: Batch) -> jax.Array:
    """Cross-entropy of each row's targets, summed, in nats; shape (B,)."""
    inputs, targets = _inputs_targets(batch)
    nats, _ = token_nats(bind(config, params)(inputs), targets)
    return jnp.sum(jnp.where(targets != PADDING, nats, 0.0), axis=1)


def _inputs_targets(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Token ids to read, padding replaced by 0, and to predict; each of shape (B, L)."""
    tokens = batch["tokens"]
    return jnp.maximum(tokens[:, :-1], 0), tokens[:, 1:]


def bind(config: ModelConfig, params: Params) -> Decoder:
    """A decoder that holds these parameters, for use inside a jitted function.

    Matrices are cast to the dtype of the computation; `auto` leaves them as they are on CPU.
    """
    return nnx.merge(_graph(config), nnx.State(_in_dtype(config, params)))


def compute_dtype(config: ModelConfig) -> str | None:
    """The dtype of the computation; None (`auto` on CPU) is that of the parameters."""
    if config.dtype != "auto":
        return config.dtype
    return None if platform() == "cpu" else "bfloat16"


def _in_dtype(config: ModelConfig, params: Params) -> Params:
    dtype = compute_dtype(config)
    if dtype is None:
        return params

    def cast(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
        return x if path[-1].key == "scale" else x.astype(dtype)  # norms stay float32

    return jax.tree_util.tree_map_with_path(cast, params)


@functools.cache
def _graph(config: ModelConfig) -> nnx.GraphDef[Decoder]:
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))[0]
