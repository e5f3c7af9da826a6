"""Methods with a posterior of all tasks together, by NUTS or by Laplace's approximation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fitting.forecast.fitted import FittedModel, FittedTask, Prediction
from fitting.observations.arrays import Observations, Targets
from fitting.posterior import bayes, sampler
from fitting.posterior.bayes import Posterior


@dataclass(frozen=True)
class PooledModel(FittedModel):
    """Draws of all tasks' parameters, and curves at the posterior means.

    Attributes:
        draws: the posterior of both steps.
    """

    draws: Posterior

    @property
    def posterior(self) -> Posterior:
        """Draws of all tasks' parameters."""
        return self.draws

    def predict(self, targets: Sequence[Targets], p: np.ndarray) -> list[Prediction]:
        """See `FittedModel.predict`."""
        drawn = bayes.predict(self.draws, self.observations, targets)
        predictions = []
        for t, data in enumerate(self.observations):
            first, second = np.quantile(drawn.loss[:, t], p, axis=0).T, None
            if drawn.accuracy is not None and t in self.draws.linked:
                accuracy = drawn.accuracy[:, self.draws.linked.index(t)]
                second = np.quantile(accuracy, p, axis=0).T
            predictions.append(Prediction.of(data.law, first, second))
        return predictions


def fit_sampled(data: Sequence[Observations]) -> PooledModel:
    """Samples the posterior of `fitting.posterior.hierarchy` by NUTS."""
    return _fit(data, sampler.nuts)


def fit_at_mode(data: Sequence[Observations]) -> PooledModel:
    """Approximates the posterior of `fitting.posterior.hierarchy` by a normal at its mode."""
    return _fit(data, sampler.laplace)


def _fit(data: Sequence[Observations], sample: bayes.Sampler) -> PooledModel:
    draws = bayes.fit(data, sample)
    tasks = tuple(FittedTask(*bayes.curves(draws, task, t)) for t, task in enumerate(data))
    return PooledModel(tuple(data), tasks, draws)
