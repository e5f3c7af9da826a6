"""Arrays of one task: the observations to fit, and the inputs of the targets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fitting.laws import Law, Link


@dataclass(frozen=True)
class Observations:
    """The observations of one task that a method fits.

    Attributes:
        law: law of step 1.
        link: link of step 2, or None if the law gives the forecast directly.
        x: law inputs of the R training runs, shape (R, I).
        y: losses (or accuracies, for a law of accuracy), shape (R,).
        run: index of the run of each of M checkpoints, shape (M,).
        feature: feature at each checkpoint, shape (M,).
        accuracy: accuracy at each checkpoint, shape (M,).
        final_accuracy: accuracy at the end of each run, shape (R,); NaN for a loss alone.
        chance: mean and standard deviation of the accuracy of guessing.
        choices: whether the task is multiple choice, so that its greatest accuracy is 1.
    """

    law: Law
    link: Link | None
    x: np.ndarray
    y: np.ndarray
    run: np.ndarray
    feature: np.ndarray
    accuracy: np.ndarray
    final_accuracy: np.ndarray
    chance: tuple[float, float]
    choices: bool


@dataclass(frozen=True)
class Targets:
    """The G runs to forecast for one task.

    Attributes:
        inputs: law inputs, shape (G, I).
        extrapolation: distance of each target from the training runs, in e-folds, shape (G,): of
            compute beyond the largest run's, plus of tokens per parameter beyond their range.
        items: number of test items if they are newly drawn; infinite if the accuracy on the
            measured items is forecast.
    """

    inputs: np.ndarray
    extrapolation: np.ndarray
    items: float = math.inf
