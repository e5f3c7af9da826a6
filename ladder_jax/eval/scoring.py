"""Scores tasks with one set of weights, keeping scores as they come: a kill loses little."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from tokenizers import Tokenizer
from tqdm import tqdm

from fitting.errors import InputError
from ladder_jax import parallel
from ladder_jax.config import ModelConfig
from ladder_jax.eval import loglik, packing, requests, store
from ladder_jax.models.protocol import Params
from ladder_jax.runtime import preemption
from ladder_jax.tasks.task import Task

_VERSION = "1"  # of the scorer: raised with any change of what it gives
_KEEP_EVERY_S = 20.0
_TOKENS_AT_ONCE = {"cpu": 1024}  # a CPU's caches hold no more; for each device
_TOKENS_ELSEWHERE = 16_384


@dataclass(frozen=True)
class PreparedTasks:
    """Tasks, tokenised and packed; every checkpoint is scored on them alike.

    Attributes:
        tasks: scored together.
        conditions: a hash of the tokenizer, the window and what else decides a task's requests.
        requests: distinct (context, continuation) pairs.
        plan: how the requests are computed.
    """

    tasks: tuple[Task, ...]
    conditions: str
    requests: requests.Requests
    plan: packing.Plan


def prepare(
    tasks: Sequence[Task], tokenizer: Tokenizer, window: int, unconditional: bool = True
) -> PreparedTasks:
    """Tokenises and packs tasks for the active mesh; see `requests.of_tasks`.

    Raises:
        InputError: two tasks have one name, or see `requests.of_tasks`.
    """
    names = [task.name for task in tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two of the tasks are named {twice!r}: leave one out, or rename a file")
    made = requests.of_tasks(tasks, tokenizer, window, unconditional)
    conditions = _digest(tokenizer.to_str(), f"{window} {unconditional}")
    return PreparedTasks(tuple(tasks), conditions, made, plan(made.bundles))


def plan(bundles: Sequence[requests.Bundle]) -> packing.Plan:
    """Packs requests for the active mesh and the kind of its devices."""
    at_once = _TOKENS_AT_ONCE.get(jax.default_backend(), _TOKENS_ELSEWHERE)
    return packing.plan(bundles, parallel.row_shards(), at_once)


def score(model: ModelConfig, params: Params, prepared: PreparedTasks) -> pd.DataFrame:
    """The score store of the tasks."""
    scores = loglik.score(model, params, prepared.plan)
    return store.make(prepared.tasks, prepared.requests, scores.loglik)


def score_into(
    path: Path,
    model: ModelConfig,
    params: Params,
    prepared: Sequence[PreparedTasks],
    weights: str,
    cells: Mapping[str, Any],
    progress: bool = True,
) -> pd.DataFrame:
    """Scores what a store does not hold yet, keeping it there; a kill loses seconds of work.

    A task's first documents do not replace all of them if these were scored alike.

    Args:
        path: of the store, made or added to.
        model: of the weights.
        params: float32 or bfloat16.
        prepared: tasks, those of one entry scored together.
        weights: fingerprint of the weights.
        cells: the run's columns of the measurement table.
        progress: draw a progress bar in computed tokens.

    Returns:
        The store with all tasks that it holds; those of `prepared` with the documents given there.

    Raises:
        InputError: the store holds scores of other weights.
    """
    held = store.read(path) if path.is_file() else None
    if held is not None and held.attrs.get("weights") != weights:
        raise InputError(f"{path}: holds scores of other weights: name another `store`")
    origin = _Origin(weights, dict(cells), str(jax.tree.leaves(params)[0].dtype))
    todo = _not_held(prepared, held, origin)
    found = held
    part = path.with_name(f".{path.name}.part")
    total = sum(tasks.plan.n_tokens for tasks, _ in todo)
    with tqdm(total=total, unit="tok", unit_scale=True, disable=not progress) as bar:
        for tasks, key in todo:
            bar.set_description(tasks.tasks[0].name)
            scores = _resumed(part, model, params, tasks.plan, key, bar)
            frame = store.make(tasks.tasks, tasks.requests, scores.loglik)
            found = store.replaced(found, frame)
            held = _kept_in(path, held, frame, tasks, key, origin)
            if parallel.is_primary():
                part.unlink(missing_ok=True)
    if held is None or found is None:
        raise InputError(f"{path}: nothing to score: name a task")
    if json.dumps(held.attrs["cells"]) != json.dumps(origin.cells):
        held.attrs = held.attrs | {"cells": origin.cells}
        if parallel.is_primary():
            store.write(held, path)
    found.attrs = dict(held.attrs)
    return found


class _Origin(NamedTuple):
    """The weights of a store's scores, and their run."""

    weights: str
    cells: dict[str, Any]
    dtype: str


def _not_held(
    prepared: Sequence[PreparedTasks], held: pd.DataFrame | None, origin: _Origin
) -> list[tuple[PreparedTasks, str]]:
    """Tasks that the store lacks, each with the key that it will be stored under."""
    known = held.attrs["keys"] if held is not None else {}
    todo = []
    for tasks in prepared:
        key = _digest(
            _VERSION, origin.weights, origin.dtype, tasks.requests.fingerprint, _rows_of(tasks)
        )
        if any(known.get(task.name) != key for task in tasks.tasks):
            todo.append((tasks, key))
    return todo


def _kept_in(
    path: Path,
    held: pd.DataFrame | None,
    frame: pd.DataFrame,
    tasks: PreparedTasks,
    key: str,
    origin: _Origin,
) -> pd.DataFrame | None:
    """The store with newly scored rows, written; as it was if it holds these rows and more."""
    conditions = _digest(_VERSION, origin.dtype, tasks.conditions)
    if _holds_more(held, frame, conditions):
        return held
    before = held.attrs if held is not None else {"keys": {}, "conditions": {}}
    held = store.replaced(held, frame)
    held.attrs = {
        "weights": origin.weights,
        "cells": origin.cells,
        "keys": before["keys"] | {task.name: key for task in tasks.tasks},
        "conditions": before["conditions"] | {task.name: conditions for task in tasks.tasks},
    }
    if parallel.is_primary():
        store.write(held, path)
    return held


def _rows_of(tasks: PreparedTasks) -> str:
    """A hash of what a store's rows say beside the scores."""
    rows = [(d.prompt_hash, d.gold, len(d.choices)) for t in tasks.tasks for d in t.documents]
    return _digest(json.dumps(rows))


def _holds_more(held: pd.DataFrame | None, frame: pd.DataFrame, conditions: str) -> bool:
    """Whether a store holds each task of `frame`, scored alike, these very documents and more."""
    if held is None:
        return False
    if any(held.attrs["conditions"].get(t) != conditions for t in set(frame["task"])):
        return False
    compared = ["doc", "choice", "gold", "prompt_hash"]
    for task, rows in frame.groupby("task", sort=False):
        fuller = held.loc[held["task"] == task, compared]
        if len(fuller) <= len(rows) or not np.array_equal(fuller[: len(rows)], rows[compared]):
            return False
    return True


def _resumed(
    part: Path,
    model: ModelConfig,
    params: Params,
    plan: packing.Plan,
    key: str,
    bar: tqdm,
) -> loglik.Scores:
    """Scores of a plan, from where an earlier process stopped: `part` holds what it computed."""
    key = _digest(key, plan.fingerprint)
    first, scores = parallel.agreed(_kept(part, plan, key))
    first, scores = int(first), loglik.Scores(*map(np.array, scores))
    sizes = [call.n_tokens for group in plan.groups for call in group.calls]
    bar.update(sum(sizes[:first]))
    since, done = time.monotonic(), first
    try:
        for done in loglik.partial(model, params, plan, scores, first):
            bar.update(sizes[done - 1])
            if time.monotonic() - since > _KEEP_EVERY_S:
                _keep(part, key, scores, done)
                since = time.monotonic()
    except preemption.Preempted:
        _keep(part, key, scores, done)
        raise
    return scores


def _keep(part: Path, key: str, scores: loglik.Scores, done: int) -> None:
    if parallel.is_primary():
        frame = pd.DataFrame(scores._asdict())
        frame.attrs = {"key": key, "done": done}
        store.write(frame, part)


def _kept(part: Path, plan: packing.Plan, key: str) -> tuple[int, loglik.Scores]:
    """The number of calls that an earlier process finished, and their scores."""
    try:
        frame = pd.read_parquet(part)
    except Exception:  # absent or damaged: start again
        return 0, loglik.start(plan)
    if frame.attrs.get("key") != key:
        return 0, loglik.start(plan)
    return frame.attrs["done"], loglik.Scores(*(frame[f].to_numpy() for f in loglik.Scores._fields))


def _digest(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
