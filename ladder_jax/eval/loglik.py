"""Log-likelihoods of a plan's requests: few static shapes, and logits only where they are used."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fitting.errors import InputError
from ladder_jax import parallel
from ladder_jax.config import ModelConfig
from ladder_jax.eval.calls import Call
from ladder_jax.eval.packing import Group, Plan
from ladder_jax.models.protocol import Bound, Params, Prefix
from ladder_jax.models.registry import architecture
from ladder_jax.runtime import preemption

_HEAD_ROWS = (192, 64)  # positions for which logits are held at once: most, and of the remainder
_IN_FLIGHT = 2  # calls that are computed before the first is fetched


class Scores(NamedTuple):
    """Log-likelihoods of R requests.

    Attributes:
        loglik: in nats, summed over tokens, float64 of shape (R,); NaN until computed.
        greedy: whether every token was the likeliest, shape (R,); False until computed.
    """

    loglik: np.ndarray
    greedy: np.ndarray


def score(model: ModelConfig, params: Params, plan: Plan) -> Scores:
    """Scores every request of a plan.

    Raises:
        RuntimeError, InputError: see `partial`.
    """
    scores = start(plan)
    for _ in partial(model, params, plan, scores):
        pass
    return scores


def start(plan: Plan) -> Scores:
    """Scores of a plan, none of them computed yet."""
    return Scores(np.full(plan.n_requests, np.nan), np.zeros(plan.n_requests, bool))


def partial(
    model: ModelConfig, params: Params, plan: Plan, scores: Scores, done: int = 0
) -> Iterator[int]:
    """Fills in scores call by call, so that the work can be watched, kept and resumed.

    Args:
        model: of the parameters.
        params: float32 or bfloat16.
        plan: what to score.
        scores: filled in place; holds what the first `done` calls gave.
        done: calls to leave out.

    Yields:
        The number of calls that are done.

    Raises:
        RuntimeError: a request was not answered exactly once (a defect of this code).
        InputError: a score is not finite.
    """
    answered = np.zeros(plan.n_requests, int)
    for call in (call for i, (_, call) in enumerate(_calls(plan)) if i < done):
        answered[np.unique(call.request)] += 1
    waiting: deque[tuple[Call, Any]] = deque()
    for call, outputs in _computed(model, params, plan, done):
        preemption.check()
        waiting.append((call, outputs))
        if len(waiting) > _IN_FLIGHT:
            done += 1
            _take(*waiting.popleft(), scores, answered)
            yield done
    while waiting:
        done += 1
        _take(*waiting.popleft(), scores, answered)
        yield done
    if not (answered == 1).all():
        raise RuntimeError("a request was not answered exactly once")
    if not np.isfinite(scores.loglik).all():
        raise InputError("the weights give scores that are not finite: check them, and the dtype")


def _calls(plan: Plan) -> Iterator[tuple[int, Call]]:
    """Every call in order, with the index of its group."""
    for i, group in enumerate(plan.groups):
        for call in group.calls:
            yield i, call


def _take(call: Call, outputs: Any, scores: Scores, answered: np.ndarray) -> None:
    """Adds a call's cells to its requests; all cells of a request are in one call."""
    loglik, greedy = (np.asarray(x).reshape(-1)[call.cell] for x in outputs)
    requests, place = np.unique(call.request, return_inverse=True)
    scores.loglik[requests] = np.bincount(place, loglik)
    scores.greedy[requests] = np.bincount(place, greedy) == np.bincount(place)
    answered[requests] += 1


def _computed(
    model: ModelConfig, params: Params, plan: Plan, skip: int
) -> Iterator[tuple[Call, Any]]:
    """Each call after the first `skip`, with its outputs, which are still being computed."""
    mesh = parallel.active_mesh()
    function, at = _row_logliks(model, mesh), None
    prefix = None
    for number, (group, call) in enumerate(_calls(plan)):
        if number < skip:
            continue
        if group != at:
            at, prefix = group, _prefix(model, params, plan.groups[group])
        rows = _Rows(call.token, call.position, call.end, call.source, call.target)
        yield call, function(params, prefix, np.int32(call.n_sources), parallel.put_rows(rows))


class _Rows(NamedTuple):
    """The arrays of a call; see `calls.Call`."""

    token: Any
    position: Any
    end: Any
    source: Any
    target: Any


def _prefix(model: ModelConfig, params: Params, group: Group) -> Prefix | None:
    """Keys and values of a group's prefix."""
    n = len(group.prefix)
    if not n:
        return None
    token = np.zeros((1, group.length), np.int32)
    token[0, :n] = group.prefix
    key, value = _keys_values(model, parallel.active_mesh())(params, token)
    return Prefix(key, value, jnp.arange(group.length) < n)


@functools.cache
def _keys_values(model: ModelConfig, mesh: Any) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(params, tokens of shape (1, S)) -> keys and values of shape (N, G, S, K)."""

    @jax.jit
    def keys_values(params: Params, token: jax.Array) -> tuple[jax.Array, jax.Array]:
        with _exact():
            key, value = architecture(model).bind(model, params).keys_values(token)
        return key[:, 0], value[:, 0]

    return keys_values


@functools.cache
def _row_logliks(model: ModelConfig, mesh: Any) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(params, prefix, n_sources, rows) -> log-likelihoods of the targets, which are likeliest.

    Both outputs have the shape (W, S, A).
    """

    def row_logliks(
        params: Params, prefix: Prefix | None, n_sources: jax.Array, rows: _Rows
    ) -> tuple[jax.Array, jax.Array]:
        bound = architecture(model).bind(model, params)
        with _exact():
            hidden = bound.hidden(rows.token, rows.position, _ancestors(rows.end), prefix)
            hidden = hidden.reshape(len(rows.source), -1, hidden.shape[-1])
            return _target_logliks(bound, hidden, rows.source, rows.target, n_sources)

    return jax.jit(row_logliks, out_shardings=mesh and parallel.replicated(mesh))


def _ancestors(end: jax.Array) -> jax.Array:
    """Which tokens of its row each token sees, shape (B, T, T): itself and its ancestors."""
    at = jnp.arange(end.shape[1])
    return (at[None, :, None] >= at[None, None, :]) & (at[None, :, None] < end[:, None, :])


def _target_logliks(
    bound: Bound,
    hidden_WxMxD: jax.Array,
    source_WxS: jax.Array,
    target_WxSxA: jax.Array,
    n_sources: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Outputs of `_row_logliks`; holds the logits of a few sources at a time."""

    def some(size: int, first: Any, i: jax.Array, found: tuple[jax.Array, jax.Array]) -> Any:
        start = first + i * size
        at = jax.lax.dynamic_slice_in_dim(source_WxS, start, size, 1)
        target = jax.lax.dynamic_slice_in_dim(target_WxSxA, start, size, 1)
        chosen = jnp.take_along_axis(hidden_WxMxD, at[:, :, None], axis=1)
        logits = bound.logits(chosen)
        top = jnp.max(logits, axis=-1, keepdims=True)
        normaliser = top + jnp.log(jnp.sum(jnp.exp(logits - top), axis=-1, keepdims=True))
        gold = jnp.take_along_axis(logits, target, axis=2)
        loglik, greedy = found
        return (
            jax.lax.dynamic_update_slice_in_dim(loglik, gold - normaliser, start, 1),
            jax.lax.dynamic_update_slice_in_dim(greedy, gold >= top, start, 1),
        )

    found = (jnp.zeros(target_WxSxA.shape), jnp.zeros(target_WxSxA.shape, bool))
    large, small = (min(size, source_WxS.shape[1]) for size in _HEAD_ROWS)
    n_large = n_sources // large
    found = jax.lax.fori_loop(0, n_large, functools.partial(some, large, 0), found)
    rest = (n_sources - n_large * large + small - 1) // small
    return jax.lax.fori_loop(0, rest, functools.partial(some, small, n_large * large), found)


def _exact() -> Any:
    """Full precision for float32 operands, which TPUs would round to bfloat16."""
    return jax.default_matmul_precision("float32")
