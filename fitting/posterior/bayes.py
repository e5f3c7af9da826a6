"""The posterior of both steps, all tasks together, and forecasts drawn from it.

The posterior predictive of a target holds the uncertainty of the parameters, the noise of runs
and checkpoints, and a discrepancy: laws are approximations, whose error grows with the distance of
a target from the runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from fitting.laws import Law, Link
from fitting.observations.arrays import Observations, Targets
from fitting.posterior import sampler
from fitting.posterior.hierarchy import (
    ANNEALED,
    COMMON_SITES,
    Step1,
    Step2,
    check_law,
    exponent_names,
)
from fitting.posterior.sampler import Draws
from fitting.solve.fit import Curve, Fit, summarise

# Discrepancy per e-fold of compute beyond the largest run, of a log loss and of a logit accuracy.
# Chosen by held-in interval scores of the default mixture; no ladder is long enough to measure it.
LOSS_DISCREPANCY, LOGIT_DISCREPANCY = 0.003, 0.01
_NOISE_DRAWS = 5  # of residual noise, for each draw of parameters
_SEED = 0
_EDGE = 1e-9  # an accuracy's distance from 0 and 1 before its logit is taken

Sampler = Callable[..., Draws]


@dataclass(frozen=True)
class Series:
    """Losses that are fitted together, each once, and which of them each task uses.

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
        step1: its draws, a site per series.
        step2: its draws, a site per task that has a link; None if no task has one.
        linked: positions of the tasks that have a link.
    """

    inputs: tuple[str, ...]
    series: Series
    step1: Draws
    step2: Draws | None
    linked: tuple[int, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the posterior is not to be trusted; empty if it passed all checks."""
        found = [f"step 1: {problem}" for problem in self.step1.problems]
        if self.step2 is not None:
            found += [f"step 2: {problem}" for problem in self.step2.problems]
        return tuple(found)


class Drawn(NamedTuple):
    """Draws of what will be measured of G targets.

    Attributes:
        loss: shape (draws, T, G).
        accuracy: for the tasks with a link, shape (draws, T', G); None if no task has one.
    """

    loss: np.ndarray
    accuracy: np.ndarray | None


def fit(data: Sequence[Observations], sample: Sampler, series: Series | None = None) -> Posterior:
    """Fits both steps of T tasks that share their runs and law.

    Args:
        data: of the tasks.
        sample: `sampler.nuts` or `sampler.laplace`.
        series: losses centred elsewhere than at their means.

    Raises:
        InputError: see `hierarchy.check_law`.
    """
    law = data[0].law
    check_law(law)
    inputs = tuple(law.inputs)
    series = series or series_of(data)
    known_spreads = sample is sampler.laplace
    weight = np.ones(series.log_y.shape[1])
    step1 = sample(Step1(inputs, known_spreads), (series.log_x, series.log_y, weight), _SEED)
    linked = tuple(t for t, task in enumerate(data) if task.link is not None)
    step2 = None
    if linked:
        arguments = step2_arguments([data[t] for t in linked], _centres(series, linked))
        step2 = sample(Step2(known_spreads), arguments, _SEED + 10)
    return Posterior(inputs, series, step1, step2, linked)


def _centres(series: Series, tasks: Sequence[int]) -> np.ndarray:
    return series.centre_y[series.of_task[list(tasks)]]


def series_of(data: Sequence[Observations]) -> Series:
    """The series that tasks are fitted to: tasks with equal losses (those of a text) share one."""
    found: dict[bytes, int] = {}
    of_task = [found.setdefault(p.x.tobytes() + p.y.tobytes(), len(found)) for p in data]
    first = [of_task.index(s) for s in range(len(found))]
    log_x, log_y = np.log([data[t].x for t in first]), np.log([data[t].y for t in first])
    centre_x, centre_y = log_x.mean(axis=1), log_y.mean(axis=1)
    return Series(
        log_x - centre_x[:, None], log_y - centre_y[:, None], centre_x, centre_y, np.array(of_task)
    )


def step2_arguments(data: Sequence[Observations], centre: np.ndarray) -> tuple[np.ndarray, ...]:
    """Arguments of `Step2`, padded to the run with the most windows; centre of shape (T,)."""
    n_runs = len(data[0].y)
    width = max(int(np.bincount(p.windows.run).max()) for p in data)
    log_x, accuracy, lr_fraction, weight = (np.zeros((len(data), n_runs, width)) for _ in range(4))
    for t, task in enumerate(data):
        w = task.windows
        place = np.arange(len(w.run)) - np.searchsorted(w.run, w.run)  # windows lie run by run
        log_x[t, w.run, place] = np.log(w.feature) - centre[t]
        accuracy[t, w.run, place] = w.accuracy
        known = np.isfinite(w.lr_fraction)
        lr_fraction[t, w.run, place] = np.where(known, w.lr_fraction, ANNEALED)
        weight[t, w.run, place] = 1.0
    chance, chance_sd = np.array([task.chance for task in data]).T
    return log_x, accuracy, lr_fraction, weight, chance, chance_sd


def predict(
    posterior: Posterior,
    data: Sequence[Observations],
    targets: Sequence[Targets],
    features: np.ndarray | None = None,
) -> Drawn:
    """Draws what will be measured of each target.

    Args:
        posterior: as `fit` gives it.
        data: the observations that were fitted, one per task.
        targets: one per task, all of the same G runs.
        features: measured features of the targets, shape (T, G), used in place of step 1's.
    """
    rng = np.random.default_rng(_SEED)
    log_loss = _log_losses(posterior, targets, rng)
    if features is not None:
        log_loss = np.broadcast_to(np.log(features), log_loss.shape)
    if posterior.step2 is None:
        return Drawn(np.exp(log_loss), None)
    linked = list(posterior.linked)
    p = _repeated(posterior.step2)
    centred = log_loss[:, linked] - _centres(posterior.series, linked)[:, None]
    f = np.asarray(hill(p, centred))
    ahead = [targets[t] for t in linked]
    extrapolation = np.array([task.extrapolation for task in ahead])
    noise = LOGIT_DISCREPANCY * extrapolation * rng.standard_normal(f.shape)
    f = expit(logit(np.clip(f, _EDGE, 1 - _EDGE)) + noise)
    lr_fraction = lr_fractions([data[t] for t in linked], ahead)
    accuracy = f + p["slope"][..., None] * f * (1 - f) * (lr_fraction - ANNEALED)
    variance = (np.exp(2 * p["log_window_sd"]) + np.exp(2 * p["log_run_sd"]))[..., None]
    items = np.array([task.items for task in ahead])[:, None]
    # Twice: the items of the runs were a sample too, which all runs share and the curve follows.
    variance = variance + 2 * np.clip(accuracy * (1 - accuracy), 0.0, None) / items
    accuracy = accuracy + np.sqrt(variance) * rng.standard_normal(f.shape)
    return Drawn(np.exp(log_loss), np.clip(accuracy, 0.0, 1.0))


def hill(p: Mapping[str, np.ndarray], log_x: np.ndarray) -> np.ndarray:
    """`Step2.hill` in numpy: sites of shape (B, T), log_x (B, T, G)."""
    floor, height, log_k = (p[n][..., None] for n in ("floor", "height", "log_steepness"))
    return floor + (1 - floor) * expit(height - np.exp(log_k) * log_x)


def shape(p: Mapping[str, np.ndarray], log_x: np.ndarray, inputs: Sequence[str]) -> np.ndarray:
    """`Step1.shape` in numpy: sites of shape (B, S), log_x (S, G, K) -> (B, S, G)."""
    floor = expit(p["logit_floor"])[..., None]
    shares = shares_of(p, inputs)
    falling = sum(
        shares[..., k, None] * np.exp(-np.exp(p[name])[..., None] * log_x[..., k])
        for k, name in enumerate(exponent_names(tuple(inputs)))
    )
    return np.log(floor + (1 - floor) * falling)


def shares_of(p: Mapping[str, np.ndarray], inputs: Sequence[str]) -> np.ndarray:
    """Shares of the terms, shape (..., K)."""
    if len(inputs) == 1:
        return np.ones((*p["logit_floor"].shape, 1))
    share = expit(p["logit_share"])
    return np.stack([share, 1 - share], axis=-1)


def levels_of(p: Mapping[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Draws of the level: those of Laplace, or, as NUTS integrates it out, drawn here."""
    if "level_variance" not in p:
        return p["level"]
    return p["level"] + np.sqrt(p["level_variance"]) * rng.standard_normal(p["level"].shape)


def _repeated(draws: Draws) -> dict[str, np.ndarray]:
    return {name: np.tile(v, (_NOISE_DRAWS, 1)) for name, v in _by_task(draws).items()}


def _by_task(draws: Draws) -> dict[str, np.ndarray]:
    """Sites with one value per series or task, chains joined: shape (draws, T)."""
    return {name: v for name, v in draws.flat().items() if name not in COMMON_SITES}


def _log_losses(
    posterior: Posterior, targets: Sequence[Targets], rng: np.random.Generator
) -> np.ndarray:
    """Draws of new runs' log losses, with their noise and the discrepancy: (draws, T, G)."""
    series, p = posterior.series, _repeated(posterior.step1)
    first = [int(np.flatnonzero(series.of_task == s)[0]) for s in range(len(series.centre_y))]
    ahead = np.log([targets[t].inputs for t in first]) - series.centre_x[:, None]
    mean = shape(p, ahead, posterior.inputs) + levels_of(p, rng)[..., None]
    extrapolation = np.array([targets[t].extrapolation for t in first])
    discrepancy = (LOSS_DISCREPANCY * extrapolation) ** 2
    sd = np.sqrt(np.exp(2 * p["log_sigma"])[..., None] + discrepancy)
    log_loss = mean + series.centre_y[:, None] + sd * rng.standard_normal(mean.shape)
    return log_loss[:, series.of_task]


def lr_fractions(data: Sequence[Observations], targets: Sequence[Targets]) -> np.ndarray:
    """Learning-rate fraction at each target's end, shape (T, G).

    Where it is unknown, it is the mean over the ends of the training runs.
    """
    rows = []
    for task, ahead in zip(data, targets, strict=True):
        w = task.windows
        ends = w.lr_fraction[np.append(np.flatnonzero(np.diff(w.run)), len(w.run) - 1)]
        known = ends[np.isfinite(ends)]
        usual = known.mean() if len(known) else ANNEALED
        rows.append(np.where(np.isfinite(ahead.lr_fraction), ahead.lr_fraction, usual))
    return np.array(rows)


def curves(
    posterior: Posterior, data: Observations, task: int
) -> tuple[Fit[Law], Fit[Link] | None]:
    """A task's law and link at the posterior's means, with the posterior's covariance."""
    series, s = posterior.series, posterior.series.of_task[task]
    p = {n: v[:, s] for n, v in _by_task(posterior.step1).items()}
    log_level = series.centre_y[s] + p["level"]
    floor = expit(p["logit_floor"])
    theta = np.empty((len(floor), len(data.law.params)))
    theta[:, -1] = np.exp(log_level) * floor
    shares = shares_of(p, posterior.inputs)
    for k, (scale, exponent, i) in enumerate(data.law.terms):
        theta[:, exponent] = np.exp(p[exponent_names(posterior.inputs)[i]])
        share = log_level + np.log((1 - floor) * shares[:, k])
        theta[:, scale] = share + theta[:, exponent] * series.centre_x[s, i]
    sd = float(np.exp(p["log_sigma"]).mean())
    step1 = _fit_of(
        data.law, theta, np.log(data.x), np.log(data.y), sd, not posterior.step1.problems
    )
    if posterior.step2 is None or task not in posterior.linked or data.link is None:
        return step1, None
    place = posterior.linked.index(task)
    q = {n: v[:, place] for n, v in _by_task(posterior.step2).items()}
    steepness = np.exp(q["log_steepness"])
    half = np.exp(series.centre_y[s] + q["height"] / steepness)
    sd = float(np.sqrt(np.exp(2 * q["log_run_sd"]) + np.exp(2 * q["log_window_sd"])).mean())
    theta = np.stack([q["floor"], half, steepness], axis=-1)
    converged = not posterior.step2.problems
    windows = data.windows
    return step1, _fit_of(data.link, theta, windows.feature, windows.accuracy, sd, converged)


def _fit_of(
    curve: Curve, theta: np.ndarray, x: np.ndarray, y: np.ndarray, sd: float, converged: bool
) -> Fit[Curve]:
    """A fit from draws `theta` of shape (B, P)."""
    at = summarise(curve, theta.mean(axis=0), 0.0, x, y, converged)
    covariance = np.cov(theta, rowvar=False)
    scale = np.sqrt(np.diag(covariance))
    spread = np.linalg.eigvalsh(covariance / np.outer(scale, scale))
    return replace(
        at,
        objective=float(at.residual_sd**2 * at.dof),
        covariance=covariance,
        residual_sd=sd,
        on_bound=(),
        condition=float(np.sqrt(spread[-1] / max(spread[0], 1e-300))),
    )
