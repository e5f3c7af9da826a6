"""Log-likelihoods of packed requests: one static shape, logits only where they are needed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from ladder_jax.config import ModelConfig
from ladder_jax.eval.heldout import token_nats
from ladder_jax.eval.requests import Rows, blocks_of, pack
from ladder_jax.eval.tasks import Task
from ladder_jax.models import decoder
from ladder_jax.sharding import active_mesh

ROW_LEN = 256
ROWS_AT_ONCE = 8


def prepare(tasks: Sequence[Task], tokenizer: Tokenizer) -> Rows:
    """All requests of the tasks, packed; the same for every checkpoint of a run."""
    return pack(blocks_of(tasks, tokenizer, ROW_LEN), ROW_LEN)


def score(model: ModelConfig, params: decoder.Params, rows: Rows) -> np.ndarray:
    """Summed log-likelihood of every request in nats, float64 of shape (R,).

    Raises:
        RuntimeError: a request was not answered exactly once (a defect of this code).
    """
    function = _row_logliks(model, active_mesh())
    n_requests = int(rows.request.max()) + 1
    total, answered = np.zeros(n_requests), np.zeros(n_requests, int)
    for start in range(0, len(rows.token), ROWS_AT_ONCE):
        part = {f.name: _rows(getattr(rows, f.name), start) for f in fields(rows)}
        request = part.pop("request")
        loglik = np.asarray(function(params, **part), np.float64)
        counted = request >= 0
        np.add.at(total, request[counted], loglik[counted])
        np.add.at(answered, request[counted], 1)
    wanted = np.bincount(rows.request[rows.request >= 0], minlength=n_requests)
    if not (answered == wanted).all() or not wanted.all():
        raise RuntimeError("a request was not answered exactly once")
    return total


def _rows(array: np.ndarray, start: int) -> np.ndarray:
    """Rows from `start`, padded with empty ones to the static number."""
    part = array[start : start + ROWS_AT_ONCE]
    empty = np.full((ROWS_AT_ONCE - len(part), array.shape[1]), -1, array.dtype)
    return np.concatenate([part, empty])


@functools.cache
def _row_logliks(model: ModelConfig, mesh: Any) -> Callable[..., jax.Array]:
    """(params, arrays of shape (B, T)) -> log-likelihood of every target cell, shape (B, T)."""

    @jax.jit
    def row_logliks(
        params: decoder.Params,
        token: jax.Array,
        position: jax.Array,
        block: jax.Array,
        segment: jax.Array,
        source: jax.Array,
        target: jax.Array,
    ) -> jax.Array:
        length = token.shape[1]
        before = jnp.tril(jnp.ones((length, length), bool))[None]
        same_block = block[:, :, None] == block[:, None, :]
        visible = (segment[:, None, :] == 0) | (segment[:, :, None] == segment[:, None, :])
        bound = decoder.bind(model, params)
        mask = before & same_block & visible
        hidden = bound.hidden(jnp.maximum(token, 0), jnp.maximum(position, 0), mask)
        at = jnp.maximum(source, 0)[:, :, None]
        logits = bound.logits(jnp.take_along_axis(hidden, at, axis=1))
        return -token_nats(logits, target)[0]

    return row_logliks
