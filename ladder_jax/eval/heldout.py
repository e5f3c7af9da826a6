"""Held-out language-model loss, in nats per token and bits per byte.

Numerator and denominator cover the same tokens: the byte length of each token is known, since a
byte-level token is written with one character a byte.  End-of-text tokens count in nats and, being
no text, not in bytes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ladder_jax import parallel
from ladder_jax.config import ModelConfig
from ladder_jax.data.pipeline import PADDING, Packed
from ladder_jax.data.tokenizer import END_OF_TEXT
from ladder_jax.models import decoder
from ladder_jax.runtime import preemption

ROWS = 32  # sequences in one forward pass


def token_nats(logits_BxLxV: jax.Array, target_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Negative log-likelihood and log-normaliser of each target, float32 of shape (B, L).

    The gold logit is picked by comparison, which stays local when the vocabulary is sharded.
    """
    logits = logits_BxLxV.astype(jnp.float32)
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    column = jnp.arange(logits.shape[-1]).reshape(1, 1, -1)
    gold = jnp.sum(jnp.where(target_BxL[..., None] == column, logits, 0.0), axis=-1)
    return normaliser - gold, normaliser


@dataclass(frozen=True)
class Heldout:
    """Evenly spaced held-out sequences, int32 of shape (M, L + 1), and their text's bytes."""

    rows: np.ndarray
    n_tokens: int
    n_bytes: int

    @classmethod
    def of(cls, packed: Packed, n_tokens: int) -> Heldout:
        """About `n_tokens` of the held-out part; all of it if there are fewer."""
        sequences = packed.sequences("heldout")
        wanted = min(len(sequences), max(1, math.ceil(n_tokens / packed.info.seq_len)))
        index = np.linspace(0, len(sequences) - 1, wanted).round().astype(int)
        rows = np.stack([np.asarray(sequences[int(i)]) for i in index])
        targets = rows[:, 1:][rows[:, 1:] != PADDING]
        return cls(rows, targets.size, int(token_bytes(packed)[targets].sum()))


def token_bytes(packed: Packed) -> np.ndarray:
    """UTF-8 bytes of every token id, shape (V,)."""
    tokenizer = packed.tokenizer
    words = {i: word for word, i in tokenizer.get_vocab().items()}
    return np.array([0 if words[i] == END_OF_TEXT else len(words[i]) for i in sorted(words)])


def measure(model: ModelConfig, params: decoder.Params, heldout: Heldout) -> dict[str, float]:
    """`lm_loss` (nats per token) and `lm_bpb` (bits per byte); summed in float64 on the host."""
    function, nats = _row_nats(model, parallel.active_mesh()), 0.0
    shards = parallel.row_shards()
    at_once = -(-ROWS // shards) * shards
    for start in range(0, len(heldout.rows), at_once):
        preemption.check()
        rows = np.full((at_once, heldout.rows.shape[1]), PADDING, np.int32)
        part = heldout.rows[start : start + at_once]
        rows[: len(part)] = part
        found = function(params, parallel.put_rows(rows))
        nats += float(np.asarray(found, np.float64).sum())
    return {
        "lm_loss": nats / heldout.n_tokens,
        "lm_bpb": nats / math.log(2) / heldout.n_bytes,
    }


@functools.cache
def _row_nats(model: ModelConfig, mesh: Any) -> Callable[[Any, np.ndarray], jax.Array]:
    """(params, rows of shape (B, L + 1)) -> nats of each row, shape (B,)."""

    def row_nats(params: decoder.Params, rows: jax.Array) -> jax.Array:
        inputs, targets = jnp.maximum(rows[:, :-1], 0), rows[:, 1:]
        nats, _ = token_nats(decoder.bind(model, params)(inputs), targets)
        return jnp.sum(jnp.where(targets != PADDING, nats, 0.0), axis=1)

    whole = None if mesh is None else parallel.replicated(mesh)
    return jax.jit(row_nats, out_shardings=whole)
