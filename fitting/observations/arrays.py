"""Arrays of one task: the observations to fit, and the inputs of the targets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fitting.laws import Law, Link


class Windows(NamedTuple):
    """Means of checkpoints over windows of training; each array has shape (M,).

    `run` is the index of the run; `lr_fraction`, the learning rate over its peak, is NaN where
    unknown.
    """

    run: np.ndarray
    feature: np.ndarray
    accuracy: np.ndarray
    lr_fraction: np.ndarray


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
        windows: means of checkpoints over windows that do not overlap.
        chance: mean and standard deviation of the accuracy of guessing.
    """

    law: Law
    link: Link | None
    x: np.ndarray
    y: np.ndarray
    run: np.ndarray
    feature: np.ndarray
    accuracy: np.ndarray
    windows: Windows
    chance: tuple[float, float]


@dataclass(frozen=True)
class Targets:
    """The G runs to forecast for one task.

    Attributes:
        inputs: law inputs, shape (G, I).
        extrapolation: ln of each target's compute over the largest training run's, at least 0,
            shape (G,).
        lr_fraction: learning rate at each target's end over its peak, NaN if unknown, shape (G,).
        items: number of test items if they are newly drawn; infinite if the accuracy on the
            measured items is forecast.
    """

    inputs: np.ndarray
    extrapolation: np.ndarray
    lr_fraction: np.ndarray
    items: float = math.inf
