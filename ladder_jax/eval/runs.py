"""Scoring a run: held-out loss and tasks at every checkpoint that has not been scored."""

from __future__ import annotations

import functools
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from fitting.errors import InputError
from ladder_jax import parallel
from ladder_jax.config import DataConfig, EvalConfig, RunConfig
from ladder_jax.data import sources
from ladder_jax.data.pipeline import prepare
from ladder_jax.eval import heldout, scoring, store
from ladder_jax.runtime import preemption
from ladder_jax.tasks import olmes
from ladder_jax.tasks.made import BUILDERS, build
from ladder_jax.training import run_directory
from ladder_jax.training.checkpoint import Checkpoints, Corrupt
from ladder_jax.training.initialize import abstract_state
from ladder_jax.training.loop import train
from ladder_jax.training.run_directory import scored_steps

_PATIENCE = 3


class Evaluation(NamedTuple):
    """Held-out text and tasks, on which every checkpoint of a run is scored.

    Attributes:
        text: fingerprint of the run's text.
        heldout: its held-out part.
        tasks: None if the run has no tasks.
    """

    text: str
    heldout: heldout.Heldout
    tasks: scoring.PreparedTasks | None


@functools.lru_cache(maxsize=4)  # a worker scores many runs alike
def _evaluation(
    data: DataConfig, seq_len: int, config: EvalConfig, cache: Path, mesh: Any
) -> Evaluation:
    """The evaluation for runs of this text; packed for the active mesh, which is `mesh`."""
    packed = prepare(data, seq_len, cache)
    held = heldout.Heldout.of(packed, config.heldout_tokens)
    if not config.tasks:
        return Evaluation(packed.info.fingerprint, held, None)
    made = [name for name in config.tasks if name in BUILDERS]
    tasks = build(made, [d.text for d in sources.load(data).heldout], packed.tokenizer, data.seed)
    public = olmes.expand(name for name in config.tasks if name not in made)
    tasks += [olmes.load(label) for label in public]
    prepared = scoring.prepare(tasks, packed.tokenizer, seq_len)
    return Evaluation(packed.info.fingerprint, held, prepared)


def _evaluation_of(run: RunConfig, cache: Path) -> Evaluation:
    return _evaluation(run.data, run.model.seq_len, run.eval, cache, parallel.active_mesh())


def train_and_score(run: RunConfig, directory: Path, cache: Path, progress: bool = True) -> None:
    """Trains a run to its end and scores it; a checkpoint found corrupt is trained again.

    Raises:
        InputError: see `train`; a task is unknown or does not fit; or checkpoints keep coming back
            corrupt.
        Preempted: a stop was requested; the same call goes on later.
    """
    if parallel.agreed(run_directory.is_done(run, directory)):
        return
    if run.eval.tasks:
        with parallel.use_mesh(parallel.make_mesh(run.mesh)):
            _evaluation_of(run, cache)  # errors come before the training, not after it
    in_loop = functools.partial(_in_loop, run, directory, cache)
    with preemption.watch():
        for _ in range(_PATIENCE):
            train(run, directory, cache, progress, in_loop)
            if score(run, directory, cache, progress):
                return
    raise InputError(f"{directory}: its checkpoints cannot be read back: check the disk")


def score(run: RunConfig, directory: Path, cache: Path, progress: bool = True) -> bool:
    """Scores the steps of a run that have no scores yet.

    Returns:
        Whether all steps are scored: False if a checkpoint was corrupt, which is then set aside
        with those after it.
    """
    checkpoints = Checkpoints(directory / "checkpoints")
    try:
        saved, every = checkpoints.steps(), run.eval.every
        due = {*scored_steps(run), *(s for s in saved if every and s % every == 0)}  # killed there
        done = parallel.agreed([run_directory.is_scored(run, directory, s) for s in sorted(due)])
        steps = [s for s, scored in zip(sorted(due), done, strict=True) if not scored]
        lost = sorted(set(steps) - set(saved))
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
    mesh = parallel.make_mesh(run.mesh)
    abstract = abstract_state(run, mesh)
    with parallel.use_mesh(mesh):
        for step in tqdm(steps, desc=f"{run.name}: scoring", unit="step", disable=not progress):
            try:
                state, meta = checkpoints.restore(abstract, step)
            except Corrupt as e:
                print(f"{e}: training it again", file=sys.stderr)
                checkpoints.set_aside(step)
                return False
            if meta["data"]["fingerprint"] != _evaluation_of(run, cache).text:
                raise InputError(
                    f"{directory}: `data.source` gives other text now than this run was trained "
                    "on: put the text back"
                )
            _score_params(run, directory, cache, step, state.params)
    return True


def _in_loop(run: RunConfig, directory: Path, cache: Path, step: int, params: Any) -> None:
    """Scores the parameters that training holds at a step, unless that step is scored already."""
    if not parallel.agreed(run_directory.is_scored(run, directory, step)):
        _score_params(run, directory, cache, step, params)


def _score_params(run: RunConfig, directory: Path, cache: Path, step: int, params: Any) -> None:
    evaluation = _evaluation_of(run, cache)
    measured = heldout.measure(run.model, params, evaluation.heldout)
    if not all(map(math.isfinite, measured.values())):
        raise InputError(f"{directory}: the held-out loss of step {step} is not finite")
    if evaluation.tasks is not None:
        scores = scoring.score(run.model, params, evaluation.tasks)
        if parallel.is_primary():
            store.write(scores, run_directory.scores_path(directory, step))
    if parallel.is_primary():
        run_directory.write_eval(
            directory, step, "heldout", measured, evaluation.heldout.n_sequences
        )
