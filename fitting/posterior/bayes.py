"""The posterior of both steps, all tasks together, and forecasts drawn from it.

The posterior predictive of a target holds the uncertainty of the parameters, the noise of runs,
and a discrepancy: laws are approximations, whose error grows with the distance of a target from the
runs and does not shrink as runs are added.  Its size is counted in standard deviations of the
ladder's own noise, as ladders whose runs scatter more about a law also leave it sooner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from fitting.observations.arrays import Observations, Targets
from fitting.posterior.draws import Draws, numerics
from fitting.posterior.hierarchy import (
    COMMON_SITES,
    NOISE_DOF,
    Step1,
    Step2,
    check_law,
)

# Discrepancy one e-fold from the runs, as standard deviations: of accuracy, in those of a run's
# noise (at least the second); of log loss, likewise, plus the second.  It grows as a random walk
# does.  Chosen over public ladders, each by the scores of the others: `python -m
# experiments.forecasts choose`.
ACCURACY_DISCREPANCY, _LEAST_NOISE = 1.5, 0.002
LOSS_DISCREPANCY, _LEAST_LOSS_DISCREPANCY = 1.5, 0.006
_NOISE_DRAWS = 5  # of residual noise, for each draw of parameters
_SEED = 0
_EDGE = 1e-9  # an accuracy's distance from 0 and 1 before its logit is taken
_STEEPEST = 0.05  # least f (1 - f) by which an error of accuracy becomes one of its logit
_PADDED = 16  # numbers of runs are multiples of it, so that few shapes are compiled

Sampler = Callable[..., Draws]


@dataclass(frozen=True)
class Series:
    """Losses that are fitted together, each once, and which of them each task uses.

    Without losses (a law straight to accuracy) there is one series of zeros.

    Attributes:
        log_x: centred inputs, shape (S, R, K).
        log_y: centred log losses, shape (S, R).
        centre_x: means of the log inputs, shape (S, K).
        centre_y: means of the log losses, shape (S,).
        of_task: index of the series of each of T tasks, shape (T,).
    """

    log_x: np.ndarray
    log_y: np.ndarray
    centre_x: np.ndarray
    centre_y: np.ndarray
    of_task: np.ndarray


@dataclass(frozen=True)
class Posterior:
    """Draws of both steps, paired by position.

    Attributes:
        inputs: of the law.
        series: what step 1 was fitted to.
        step1: its draws, a site per series; None for a law straight to accuracy.
        step2: its draws, a site per task with an accuracy; None if no task has one.
        linked: positions of the tasks that have an accuracy.
    """

    inputs: tuple[str, ...]
    series: Series
    step1: Draws | None
    step2: Draws | None
    linked: tuple[int, ...]

    @property
    def steps(self) -> dict[str, Draws]:
        """The draws that there are, by step."""
        both = {"step 1": self.step1, "step 2": self.step2}
        return {step: draws for step, draws in both.items() if draws is not None}

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the posterior is not to be trusted; empty if it passed all checks."""
        return tuple(f"{step}: {text}" for step, d in self.steps.items() for text in d.problems)

    @property
    def attempts(self) -> tuple[str, ...]:
        """What was tried before these draws, and why it was given up."""
        return tuple(f"{step}: {text}" for step, d in self.steps.items() for text in d.attempts)

    @property
    def model2(self) -> Step2:
        """The model of step 2."""
        return Step2(self.inputs if self.step1 is None else ())


class Drawn(NamedTuple):
    """Draws of what will be measured of G targets.

    Attributes:
        loss: shape (draws, T, G); None for a law straight to accuracy.
        accuracy: for the tasks that have one, shape (draws, T', G); None if no task has one.
    """

    loss: np.ndarray | None
    accuracy: np.ndarray | None


def fit(data: Sequence[Observations], sample: Sampler, series: Series | None = None) -> Posterior:
    """Fits both steps of T tasks that share their runs and law.

    Args:
        data: of the tasks.
        sample: `sampler.nuts` or `laplace.sample`.
        series: losses centred elsewhere than at their means.

    Raises:
        InputError: see `hierarchy.check_law`.
    """
    law = data[0].law
    check_law(law)
    inputs = tuple(law.inputs)
    series = series or series_of(data)
    step1 = None
    if not law.of_accuracy:
        log_x, log_y = (_padded(values) for values in (series.log_x, series.log_y))
        step1 = sample(Step1(inputs), (log_x, log_y, _weight(series)), _SEED)
    linked = tuple(t for t, task in enumerate(data) if law.of_accuracy or task.link is not None)
    posterior = Posterior(inputs, series, step1, None, linked)
    if not linked:
        return posterior
    arguments = step2_arguments([data[t] for t in linked], feature_of(posterior)[list(linked)])
    return replace(posterior, step2=sample(posterior.model2, arguments, _SEED + 10))


def feature_of(posterior: Posterior) -> np.ndarray:
    """Feature of step 2: the law's log losses at the runs (T, R), or log inputs (T, R, K)."""
    series = posterior.series
    if posterior.step1 is None:
        return series.log_x[series.of_task]
    return _log_loss(posterior, series.log_x).mean(axis=0)[series.of_task]


def series_of(data: Sequence[Observations]) -> Series:
    """The series that tasks are fitted to: tasks with equal losses (those of a text) share one."""
    losses = [np.ones(len(p.y)) if p.law.of_accuracy else p.y for p in data]
    found: dict[bytes, int] = {}
    keys = [p.x.tobytes() + y.tobytes() for p, y in zip(data, losses, strict=True)]
    of_task = [found.setdefault(key, len(found)) for key in keys]
    first = [of_task.index(s) for s in range(len(found))]
    log_x, log_y = np.log([data[t].x for t in first]), np.log([losses[t] for t in first])
    centre_x, centre_y = log_x.mean(axis=1), log_y.mean(axis=1)
    return Series(
        log_x - centre_x[:, None], log_y - centre_y[:, None], centre_x, centre_y, np.array(of_task)
    )


def step2_arguments(data: Sequence[Observations], feature: np.ndarray) -> tuple[np.ndarray, ...]:
    """Arguments of `Step2`, padded; `feature` of T tasks as `feature_of` gives it."""
    accuracy = np.array([task.final_accuracy for task in data])
    chance, chance_sd = np.array([task.chance for task in data]).T
    choices = np.array([float(task.choices) for task in data])
    weight = np.zeros(_padded(accuracy).shape[1])
    weight[: accuracy.shape[1]] = 1.0
    return _padded(feature), _padded(accuracy), weight, chance, chance_sd, choices


def _padded(values: np.ndarray) -> np.ndarray:
    """Values with zeros after the last run: shape (T, R', ...)."""
    more = [(0, 0)] * values.ndim
    more[1] = (0, -values.shape[1] % _PADDED)
    return np.pad(values, more)


def _weight(series: Series) -> np.ndarray:
    return _padded(np.ones_like(series.log_y))[0]


def predict(
    posterior: Posterior,
    targets: Sequence[Targets],
    features: np.ndarray | None = None,
    discrepancy: float = ACCURACY_DISCREPANCY,
) -> Drawn:
    """Draws what will be measured of each target.

    Args:
        posterior: as `fit` gives it.
        targets: one per task that was fitted, all of the same G runs.
        features: measured features of the targets, shape (T, G), used in place of step 1's.
        discrepancy: `size` of `accuracy_discrepancy`.
    """
    rng = np.random.default_rng(_SEED)
    series = posterior.series
    first = [int(np.flatnonzero(series.of_task == s)[0]) for s in range(len(series.centre_y))]
    ahead = np.log([targets[t].inputs for t in first]) - series.centre_x[:, None]
    loss, feature = None, ahead[series.of_task]  # of a law straight to accuracy
    if posterior.step1 is not None:
        mean = _log_loss(posterior, ahead)
        sd = np.exp(by_task(posterior.step1)["log_sigma"])[..., None]
        distance = np.array([targets[t].extrapolation for t in first])
        off = loss_discrepancy(sd, distance)
        values = _repeated(mean + series.centre_y[:, None])
        noise = _repeated(sd) * rng.standard_t(NOISE_DOF, values.shape)
        values = values + noise + _repeated(off) * rng.standard_normal(values.shape)
        loss, feature = np.exp(values)[:, series.of_task], mean[:, series.of_task]
    if features is not None:
        feature = np.log(features) - series.centre_y[series.of_task][:, None]
    if posterior.step2 is None:
        return Drawn(loss, None)
    linked = list(posterior.linked)
    feature = feature[linked] if posterior.step1 is None else feature[..., linked, :]
    ahead = [targets[t] for t in linked]
    return Drawn(loss, _accuracies(posterior, feature, ahead, discrepancy, rng))


def _accuracies(
    posterior: Posterior,
    feature: np.ndarray,
    targets: Sequence[Targets],
    discrepancy: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draws of accuracies, with noise and discrepancy: shape (draws, T', G)."""
    assert posterior.step2 is not None
    p = by_task(posterior.step2)
    with numerics():
        f = _repeated(np.asarray(posterior.model2.accuracy(p, feature)))
    f = np.clip(f, _EDGE, 1 - _EDGE)
    sd = _repeated(np.exp(p["log_run_sd"])[..., None])
    distance = np.array([task.extrapolation for task in targets])
    off = off_in_logit(f, accuracy_discrepancy(sd, distance, discrepancy))
    accuracy = expit(logit(f) + off * rng.standard_normal(f.shape))
    accuracy = accuracy + sd * rng.standard_t(NOISE_DOF, f.shape)
    items = np.array([task.items for task in targets])[:, None]
    if np.isfinite(items).any():
        # Twice: the items of the runs were a sample too, which the curve follows.
        accuracy = accuracy + np.sqrt(2 * f * (1 - f) / items) * rng.standard_normal(f.shape)
    return np.clip(accuracy, 0.0, 1.0)


def loss_discrepancy(sd: np.ndarray, distance: np.ndarray | float) -> np.ndarray:
    """Standard deviation of the discrepancy of log losses.

    Args:
        sd: scale of a run's noise, of the log loss.
        distance: from the runs, in e-folds (`Targets.extrapolation`), broadcast against sd.
    """
    return (LOSS_DISCREPANCY * sd + _LEAST_LOSS_DISCREPANCY) * np.sqrt(distance)


def accuracy_discrepancy(
    sd: np.ndarray, distance: np.ndarray | float, size: float = ACCURACY_DISCREPANCY
) -> np.ndarray:
    """Standard deviation of the discrepancy of accuracies.

    Args:
        sd: scale of a run's noise, of accuracy.
        distance: from the runs, in e-folds, broadcast against sd.
        size: in units of the noise, at a distance of one.
    """
    return size * np.hypot(sd, _LEAST_NOISE) * np.sqrt(distance)


def off_in_logit(f: np.ndarray, off: np.ndarray) -> np.ndarray:
    """Standard deviation of the logit of accuracies f whose own is `off`, broadcast against f."""
    return off / np.maximum(f * (1 - f), _STEEPEST)


def _log_loss(posterior: Posterior, log_x: np.ndarray) -> np.ndarray:
    """Draws of the law's centred log losses at log_x (S, G, K): shape (draws, S, G)."""
    assert posterior.step1 is not None
    with numerics():
        return np.asarray(Step1(posterior.inputs).log_loss(by_task(posterior.step1), log_x))


def _repeated(values: np.ndarray) -> np.ndarray:
    return np.tile(values, (_NOISE_DRAWS, *[1] * (values.ndim - 1)))


def by_task(draws: Draws) -> dict[str, np.ndarray]:
    """Sites with one value per series or task, chains joined: shape (draws, T)."""
    return {name: v for name, v in draws.flat().items() if name not in COMMON_SITES}
