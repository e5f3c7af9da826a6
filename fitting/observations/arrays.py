"""The arrays that are fitted for one task, and those of the runs that are forecast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fitting.laws import Law, Link


class Windows(NamedTuple):
    """Means of checkpoints over windows of training, each of shape (M,).

    `run` is the index of the run; `lr_fraction`, the learning rate over its peak, is NaN where
    unknown.
    """

    run: np.ndarray
    feature: np.ndarray
    accuracy: np.ndarray
    lr_fraction: np.ndarray


@dataclass(frozen=True)
class Observations:
    """Everything that is fitted for one task.

    Attributes:
        law: of step 1.
        link: of step 2, or None where the forecast is what the law gives.
        x: law inputs of the R training runs, shape (R, I).
        y: losses (or accuracies, for a law of accuracy), shape (R,).
        run: index of the run of each of M checkpoints, shape (M,).
        feature: shape (M,).
        accuracy: shape (M,).
        windows: checkpoints averaged over windows that do not overlap.
        chance: accuracy of guessing: its mean and standard deviation.
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
    """The G runs that are forecast for one task.

    Attributes:
        inputs: law inputs, shape (G, I).
        extrapolation: ln of each target's compute over the largest training run's, at least 0,
            shape (G,).
        lr_fraction: learning rate at each target's end over its peak, NaN if unknown, shape (G,).
        items: number of test items if they are drawn afresh; infinite if the forecast is of the
            accuracy on the measured items.
    """

    inputs: np.ndarray
    extrapolation: np.ndarray
    lr_fraction: np.ndarray
    items: float = math.inf
