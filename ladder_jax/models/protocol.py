"""The interface of a model family, `Architecture`: all that the rest of the package knows of it.

A model family is one module, such as `models.decoder`, whose functions are the members of
`Architecture`; the module itself is the implementation.  `models.registry` names it beside the type
of its config, and nothing outside `models` imports it.

Parameters are arguments of every function and never a model's state, so a run may begin with any
parameters of the structure of `init_params`.  `training.initialize.initial_params` alone decides
where they come from: today `init_params` makes fresh ones; those of another checkpoint, which the
field `RunConfig.init` will name, are to enter there.

Imports no JAX: counts, data preparation and `ladder plan` read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import jax

PADDING = -1  # a token id that stands for no token: no loss counts it
Params = dict[str, Any]
"""Parameters: nested dicts of arrays."""
Batch = Mapping[str, Any]
"""Sequences: integer arrays by name, the leading axis of each the sequences."""


class Width(NamedTuple):
    """A number that must divide over the mesh axis of its logical axis."""

    axis: str
    size: int


class Loss(NamedTuple):
    """Scalars, sums over a batch divided by a number of tokens.

    Attributes:
        objective: what gradients are taken of: cross-entropy and penalties.
        nats: the cross-entropy alone; has no gradients.
    """

    objective: jax.Array
    nats: jax.Array


class Prefix(NamedTuple):
    """Tokens that precede every row, as their keys and values.

    Attributes:
        key: shape (G, S, K), or (N, G, S, K) for all layers.
        value: shaped alike.
        mask: shape (S,), false where there is padding.
    """

    key: jax.Array
    value: jax.Array
    mask: jax.Array


class Bound(Protocol):
    """A model that holds its parameters, inside a jitted function."""

    def hidden(
        self,
        token_BxL: jax.Array,
        position_BxL: jax.Array | None = None,
        mask_BxLxS: jax.Array | None = None,
        prefix: Prefix | None = None,
    ) -> jax.Array:
        """Last hidden states, shape (B, L, D); positions and mask are causal by default."""
        ...

    def keys_values(self, token_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values of every layer, each of shape (N, B, G, L, K)."""
        ...

    def logits(self, hidden_BxLxD: jax.Array) -> jax.Array:
        """The output head: float32 of shape (B, L, V)."""
        ...


class Architecture(Protocol):
    """The functions of a model family; `config` is always of the family's own type."""

    def init_params(self, config: Any, key: jax.Array) -> Params:
        """Fresh float32 parameters."""
        ...

    def abstract_params(self, config: Any) -> Params:
        """Shapes and dtypes of `init_params`, without computing anything."""
        ...

    def logical_axes(self, config: Any) -> Params:
        """A tuple of logical axes for every parameter, in the structure of `init_params`."""
        ...

    def divisibility(self, config: Any) -> dict[str, Width]:
        """Config field -> what of it must divide over the mesh."""
        ...

    def decayed(self, params: Params, decay_embeddings: bool) -> Params:
        """Which parameters weight decay covers: a tree of bools, token tables only if asked."""
        ...

    def compute_dtype(self, config: Any) -> str | None:
        """The dtype of the computation; None where it is that of the parameters."""
        ...

    def abstract_batch(self, config: Any, n_seqs: int) -> Batch:
        """Shapes and dtypes of a training batch of `n_seqs` sequences."""
        ...

    def n_predicted(self, batch: Batch) -> jax.Array:
        """Tokens that a loss counts, over all leading axes of a batch: a scalar."""
        ...

    def loss(
        self, config: Any, params: Params, batch: Batch, n_tokens: jax.Array, z_loss: float
    ) -> Loss:
        """The training loss of a batch, or of its share where the batch is split.

        Args:
            config: of the model.
            params: float32.
            batch: in the structure of `abstract_batch`.
            n_tokens: what sums are divided by: the predicted tokens of the whole batch.
            z_loss: coefficient of the squared log-normaliser (arXiv 2204.02311, section 5).
        """
        ...

    def sequence_nats(self, config: Any, params: Params, batch: Batch) -> jax.Array:
        """Cross-entropy of every sequence's predicted tokens, summed, in nats; shape (B,)."""
        ...

    def bind(self, config: Any, params: Params) -> Bound:
        """The model with these parameters, for scoring."""
        ...


class Counts(NamedTuple):
    """Numbers of a model from which parameters and FLOPs follow under every convention.

    Attributes:
        non_embedding: parameters without input table and output head.
        input_table: parameters of the input table.
        output_head: parameters of the output head.
        norm_scales: parameters of the norms, part of `non_embedding`.
        attention: layers x D x L: multiplications that scores take for each token, and as many
            their product with the values.
    """

    non_embedding: int
    input_table: int
    output_head: int
    norm_scales: int
    attention: int
