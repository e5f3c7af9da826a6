"""Scores tasks under one set of weights: watched, kept as they come, resumed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
class Questions:
    """Tasks, their requests, and how these are computed: the same for every checkpoint.

    `conditions` stands for the tokenizer, the window and what else decides the requests of a task.
    """

    tasks: tuple[Task, ...]
    conditions: str
    requests: requests.Requests
    plan: packing.Plan


def prepare(
    tasks: Sequence[Task], tokenizer: Tokenizer, window: int, unconditional: bool = True
) -> Questions:
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
    return Questions(tuple(tasks), conditions, made, plan(made.bundles))


def plan(bundles: Sequence[requests.Bundle]) -> packing.Plan:
    """Requests packed for the active mesh and the kind of its devices."""
    at_once = _TOKENS_AT_ONCE.get(jax.default_backend(), _TOKENS_ELSEWHERE)
    return packing.plan(bundles, parallel.row_shards(), at_once)


def score(model: ModelConfig, params: Params, questions: Questions) -> pd.DataFrame:
    """The score store of the questions."""
    scores = loglik.score(model, params, questions.plan)
    return store.make(questions.tasks, questions.requests, scores.loglik)


def score_into(
    path: Path,
    model: ModelConfig,
    params: Params,
    asked: Sequence[Questions],
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
        asked: tasks, those of one entry scored together.
        weights: fingerprint of the weights.
        cells: the run's columns of the measurement table.
        progress: draw a progress bar in computed tokens.

    Returns:
        The store with all tasks that it holds, those asked for as they were asked for.

    Raises:
        InputError: the store holds scores of other weights.
    """
    held = store.read(path) if path.is_file() else None
    if held is not None and held.attrs.get("weights") != weights:
        raise InputError(f"{path}: holds scores of other weights: name another --store")
    known = held.attrs["keys"] if held is not None else {}
    dtype = str(jax.tree.leaves(params)[0].dtype)
    todo = []
    for questions in asked:
        key = _digest(
            _VERSION, weights, dtype, questions.requests.fingerprint, _of_documents(questions)
        )
        if any(known.get(task.name) != key for task in questions.tasks):
            todo.append((questions, key))
    total = sum(questions.plan.n_tokens for questions, _ in todo)
    found = held
    with tqdm(total=total, unit="tok", unit_scale=True, disable=not progress) as bar:
        for questions, key in todo:
            bar.set_description(questions.tasks[0].name)
            part = path.with_name(f".{path.name}.part")
            scores = _resumed(part, model, params, questions.plan, key, bar)
            frame = store.make(questions.tasks, questions.requests, scores.loglik)
            found = store.replaced(found, frame)
            alike = _digest(_VERSION, dtype, questions.conditions)
            if not _begins(held, frame, alike):
                known = known | {task.name: key for task in questions.tasks}
                before = held.attrs["conditions"] if held is not None else {}
                held = store.replaced(held, frame)
                held.attrs = {
                    "weights": weights,
                    "cells": dict(cells),
                    "keys": known,
                    "conditions": before | {task.name: alike for task in questions.tasks},
                }
                if parallel.is_primary():
                    store.write(held, path)
            if parallel.is_primary():
                part.unlink(missing_ok=True)
    if held is None or found is None:
        raise InputError(f"{path}: nothing to score: name a task")
    if json.dumps(held.attrs["cells"]) != json.dumps(dict(cells)):
        held.attrs = held.attrs | {"cells": dict(cells)}
        if parallel.is_primary():
            store.write(held, path)
    found.attrs = dict(held.attrs)
    return found


def _of_documents(questions: Questions) -> str:
    """What the rows of a store tell beside the scores of the requests."""
    rows = [(d.prompt_hash, d.gold, len(d.choices)) for t in questions.tasks for d in t.documents]
    return _digest(json.dumps(rows))


def _begins(held: pd.DataFrame | None, frame: pd.DataFrame, alike: str) -> bool:
    """Whether a store holds each task of `frame`, scored alike, these very documents and more."""
    if held is None or any(held.attrs["conditions"].get(t) != alike for t in set(frame["task"])):
        return False
    told = ["doc", "choice", "gold", "prompt_hash"]
    for task, rows in frame.groupby("task", sort=False):
        fuller = held.loc[held["task"] == task, told]
        if len(fuller) <= len(rows) or not np.array_equal(fuller[: len(rows)], rows[told]):
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
    """Scores of a plan, from where an earlier process stopped; `part` holds what is done."""
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
    """How many calls are done already, and what they gave."""
    try:
        frame = pd.read_parquet(part)
    except Exception:  # absent or damaged: start again
        return 0, loglik.start(plan)
    if frame.attrs.get("key") != key:
        return 0, loglik.start(plan)
    return frame.attrs["done"], loglik.Scores(*(frame[f].to_numpy() for f in loglik.Scores._fields))


def _digest(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
