"""Scoring a run: held-out loss and tasks at every checkpoint that has not been scored."""

from __future__ import annotations

import functools
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from fitting.table import InputError
from ladder_jax import sharding, tracking
from ladder_jax.checkpoint import Checkpoints, Corrupt
from ladder_jax.config import DataConfig, EvalConfig, RunConfig
from ladder_jax.data import sources
from ladder_jax.data.pipeline import prepare
from ladder_jax.eval import embedded, heldout, loglik, store
from ladder_jax.eval.requests import Rows
from ladder_jax.eval.tasks import Task
from ladder_jax.tracking import scored_steps
from ladder_jax.train import abstract_state, train

_PATIENCE = 3


class Questions(NamedTuple):
    """What every checkpoint of a run is asked: held-out text, and tasks as packed rows."""

    heldout: heldout.Heldout
    tasks: list[Task]
    rows: Rows | None
    lengths: np.ndarray


@functools.lru_cache(maxsize=4)  # a worker scores many runs on the same questions
def _questions(data: DataConfig, seq_len: int, config: EvalConfig, cache: Path) -> Questions:
    packed = prepare(data, seq_len, cache)
    held = heldout.Heldout.of(packed, config.heldout_tokens)
    if not config.tasks:
        return Questions(held, [], None, np.zeros(0))
    tasks = embedded.build(config.tasks, sources.load(data).heldout, packed.tokenizer, data.seed)
    rows = loglik.prepare(tasks, packed.tokenizer)
    return Questions(held, tasks, rows, np.bincount(rows.request[rows.request >= 0]))


def train_and_score(run: RunConfig, directory: Path, cache: Path, progress: bool = True) -> None:
    """Trains a run to its end and scores it; a checkpoint found corrupt is trained again.

    Raises:
        InputError: see `train`; or checkpoints keep coming back corrupt.
    """
    for _ in range(_PATIENCE):
        train(run, directory, cache, progress)
        if score(run, directory, cache, progress):
            return
    raise InputError(f"{directory}: its checkpoints cannot be read back; check the disk")


def score(run: RunConfig, directory: Path, cache: Path, progress: bool = True) -> bool:
    """Scores the steps that are to be scored and are not yet.

    Returns:
        Whether they all are: False if a checkpoint was corrupt, which is then set aside with those
        after it.
    """
    checkpoints = Checkpoints(directory / "checkpoints")
    try:
        steps = [s for s in scored_steps(run) if not tracking.is_scored(run, directory, s)]
        lost = sorted(set(steps) - set(checkpoints.steps()))
        if lost:
            raise InputError(
                f"{directory}: the checkpoint of step {lost[0]} is gone and was not scored: remove "
                "the directory to have the run trained again"
            )
        return not steps or _score(run, directory, checkpoints, steps, cache, progress)
    finally:
        checkpoints.close()


def _score(
    run: RunConfig,
    directory: Path,
    checkpoints: Checkpoints,
    steps: list[int],
    cache: Path,
    progress: bool,
) -> bool:
    questions = _questions(run.data, run.model.seq_len, run.eval, cache)
    mesh = sharding.make_mesh(run.mesh)
    abstract = abstract_state(run, mesh)
    with sharding.use_mesh(mesh):
        for step in tqdm(steps, desc=f"{run.name}: scoring", unit="step", disable=not progress):
            try:
                params = checkpoints.restore(abstract, step)[0].params
            except Corrupt as e:
                print(f"{e}: training it again", file=sys.stderr)
                checkpoints.set_aside(step)
                return False
            if questions.rows is not None:
                values = loglik.score(run.model, params, questions.rows)
                scores = store.make(questions.tasks, values, questions.lengths)
                store.write(scores, tracking.scores_path(directory, step))
            measured = heldout.measure(run.model, params, questions.heldout)
            if not all(map(math.isfinite, measured.values())):
                raise InputError(f"{directory}: the held-out loss of step {step} is not finite")
            tracking.write_eval(directory, step, "heldout", measured, len(questions.heldout.rows))
    return True
