"""Scoring a run: held-out loss and tasks at every checkpoint that has not been scored."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fitting.table import InputError
from ladder_jax import sharding, tracking
from ladder_jax.checkpoint import Checkpoints, Corrupt
from ladder_jax.config import RunConfig
from ladder_jax.data import sources
from ladder_jax.data.pipeline import prepare
from ladder_jax.eval import embedded, heldout, loglik, store
from ladder_jax.train import abstract_state, train

_PATIENCE = 3


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
    """Scores what is not scored yet; what is, is left alone.

    Returns:
        Whether all committed checkpoints are scored: False if one was corrupt, which is then
        set aside with those after it.
    """
    checkpoints = Checkpoints(directory / "checkpoints")
    try:
        steps = [s for s in checkpoints.steps() if not tracking.is_scored(run, directory, s)]
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
    packed = prepare(run.data, run.model.seq_len, cache)
    held = heldout.Heldout.of(packed, run.eval.heldout_tokens)
    tasks, rows, lengths = [], None, np.zeros(0)
    if run.eval.tasks:
        texts = sources.load(run.data).heldout
        tasks = embedded.build(run.eval.tasks, texts, packed.tokenizer, run.data.seed)
        rows = loglik.prepare(tasks, packed.tokenizer)
        lengths = np.bincount(rows.request[rows.request >= 0])
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
            if rows is not None:
                values = loglik.score(run.model, params, rows)
                path = tracking.scores_path(directory, step)
                store.write(store.make(tasks, values, lengths), path)
            measured = heldout.measure(run.model, params, held)
            if not all(map(math.isfinite, measured.values())):
                raise InputError(f"{directory}: the held-out loss of step {step} is not finite")
            tracking.write_eval(directory, step, "heldout", measured, len(held.rows))
    return True
