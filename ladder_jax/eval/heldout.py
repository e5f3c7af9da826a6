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
import numpy as np

from ladder_jax import parallel
from ladder_jax.config import ModelConfig
from ladder_jax.data.pipeline import Packed
from ladder_jax.data.tokenizer import END_OF_TEXT
from ladder_jax.models.protocol import PADDING, Batch, Params
from ladder_jax.models.registry import architecture
from ladder_jax.runtime import preemption

ROWS = 32  # sequences in one forward pass


@dataclass(frozen=True)
class Heldout:
    """Evenly spaced held-out sequences.

    Attributes:
        rows: the sequences, as in training batches.
        n_tokens: predicted tokens.
        n_bytes: UTF-8 bytes of the predicted tokens' text.
    """

    rows: Batch
    n_tokens: int
    n_bytes: int

    @property
    def n_sequences(self) -> int:
        """Sequences M."""
        return len(jax.tree.leaves(self.rows)[0])

    @classmethod
    def of(cls, packed: Packed, n_tokens: int) -> Heldout:
        """About `n_tokens` tokens of the held-out part; all of it if there are fewer."""
        sequences = packed.sequences("heldout")
        wanted = min(len(sequences), max(1, math.ceil(n_tokens / packed.info.seq_len)))
        index = np.linspace(0, len(sequences) - 1, wanted).round().astype(int)
        rows = np.stack([np.asarray(sequences[int(i)]) for i in index])
        targets = rows[:, 1:][rows[:, 1:] != PADDING]
        return cls({"tokens": rows}, targets.size, int(token_bytes(packed)[targets].sum()))


def token_bytes(packed: Packed) -> np.ndarray:
    """UTF-8 bytes of every token id, shape (V,)."""
    tokenizer = packed.tokenizer
    words = {i: word for word, i in tokenizer.get_vocab().items()}
    return np.array([0 if words[i] == END_OF_TEXT else len(words[i]) for i in sorted(words)])


def measure(model: ModelConfig, params: Params, heldout: Heldout) -> dict[str, float]:
    """`lm_loss` (nats per token) and `lm_bpb` (bits per byte); summed in float64 on the host."""
    function, nats = _sequence_nats(model, parallel.active_mesh()), 0.0
    shards = parallel.row_shards()
    at_once = -(-ROWS // shards) * shards
    for start in range(0, heldout.n_sequences, at_once):
        preemption.check()
        part = jax.tree.map(lambda x, i=start: _padded(x[i : i + at_once], at_once), heldout.rows)
        found = function(params, parallel.put_rows(part))
        nats += float(np.asarray(found, np.float64).sum())
    return {
        "lm_loss": nats / heldout.n_tokens,
        "lm_bpb": nats / math.log(2) / heldout.n_bytes,
    }


def _padded(rows: np.ndarray, n: int) -> np.ndarray:
    """`n` rows, the last of them padding."""
    padded = np.full((n, *rows.shape[1:]), PADDING, rows.dtype)
    padded[: len(rows)] = rows
    return padded


@functools.cache
def _sequence_nats(model: ModelConfig, mesh: Any) -> Callable[[Params, Batch], jax.Array]:
    """(params, batch of B sequences) -> nats of each sequence, shape (B,)."""
    whole = None if mesh is None else parallel.replicated(mesh)
    nats = functools.partial(architecture(model).sequence_nats, model)
    return jax.jit(nats, out_shardings=whole)
