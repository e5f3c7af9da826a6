"""Compares the variances that the criterion for choosing runs expects with those of real fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from fitting.advise.design import JointPrediction, joint_predictions, model_of
from fitting.observations.arrays import Observations, Targets
from fitting.observations.distance import positions

_BATCH = 50  # sub-ladders that are fitted at once


class ExpectedAndRealised(NamedTuple):
    """Variances of the targets' accuracies for B ladders, T tasks and G targets.

    Attributes:
        expected: computed without the measured values of the added runs, shape (B, T, G).
        realised: from the fit to each ladder, shape (B, T, G); NaN where no mode was found.
    """

    expected: np.ndarray
    realised: np.ndarray


def criterion_against_realised(
    data: Sequence[Observations],
    targets: Sequence[Targets],
    base: Sequence[int],
    sets: Sequence[Sequence[int]],
) -> ExpectedAndRealised:
    """Compares the variances expected of larger ladders with those of fits to these ladders.

    The expected variances use the base alone, and no measured value of an added run.

    Args:
        data: observations of the tasks.
        targets: for each task.
        base: positions of the runs of the base.
        sets: positions of the runs that each of B ladders adds to the base.

    Raises:
        InputError: no mode was found for the base, or a task has no accuracy.
    """
    whole = _with_training_runs(data, targets)
    weights = np.zeros((1 + len(sets), len(data[0].y)))
    weights[:, list(base)] = 1.0
    for i, added in enumerate(sets):
        weights[1 + i, list(added)] = 1.0
    joint = _in_batches(data, whole.runs, weights)
    model = model_of(data, joint, whole.trained(weights[0]), whole.positions, whole.n_targets)
    expected = [model.variance(added) for added in sets]
    realised = _realised(data, joint, whole, weights)[1:]
    return ExpectedAndRealised(np.array(expected), realised)


def design_against_realised(
    data: Sequence[Observations], targets: Sequence[Targets], sets: Sequence[Sequence[int]]
) -> ExpectedAndRealised:
    """Compares variances expected of B ladders with those of fits to these ladders.

    The expected variances take the prior at the mode of all runs.  They differ by the design of a
    ladder alone, not by its measured values.

    Args:
        data: observations of the tasks.
        targets: for each task.
        sets: positions of the runs of each ladder.

    Raises:
        InputError: no mode was found for all runs, or a task has no accuracy.
    """
    whole, n_runs = _with_training_runs(data, targets), len(data[0].y)
    weights = np.zeros((len(sets), n_runs))
    for i, kept in enumerate(sets):
        weights[i, list(kept)] = 1.0
    joint = joint_predictions(data, whole.runs, np.ones((1, n_runs)), from_prior=True)
    least = positions(data[0].x)[:, 0].argmin()  # in compute: no set of runs lies below it
    smallest = whole.trained(np.arange(n_runs) == least)
    model = model_of(data, joint, smallest, whole.positions, whole.n_targets)
    expected = [model.variance(kept) for kept in sets]
    joint = _in_batches(data, whole.runs, weights)
    realised = _realised(data, joint, whole, weights)
    return ExpectedAndRealised(np.array(expected), realised)


class _Whole(NamedTuple):
    """Targets and, after them, the training runs, all as runs to predict, with their positions."""

    runs: list[Targets]
    positions: np.ndarray
    n_targets: int

    def trained(self, weights: np.ndarray) -> np.ndarray:
        """Positions of the training runs with a weight (R,) above 0."""
        return self.positions[self.n_targets :][weights > 0]


def _with_training_runs(data: Sequence[Observations], targets: Sequence[Targets]) -> _Whole:
    runs = [
        replace(ahead, inputs=np.concatenate([ahead.inputs, task.x]))
        for task, ahead in zip(data, targets, strict=True)
    ]
    return _Whole(runs, positions(runs[0].inputs), len(targets[0].inputs))


def _in_batches(
    data: Sequence[Observations], runs: Sequence[Targets], weights: np.ndarray
) -> JointPrediction:
    """Predictions from many sub-ladders, in batches; the full ladder pads the last batch."""
    filled = np.ones((-(-len(weights) // _BATCH) * _BATCH, weights.shape[1]))
    filled[: len(weights)] = weights
    batches = tqdm(np.split(filled, len(filled) // _BATCH), desc="ladders", unit="batch")
    parts = zip(*(joint_predictions(data, runs, batch) for batch in batches), strict=True)
    joined = (None if p[0] is None else np.concatenate(p)[: len(weights)] for p in parts)
    return JointPrediction(*joined)


def _realised(
    data: Sequence[Observations], joint: JointPrediction, whole: _Whole, weights: np.ndarray
) -> np.ndarray:
    """Variances from each sub-ladder's own fit, shape (B, T, G)."""
    found = []
    for i, (kept, known) in enumerate(zip(weights, joint.found, strict=True)):
        variance = np.nan
        if known:
            trained = whole.trained(kept)
            model = model_of(data, joint, trained, whole.positions, whole.n_targets, i)
            variance = model.variance()
        found.append(np.broadcast_to(variance, (len(data), whole.n_targets)))
    return np.array(found)
