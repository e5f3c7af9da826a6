"""Methods that fit each task alone; intervals from the delta method and the residuals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fitting.forecast.fitted import FittedModel, FittedTask, Prediction
from fitting.laws.curves import predict
from fitting.observations.arrays import Observations, Targets
from fitting.solve import delta
from fitting.solve.lbfgs import fit_law, fit_link
from fitting.solve.multistart import best_laws, best_links


class DeltaModel(FittedModel):
    """Curves and their covariances; errors of parameters are propagated to first order."""

    def predict(self, targets: Sequence[Targets], p: np.ndarray) -> list[Prediction]:
        """See `FittedModel.predict`."""
        return [_predict(task, ahead, p) for task, ahead in zip(self.tasks, targets, strict=True)]


def fit_as_published(data: Sequence[Observations]) -> DeltaModel:
    """Fits as arXiv 2412.04403 and its code do: one start, its optimisers."""
    tasks = []
    for task in data:
        step1, step2 = fit_law(task.law, task.x, task.y), None
        if task.link is not None:
            step2 = fit_link(task.link, task.feature, task.accuracy)
        tasks.append(FittedTask(step1, step2))
    return DeltaModel(tuple(data), tuple(tasks))


def fit_best(data: Sequence[Observations]) -> DeltaModel:
    """Fits the paper's objectives at their best minima, from many starts."""
    fits = zip(best_laws(data), best_links(data), strict=True)
    return DeltaModel(tuple(data), tuple(FittedTask(*both) for both in fits))


def _predict(task: FittedTask, targets: Targets, p: np.ndarray) -> Prediction:
    step1, step2 = task
    first, second = [], []
    for inputs in targets.inputs:
        value = float(predict(step1.curve, step1.theta, inputs))
        first.append(value * np.exp(delta.law_spread(step1, inputs).quantiles(p)))
        if step2 is not None:
            accuracy = float(predict(step2.curve, step2.theta, value))
            second.append(accuracy + delta.chained_spread(step1, step2, inputs).quantiles(p))
    return Prediction.of(step1.curve, np.array(first), np.array(second) if second else None)
