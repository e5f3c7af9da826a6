"""Methods with a posterior of all tasks together, by NUTS or by Laplace's approximation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fitting.forecast.fitted import FittedModel, FittedTask, Prediction
from fitting.observations.arrays import Observations, Targets
from fitting.posterior import bayes, curves, laplace, sampler
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
        drawn = bayes.predict(self.draws, targets)
        predictions = []
        for t in range(len(self.observations)):
            loss = None if drawn.loss is None else np.quantile(drawn.loss[:, t], p, axis=0).T
            accuracy = None
            if drawn.accuracy is not None and t in self.draws.linked:
                own = drawn.accuracy[:, self.draws.linked.index(t)]
                accuracy = np.quantile(own, p, axis=0).T
            predictions.append(Prediction(loss, accuracy))
        return predictions


def fit_sampled(data: Sequence[Observations]) -> PooledModel:
    """Samples the posterior of `fitting.posterior.hierarchy` by NUTS."""
    return _fit(data, sampler.nuts)


def fit_at_mode(data: Sequence[Observations]) -> PooledModel:
    """Approximates the posterior of `fitting.posterior.hierarchy` by a normal at its mode."""
    return _fit(data, laplace.sample)


def _fit(data: Sequence[Observations], sample: bayes.Sampler) -> PooledModel:
    draws = bayes.fit(data, sample)
    tasks = tuple(FittedTask(*curves.at_means(draws, task, t)) for t, task in enumerate(data))
    return PooledModel(tuple(data), tasks, draws)
