"""Log-likelihoods of a plan's requests: few static shapes, logits only where they are needed."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ladder_jax import sharding
from ladder_jax.config import ModelConfig
from ladder_jax.eval.packing import Call, Plan, prefix_length
from ladder_jax.models import decoder
from ladder_jax.models.layers import Prefix, visible

_HEAD_ROWS = 128  # positions for which logits are held at once, on each device
_IN_FLIGHT = 2  # calls that are computed before the first is fetched


class Scores(NamedTuple):
    """Of every request: the summed log-likelihood in nats (float64), and whether each token was
    the likeliest; shape (R,).  NaN and False where it was not asked for."""

    loglik: np.ndarray
    greedy: np.ndarray


def score(model: ModelConfig, params: decoder.Params, plan: Plan) -> Scores:
    """Scores every request of a plan; see `partial`."""
    scores = start(plan)
    for _ in partial(model, params, plan, scores):
        pass
    return scores


def start(plan: Plan) -> Scores:
    """Scores of a plan of which nothing is computed yet."""
    return Scores(np.full(plan.n_requests, np.nan), np.zeros(plan.n_requests, bool))


def partial(
    model: ModelConfig, params: decoder.Params, plan: Plan, scores: Scores, done: int = 0
) -> Iterator[int]:
    """Fills in scores call by call, so that the work can be watched, kept and resumed.

    Args:
        model: of the parameters.
        params: float32 or bfloat16.
        plan: what to score.
        scores: filled in place; what the first `done` calls gave stands in it already.
        done: calls to leave out.

    Yields:
        How many calls are done.

    Raises:
        RuntimeError: a request was not answered exactly once (a defect of this code).
    """
    answered = np.zeros(plan.n_requests, int)
    for call in (call for i, (_, call) in enumerate(_calls(plan)) if i < done):
        answered[np.unique(call.request)] += 1
    waiting: deque[tuple[Call, Any]] = deque()
    for call, outputs in _computed(model, params, plan, done):
        waiting.append((call, outputs))
        if len(waiting) > _IN_FLIGHT:
            done += 1
            _take(*waiting.popleft(), scores, answered)
            yield done
    while waiting:
        done += 1
        _take(*waiting.popleft(), scores, answered)
        yield done
    if not (answered == 1).all() or np.isnan(scores.loglik).any():
        raise RuntimeError("a request was not answered exactly once")


def _calls(plan: Plan) -> Iterator[tuple[int, Call]]:
    """Every call in order, with the index of its group."""
    for i, group in enumerate(plan.groups):
        for call in group.calls:
            yield i, call


def _take(call: Call, outputs: Any, scores: Scores, answered: np.ndarray) -> None:
    """Adds a call's cells to its requests; all cells of a request stand in one call."""
    loglik, greedy = (np.asarray(x).reshape(-1)[call.cell] for x in outputs)
    requests, place = np.unique(call.request, return_inverse=True)
    scores.loglik[requests] = np.bincount(place, loglik)
    scores.greedy[requests] = np.bincount(place, greedy) == np.bincount(place)
    answered[requests] += 1


def _computed(
    model: ModelConfig, params: decoder.Params, plan: Plan, skip: int
) -> Iterator[tuple[Call, Any]]:
    """Each call after the first `skip`, with what it gives: still being computed."""
    mesh = sharding.active_mesh()
    function, at = _row_logliks(model, mesh), None
    prefix = None
    for number, (group, call) in enumerate(_calls(plan)):
        if number < skip:
            continue
        if group != at:
            at, prefix = group, _prefix(model, params, plan.groups[group].prefix)
        rows = (call.token, call.position, call.segment, call.block, call.source, call.target)
        placed = [sharding.put_rows(array) for array in rows]
        yield call, function(params, prefix, np.int32(call.n_sources), *placed)


def _prefix(model: ModelConfig, params: decoder.Params, ids: np.ndarray) -> Prefix | None:
    """Keys and values of a prefix, padded to one of few lengths."""
    if not len(ids):
        return None
    token = np.zeros((1, prefix_length(len(ids))), np.int32)
    token[0, : len(ids)] = ids
    key, value = _keys_values(model, sharding.active_mesh())(params, token)
    return Prefix(key, value, visible(jnp.arange(token.size) < len(ids)))


@functools.cache
def _keys_values(model: ModelConfig, mesh: Any) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(params, tokens of shape (1, S)) -> keys and values of shape (N, G, S, K)."""

    @jax.jit
    def keys_values(params: decoder.Params, token: jax.Array) -> tuple[jax.Array, jax.Array]:
        with _exact():
            key, value = decoder.bind(model, params).keys_values(token)
        return key[:, 0], value[:, 0]

    return keys_values


@functools.cache
def _row_logliks(model: ModelConfig, mesh: Any) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(params, prefix, n_sources, arrays of a call) -> log-likelihood of every target, and whether
    it is the likeliest, each of shape (W, S, A)."""

    def row_logliks(
        params: decoder.Params,
        prefix: Prefix | None,
        n_sources: jax.Array,
        token: jax.Array,
        position: jax.Array,
        segment: jax.Array,
        block: jax.Array,
        source: jax.Array,
        target: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        bound = decoder.bind(model, params)
        with _exact():
            hidden = bound.hidden(token, position, _mask(segment, block), prefix)
            hidden = hidden.reshape(len(source), -1, hidden.shape[-1])
            return _heads(bound, hidden, source, target, n_sources)

    return jax.jit(row_logliks, out_shardings=mesh and sharding.replicated(mesh))


def _mask(segment: jax.Array, block: jax.Array) -> jax.Array:
    """Whom each token sees of its row, shape (B, T, T)."""
    length = segment.shape[1]
    before = jnp.tril(jnp.ones((length, length), bool))[None]
    same_block = block[:, :, None] == block[:, None, :]
    shared = (segment[:, None, :] == 0) | (segment[:, :, None] == segment[:, None, :])
    return before & same_block & shared


def _heads(
    bound: decoder.Decoder,
    hidden_WxMxD: jax.Array,
    source_WxS: jax.Array,
    target_WxSxA: jax.Array,
    n_sources: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Logits a slice of the sources at a time, as many slices as there are sources."""
    size = min(_HEAD_ROWS, source_WxS.shape[1])

    def some(i: jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        at = jax.lax.dynamic_slice_in_dim(source_WxS, i * size, size, 1)
        target = jax.lax.dynamic_slice_in_dim(target_WxSxA, i * size, size, 1)
        chosen = jnp.take_along_axis(hidden_WxMxD, at[:, :, None], axis=1)
        logits = bound.logits(chosen).astype(jnp.float32)
        top = jnp.max(logits, axis=-1, keepdims=True)
        normaliser = top + jnp.log(jnp.sum(jnp.exp(logits - top), axis=-1, keepdims=True))
        gold = jnp.take_along_axis(logits, target, axis=2)
        loglik, greedy = found
        return (
            jax.lax.dynamic_update_slice_in_dim(loglik, gold - normaliser, i * size, 1),
            jax.lax.dynamic_update_slice_in_dim(greedy, gold >= top, i * size, 1),
        )

    empty = (jnp.zeros(target_WxSxA.shape), jnp.zeros(target_WxSxA.shape, bool))
    return jax.lax.fori_loop(0, (n_sources + size - 1) // size, some, empty)


def _exact() -> Any:
    """Full precision for float32 operands, which TPUs would round to bfloat16."""
    return jax.default_matmul_precision("float32")
