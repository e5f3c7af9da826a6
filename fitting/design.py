"""Which run to train next: how much each candidate would narrow the targets' intervals.

The posterior is taken as normal about its mode (Laplace).  Predictions of targets and of candidate
runs are then jointly normal, and what a candidate will measure narrows the targets by the rule for
conditional variances, whatever the measurement will be.  The noise of a run stays; the discrepancy
of the laws shrinks only as a larger run comes closer to the target.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fitting import bayes, sampler
from fitting.bayes import LOGIT_DISCREPANCY, LOSS_DISCREPANCY
from fitting.gather import Points
from fitting.hierarchy import ANNEALED, Step1, Step2
from fitting.table import InputError

_HALF = 1.959964  # of a central 95 % interval of a normal, in standard deviations
HELPS = 0.01  # least shrinkage of the mean width that is worth a run
_EXHAUSTIVE = 10  # candidates up to which every set is tried


class Joint(NamedTuple):
    """Normal predictions for M goals: T tasks, S series, P1 and P2 parameters of the steps.

    `loss` and `accuracy` are directions F' dprediction / dparameter, F a factor of the posterior's
    covariance: inner products of directions are covariances.
    """

    loss: jax.Array  # (S, M, P1), of log losses
    accuracy: jax.Array  # (T, M, P2), at a given loss
    slope: jax.Array  # (T, M), of accuracy in log loss
    f: jax.Array  # (T, M), accuracy
    loss_noise: jax.Array  # (S,), variance of a run's log loss
    run_noise: jax.Array  # (T,), variance of a run's accuracy that its windows share
    window_noise: jax.Array  # (T,), variance of one window's accuracy


@dataclass(frozen=True)
class Outlook:
    """What T tasks of G targets would be known to after any of C candidate runs.

    Attributes:
        joint: for G targets, then C candidates.
        of_task: series of each task, shape (T,).
        beyond: ln of compute over the largest run's, of targets and candidates, shape (G + C,).
        n_targets: G.
        n_windows: of a candidate's curve.
    """

    joint: Joint
    of_task: np.ndarray
    beyond: np.ndarray
    n_targets: int
    n_windows: int

    def variance(self, chosen: Sequence[int] = ()) -> np.ndarray:
        """Of each target's accuracy once the chosen candidates are measured, shape (T, G).

        Args:
            chosen: positions of candidates, from 0.
        """
        joint, goals = self.joint, slice(0, self.n_targets)
        picked = [self.n_targets + c for c in chosen]
        loss_noise = np.repeat(joint.loss_noise, len(picked))
        known = joint.loss[self.of_task, goals] * joint.slope[:, goals, None]
        through = _left(known, joint.loss[:, picked], loss_noise)
        noise = joint.run_noise + joint.window_noise / self.n_windows
        own = _left(
            joint.accuracy[:, goals], joint.accuracy[:, picked], np.repeat(noise, len(picked))
        )
        reached = max([0.0, *self.beyond[picked]])
        beyond = np.maximum(self.beyond[goals] - reached, 0.0)
        f, slope = joint.f[:, goals], joint.slope[:, goals]
        discrepancy = (LOSS_DISCREPANCY * beyond * slope) ** 2
        discrepancy = discrepancy + (LOGIT_DISCREPANCY * beyond * f * (1 - f)) ** 2
        noise = joint.run_noise + joint.window_noise
        fixed = slope**2 * joint.loss_noise[self.of_task][:, None] + noise[:, None]
        return through + own + discrepancy + fixed

    def width(self, chosen: Sequence[int] = ()) -> float:
        """Mean width of the targets' 95 % intervals."""
        return float(2 * _HALF * np.sqrt(self.variance(chosen)).mean())


def _left(targets: np.ndarray, added: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Variance of targets (T, G, P) given observations (S, n, P) with noise (S n,): (T, G)."""
    before = np.square(targets).sum(-1)
    if not len(noise):
        return before
    rows = added.reshape(-1, added.shape[-1])
    covariance = rows @ rows.T + np.diag(noise)
    cross = targets.reshape(-1, targets.shape[-1]) @ rows.T
    explained = np.einsum("ij,ij->i", cross, np.linalg.solve(covariance, cross.T).T)
    return np.maximum(before - explained.reshape(before.shape), 0.0)


def outlook(data: Sequence[Points], n_targets: int) -> Outlook:
    """The outlook from the runs at hand.

    Args:
        data: of tasks whose goals are the targets, then the candidates.
        n_targets: how many of the goals are targets.

    Raises:
        InputError: a task has no accuracy to go on to, or the posterior's mode was not found.
    """
    joint = joints(data, np.ones((1, len(data[0].y))))
    widest = max(np.bincount(points.windows.run).max() for points in data)
    series = bayes.series_of(data)
    return Outlook(
        Joint(*(np.asarray(part)[0] for part in joint)),
        series.of_task, data[0].beyond, n_targets, int(widest),
    )  # fmt: skip


def joints(data: Sequence[Points], weights: np.ndarray) -> Joint:
    """Joint predictions from B sub-ladders: every part has a leading axis B.

    Args:
        data: of the tasks.
        weights: 1 for a run that a sub-ladder has, 0 for one that it has not, shape (B, R).
    """
    law = data[0].law
    if law.of_accuracy or any(points.link is None for points in data):
        raise InputError("advice is for accuracies forecast in two steps: leave out other tasks")
    series = bayes.series_of(data)
    model1, model2 = Step1(tuple(law.inputs), True), Step2(True)
    centre = series.centre_y[series.of_task]
    x, accuracy, rate, windows, *chance = bayes.step2_arguments(data, centre)
    first = [np.asarray(a) for a in (series.log_x, series.log_y)]
    n = len(weights)
    with jax.enable_x64():
        each1 = (*_repeat(first, n), jnp.asarray(weights, float))
        kept = windows * np.asarray(weights, float)[:, None, :, None]
        each2 = (*_repeat((x, accuracy, rate), n), jnp.asarray(kept), *_repeat(chance, n))
        mode1, factor1, slope1 = sampler.modes(model1, each1)
        mode2, factor2, slope2 = sampler.modes(model2, each2)
        lost = int(np.sum(~((slope1 < sampler.STATIONARY) & (slope2 < sampler.STATIONARY))))
        if lost:
            raise InputError(f"no mode of the posterior was found ({lost} of {n} ladders)")
        goals = np.log([data[list(series.of_task).index(s)].goals for s in range(len(first[1]))])
        goals = jnp.asarray(goals - series.centre_x[:, None])
        function = _joint(model1, model2, tuple(series.of_task.tolist()))
        return function(
            mode1, factor1, mode2, factor2, goals,
            tuple(a[0] for a in each1), tuple(a[0] for a in each2),
        )  # fmt: skip


def _repeat(arrays: Sequence[np.ndarray], n: int) -> list[jax.Array]:
    return [jnp.broadcast_to(jnp.asarray(a), (n, *np.shape(a))) for a in arrays]


@functools.cache
def _joint(model1: Step1, model2: Step2, of_task: tuple[int, ...]) -> Callable:
    tasks = np.array(of_task)

    def one(mode1, factor1, mode2, factor2, goals, arguments1, arguments2) -> Joint:
        _, site1 = sampler.flat_start(model1, arguments1)
        _, site2 = sampler.flat_start(model2, arguments2)

        def log_loss(theta: jax.Array) -> jax.Array:
            p = site1(theta)
            return p["level"][:, None] + model1.shape(p, goals)

        def accuracy(theta: jax.Array, log_x: jax.Array) -> jax.Array:
            return model2.mean(site2(theta), log_x, ANNEALED)

        at = log_loss(mode1)[tasks]
        f, slope = jax.jvp(lambda x: accuracy(mode2, x), (at,), (jnp.ones_like(at),))
        p1, p2 = site1(mode1), site2(mode2)
        return Joint(
            jax.jacobian(log_loss)(mode1) @ factor1,
            jax.jacobian(accuracy)(mode2, at) @ factor2,
            slope,
            f,
            jnp.exp(2 * p1["log_sigma"]),
            jnp.exp(2 * p2["log_run_sd"]),
            jnp.exp(2 * p2["log_window_sd"]),
        )

    return jax.jit(jax.vmap(one, in_axes=(0, 0, 0, 0, None, None, None)))


def best_set(outlook: Outlook, costs: np.ndarray, budget: float) -> list[int]:
    """The set of candidates within the budget that leaves the narrowest intervals.

    Every set is tried of up to ten affordable candidates.  Of more: sets grown one by one, by
    shrinkage and by shrinkage per FLOP, then mended by exchanges.

    Args:
        outlook: of the candidates.
        costs: FLOPs of each, shape (C,).
        budget: FLOPs.

    Returns:
        Positions of candidates, cheapest first; empty if none shrinks the mean width by `HELPS`.
    """
    affordable = [int(c) for c in np.flatnonzero(costs <= budget)]
    if len(affordable) <= _EXHAUSTIVE:
        sets = (
            list(s) for n in range(1, len(affordable) + 1)
            for s in itertools.combinations(affordable, n) if costs[list(s)].sum() <= budget
        )  # fmt: skip
        found = min(sets, key=outlook.width, default=[])
    else:
        grown = [_grow(outlook, costs, budget, affordable, power) for power in (0.0, 1.0)]
        found = min((_exchange(outlook, costs, budget, affordable, s) for s in grown),
                    key=outlook.width)  # fmt: skip
    if not found or 1 - outlook.width(found) / outlook.width() < HELPS:
        return []
    return sorted(found, key=lambda c: costs[c])


def _grow(
    outlook: Outlook, costs: np.ndarray, budget: float, candidates: list[int], power: float
) -> list[int]:
    chosen: list[int] = []
    while True:
        left = budget - costs[chosen].sum()
        open_ = [c for c in candidates if c not in chosen and costs[c] <= left]
        if not open_:
            return chosen
        now = outlook.width(chosen)
        gains = [(now - outlook.width([*chosen, c])) / costs[c] ** power for c in open_]
        chosen = [*chosen, open_[int(np.argmax(gains))]]


def _exchange(
    outlook: Outlook, costs: np.ndarray, budget: float, candidates: list[int], chosen: list[int]
) -> list[int]:
    """Swaps one in for one out, as long as that narrows the intervals."""
    best = outlook.width(chosen)
    improved = True
    while improved:
        improved = False
        for old, new in itertools.product(list(chosen), candidates):
            swapped = [*(c for c in chosen if c != old), new]
            if new in chosen or costs[swapped].sum() > budget:
                continue
            width = outlook.width(swapped)
            if width < best * (1 - 1e-9):
                chosen, best, improved = swapped, width, True
                break
    return chosen
