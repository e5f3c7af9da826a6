"""Fitted models, and the predictions that they give."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fitting.laws import Law, Link
from fitting.observations.arrays import Observations, Targets
from fitting.posterior.bayes import Posterior
from fitting.solve.fit import Fit


class FittedTask(NamedTuple):
    """The curves fitted for one task: a law, and a link or None."""

    step1: Fit[Law]
    step2: Fit[Link] | None


@dataclass(frozen=True)
class Prediction:
    """Predictive distributions of one task's G targets, as quantiles at Q probabilities.

    They are distributions of the measured value; an interval for the mean would be narrower.

    Attributes:
        loss: shape (G, Q); None for a law of accuracy.
        accuracy: shape (G, Q); None for a task that has a loss alone.
    """

    loss: np.ndarray | None
    accuracy: np.ndarray | None

    @classmethod
    def of(cls, law: Law, first: np.ndarray, second: np.ndarray | None) -> Prediction:
        """Makes a prediction from quantiles of the law's and of the link's output."""
        return cls(None, first) if law.of_accuracy else cls(first, second)


@dataclass(frozen=True)
class FittedModel(abc.ABC):
    """A model of T tasks that one method fitted together.

    Attributes:
        observations: the fitted observations, one record per task.
        tasks: the fitted curves, one per task.
    """

    observations: tuple[Observations, ...]
    tasks: tuple[FittedTask, ...]

    @property
    def posterior(self) -> Posterior | None:
        """Draws of all tasks' parameters; None if the method makes no draws."""
        return None

    @abc.abstractmethod
    def predict(self, targets: Sequence[Targets], p: np.ndarray) -> list[Prediction]:
        """Predicts the measured values of target runs.

        Args:
            targets: one per task, in the order of `observations`, all of the same G runs.
            p: probabilities of the quantiles, ascending, shape (Q,).
        """
