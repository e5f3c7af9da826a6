"""Which run to train next: how much each candidate would narrow the targets' intervals.

The posterior is taken as normal about its mode (Laplace).  Predictions of targets and of candidate
runs are then jointly normal, and what a candidate will measure narrows the targets by the rule for
conditional variances, whatever the measurement will be.  The noise of a run stays; the discrepancy
of the laws shrinks only as a larger run comes closer to the target.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import constrain_fn
from tqdm import tqdm

from fitting.errors import InputError
from fitting.observations.build import Points
from fitting.posterior import bayes, sampler
from fitting.posterior.bayes import LOGIT_DISCREPANCY, LOSS_DISCREPANCY
from fitting.posterior.hierarchy import ANNEALED, Step1, Step2

_HALF = 1.959964  # of a central 95 % interval of a normal, in standard deviations
_BATCH = 50  # sub-ladders that are fitted at once


class Joint(NamedTuple):
    """Normal predictions for M goals: T tasks, S series, P1 and P2 parameters of the steps.

    Arrays of numpy, or of JAX while they are computed.  `loss` and `accuracy` are directions
    F' dprediction / dparameter, F a factor of the posterior's covariance: inner products of
    directions are covariances.
    """

    loss: Any  # (S, M, P1), of log losses
    accuracy: Any  # (T, M, P2), at a given loss
    slope: Any  # (T, M), of accuracy in log loss
    f: Any  # (T, M), accuracy
    loss_noise: Any  # (S,), variance of a run's log loss
    run_noise: Any  # (T,), variance of a run's accuracy that its windows share
    window_noise: Any  # (T,), variance of one window's accuracy


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
    return _outlook(data, joint, data[0].beyond, n_targets)


def _outlook(
    data: Sequence[Points], joint: Joint, beyond: np.ndarray, n_targets: int, at: int = 0
) -> Outlook:
    """Of the joint at one position of its leading axis."""
    one = Joint(*(np.asarray(part)[at] for part in joint))
    if not np.isfinite(one.f).all():
        raise InputError("no mode of the posterior was found: add runs to --train")
    widest = max(int(np.bincount(points.windows.run).max()) for points in data)
    return Outlook(one, bayes.series_of(data).of_task, beyond, n_targets, widest)


def joints(data: Sequence[Points], weights: np.ndarray, from_prior: bool = False) -> Joint:
    """Joint predictions from B sub-ladders: every part has a leading axis B.

    Args:
        data: of the tasks.
        weights: 1 for a run that a sub-ladder has, 0 for one that it has not, shape (B, R).
        from_prior: linearised about each sub-ladder's mode, but with the prior's covariance.

    Returns:
        Predictions; `f` is NaN where no mode was found.

    Raises:
        InputError: a task has no accuracy to go on to.
    """
    law = data[0].law
    if law.of_accuracy or any(points.link is None for points in data):
        raise InputError("advice is for accuracies forecast in two steps: leave out other tasks")
    series = bayes.series_of(data)
    model1, model2 = Step1(tuple(law.inputs), True), Step2(True)
    goals = np.log([data[list(series.of_task).index(s)].goals for s in range(len(series.centre_y))])
    function = _joint(model1, model2, tuple(series.of_task.tolist()))
    with sampler.numerics():
        each1, each2 = _arguments(data, weights)
        mode1, factor1, slope1 = sampler.modes(model1, each1)
        mode2, factor2, slope2 = sampler.modes(model2, each2)
        settled = (slope1 < sampler.STATIONARY) & (slope2 < sampler.STATIONARY)
        if from_prior:  # of which nothing was observed
            none1, none2 = _arguments(data, np.zeros_like(weights, float))
            factor1, factor2 = sampler.modes(model1, none1)[1], sampler.modes(model2, none2)[1]
        joint = function(
            mode1, factor1, mode2, factor2, jnp.asarray(goals - series.centre_x[:, None]),
            tuple(a[0] for a in each1), tuple(a[0] for a in each2),
        )  # fmt: skip
    found = Joint(*(np.asarray(part) for part in joint))
    return found._replace(f=np.where(np.asarray(settled)[:, None, None], found.f, np.nan))


def _arguments(
    data: Sequence[Points], weights: np.ndarray
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Of both models, once a sub-ladder: the same arrays, but for what is observed."""
    series, present = bayes.series_of(data), jnp.asarray(weights, float)
    arrays = bayes.step2_arguments(data, series.centre_y[series.of_task])

    def repeat(array: np.ndarray) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(array), (len(present), *array.shape))

    x, accuracy, rate, windows, chance, chance_sd = map(repeat, arrays)
    kept = windows * present[:, None, :, None]
    return (
        (repeat(series.log_x), repeat(series.log_y), present),
        (x, accuracy, rate, kept, chance, chance_sd),
    )


@functools.cache
def _joint(model1: Step1, model2: Step2, of_task: tuple[int, ...]) -> Callable:
    tasks = np.array(of_task)

    def one(mode1, factor1, mode2, factor2, goals, arguments1, arguments2) -> Joint:
        def log_loss(theta: jax.Array) -> jax.Array:
            p = _sites(model1, theta, arguments1)
            return p["level"][:, None] + model1.shape(p, goals)

        def accuracy(theta: jax.Array, log_x: jax.Array) -> jax.Array:
            return model2.mean(_sites(model2, theta, arguments2), log_x, ANNEALED)

        at = log_loss(mode1)[tasks]
        f, slope = jax.jvp(lambda x: accuracy(mode2, x), (at,), (jnp.ones_like(at),))
        p1, p2 = _sites(model1, mode1, arguments1), _sites(model2, mode2, arguments2)
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


def _sites(model: Step1 | Step2, theta: jax.Array, arguments: tuple[jax.Array, ...]) -> dict:
    """All sites of a model, also those that follow from others, at one vector of parameters."""
    _, unravel = sampler.flat_start(model, arguments)
    return constrain_fn(model, arguments, {}, unravel(theta), return_deterministic=True)


def criterion_against_realised(
    data: Sequence[Points], base: Sequence[int], sets: Sequence[Sequence[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """What was foretold of larger ladders, and what fitting them gives.

    Args:
        data: of the tasks; their goals are the targets.
        base: positions of the runs at hand.
        sets: positions of the runs that each of B ladders adds to them.

    Returns:
        Variances of the targets' accuracies, each of shape (B, T, G): foretold from the base alone,
        knowing no value of an added run, and realised, NaN where no mode was found.

    Raises:
        InputError: no mode was found for the base, or a task has no accuracy.
    """
    n_runs, n_targets = len(data[0].y), len(data[0].goals)
    compute = np.log(np.concatenate([data[0].goals, data[0].x])).sum(-1)  # but for a constant
    runs = compute[n_targets:]
    all_goals = [replace(p, goals=np.concatenate([p.goals, p.x])) for p in data]
    weights = np.zeros((1 + len(sets), n_runs))
    weights[:, list(base)] = 1.0
    for i, added in enumerate(sets):
        weights[1 + i, list(added)] = 1.0
    beyond = [np.maximum(compute - runs[w > 0].max(), 0.0) for w in weights]
    joint = _in_batches(all_goals, weights)
    outlook = _outlook(all_goals, joint, beyond[0], n_targets)
    foretold = [outlook.variance(added) for added in sets]
    return np.array(foretold), _realised(all_goals, joint, beyond, n_targets)[1:]


def design_against_realised(
    data: Sequence[Points], sets: Sequence[Sequence[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """The same for ladders of B sets of runs, foretold from the prior at the whole ladder's mode.

    What is foretold then differs by the design of a ladder alone, not by what it measured.
    """
    n_runs, n_targets = len(data[0].y), len(data[0].goals)
    compute = np.log(np.concatenate([data[0].goals, data[0].x])).sum(-1)
    runs = compute[n_targets:]
    all_goals = [replace(p, goals=np.concatenate([p.goals, p.x])) for p in data]
    weights = np.zeros((len(sets), n_runs))
    for i, kept in enumerate(sets):
        weights[i, list(kept)] = 1.0
    smallest = np.maximum(compute - runs.min(), 0.0)
    joint = joints(all_goals, np.ones((1, n_runs)), from_prior=True)
    outlook = _outlook(all_goals, joint, smallest, n_targets)
    foretold = [outlook.variance(kept) for kept in sets]
    beyond = [np.maximum(compute - runs[w > 0].max(), 0.0) for w in weights]
    realised = _realised(all_goals, _in_batches(all_goals, weights), beyond, n_targets)
    return np.array(foretold), realised


def _in_batches(data: Sequence[Points], weights: np.ndarray) -> Joint:
    """`joints` of many sub-ladders, a batch at a time; the last is filled up with whole ladders."""
    filled = np.ones((-(-len(weights) // _BATCH) * _BATCH, weights.shape[1]))
    filled[: len(weights)] = weights
    batches = tqdm(np.split(filled, len(filled) // _BATCH), desc="ladders", unit="batch")
    parts = zip(*(joints(data, batch) for batch in batches), strict=True)
    return Joint(*(np.concatenate(part)[: len(weights)] for part in parts))


def _realised(
    data: Sequence[Points], joint: Joint, beyond: Sequence[np.ndarray], n_targets: int
) -> np.ndarray:
    found = []
    for i, (ahead, f) in enumerate(zip(beyond, joint.f, strict=True)):
        known = np.isfinite(f).all()
        variance = _outlook(data, joint, ahead, n_targets, i).variance() if known else np.nan
        found.append(np.broadcast_to(variance, (len(data), n_targets)))
    return np.array(found)
