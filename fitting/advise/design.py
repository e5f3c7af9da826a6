"""Computes how much each candidate run would narrow the intervals of the targets.

The intervals are of accuracies or, where no task has one, of log losses.

The posterior is taken as normal about its mode (Laplace).  Predictions of targets and of candidate
runs are then jointly normal, and measuring a candidate narrows the targets by the rule for
conditional variances, whatever the measured value.  The noise of a run remains; the discrepancy
of the laws shrinks only if a larger run is closer to the target.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import constrain_fn

from fitting.errors import InputError
from fitting.observations.arrays import Observations, Targets
from fitting.posterior import bayes, sampler
from fitting.posterior.bayes import LOGIT_DISCREPANCY, LOSS_DISCREPANCY
from fitting.posterior.hierarchy import ANNEALED, Step1, Step2

_HALF = 1.959964  # half a central 95 % interval of a normal, in standard deviations


class JointPrediction(NamedTuple):
    """Normal predictions for M runs: T tasks, S series, P1 and P2 parameters of the steps.

    The arrays are numpy's, or JAX's while they are computed.  `loss` and `accuracy` hold directions
    F' dprediction / dparameter, where F is a factor of the posterior's covariance; inner products
    of directions are covariances.  Where tasks are losses alone, all but `loss` and `loss_noise`
    are None.

    Attributes:
        loss: directions of log losses, shape (S, M, P1); NaN where no mode was found.
        accuracy: directions of accuracies at a given loss, shape (T, M, P2).
        slope: derivative of accuracy in log loss, shape (T, M).
        f: accuracy, shape (T, M).
        loss_noise: variance of a run's log loss, shape (S,).
        run_noise: the part of the variance of a run's accuracy that its windows share, shape (T,).
        window_noise: variance of one window's accuracy, shape (T,).
    """

    loss: Any
    accuracy: Any
    slope: Any
    f: Any
    loss_noise: Any
    run_noise: Any
    window_noise: Any


@dataclass(frozen=True)
class CandidateModel:
    """Predictive variances of G targets of T tasks, once any of C candidate runs are measured.

    Attributes:
        joint: predictions for the G targets, then the C candidates.
        of_task: index of each task's series, shape (T,).
        extrapolation: ln of compute over the largest training run's, of targets and candidates,
            shape (G + C,).
        n_targets: number of targets, G.
        n_windows: number of windows of a candidate's checkpoints.
    """

    joint: JointPrediction
    of_task: np.ndarray
    extrapolation: np.ndarray
    n_targets: int
    n_windows: int

    def variance(self, chosen: Sequence[int] = ()) -> np.ndarray:
        """Variance of each target's accuracy (or log loss) once the chosen are measured: (T, G).

        Args:
            chosen: positions of candidates, from 0.
        """
        joint, targets = self.joint, slice(0, self.n_targets)
        picked = [self.n_targets + c for c in chosen]
        reached = max([0.0, *self.extrapolation[picked]])
        left = np.maximum(self.extrapolation[targets] - reached, 0.0)
        of_loss = _conditional_variance(
            joint.loss[self.of_task, targets],
            joint.loss[:, picked],
            np.repeat(joint.loss_noise, len(picked)),
        )
        noise = joint.loss_noise[self.of_task][:, None]
        log_loss = of_loss + noise + (LOSS_DISCREPANCY * left) ** 2
        if joint.accuracy is None:
            return log_loss
        noise = joint.run_noise + joint.window_noise / self.n_windows
        at_loss = _conditional_variance(
            joint.accuracy[:, targets], joint.accuracy[:, picked], np.repeat(noise, len(picked))
        )
        f, slope = joint.f[:, targets], joint.slope[:, targets]
        at_loss = at_loss + (LOGIT_DISCREPANCY * left * f * (1 - f)) ** 2
        return slope**2 * log_loss + at_loss + (joint.run_noise + joint.window_noise)[:, None]

    def width(self, chosen: Sequence[int] = ()) -> float:
        """Mean width of the targets' 95 % intervals once the chosen candidates are measured."""
        return float(2 * _HALF * np.sqrt(self.variance(chosen)).mean())


def _conditional_variance(
    targets: np.ndarray, observed: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """Variance of targets (T, G, P) given observations (S, n, P) with noise (S n,): (T, G)."""
    before = np.square(targets).sum(-1)
    if not len(noise):
        return before
    rows = observed.reshape(-1, observed.shape[-1])
    covariance = rows @ rows.T + np.diag(noise)
    cross = targets.reshape(-1, targets.shape[-1]) @ rows.T
    explained = np.einsum("ij,ij->i", cross, np.linalg.solve(covariance, cross.T).T)
    return np.maximum(before - explained.reshape(before.shape), 0.0)


def candidate_model(
    data: Sequence[Observations], runs: Sequence[Targets], n_targets: int
) -> CandidateModel:
    """Builds the model of candidates' effects from the training runs.

    Args:
        data: observations of the tasks.
        runs: for each task the targets, then the candidates.
        n_targets: how many of the runs are targets.

    Raises:
        InputError: see `joint_predictions`, or the posterior's mode was not found.
    """
    joint = joint_predictions(data, runs, np.ones((1, len(data[0].y))))
    return model_of(data, joint, runs[0].extrapolation, n_targets)


def model_of(
    data: Sequence[Observations],
    joint: JointPrediction,
    extrapolation: np.ndarray,
    n_targets: int,
    at: int = 0,
) -> CandidateModel:
    """Builds the model of candidates' effects from the predictions of one sub-ladder.

    Args:
        data: observations of the tasks.
        joint: the result of `joint_predictions`.
        extrapolation: ln of compute over the largest training run's, of targets and candidates.
        n_targets: how many of the runs are targets.
        at: position of the sub-ladder.

    Raises:
        InputError: the sub-ladder's posterior has no mode.
    """
    one = JointPrediction(*(None if part is None else np.asarray(part)[at] for part in joint))
    if not np.isfinite(one.loss).all():
        raise InputError("no mode of the posterior was found: add runs to `train`")
    n_windows = max(int(np.bincount(task.windows.run, minlength=1).max()) for task in data)
    of_task = bayes.series_of(data).of_task
    return CandidateModel(one, of_task, extrapolation, n_targets, n_windows)


def joint_predictions(
    data: Sequence[Observations],
    runs: Sequence[Targets],
    weights: np.ndarray,
    from_prior: bool = False,
) -> JointPrediction:
    """Computes joint predictions from B sub-ladders; every part has a leading axis B.

    Args:
        data: observations of the tasks.
        runs: the runs to predict, M for each task.
        weights: 1 for a run that is in a sub-ladder, 0 for one that is not, shape (B, R).
        from_prior: use the prior's covariance in place of the posterior's, at the same mode.

    Raises:
        InputError: the law is of accuracy, or some tasks have an accuracy and others have none.
    """
    law = data[0].law
    linked = [task.link is not None for task in data]
    if law.of_accuracy or any(linked) != all(linked):
        raise InputError(
            "advice is for accuracies forecast in two steps, or for losses alone, as their widths "
            "cannot be added: leave out the other `tasks`"
        )
    series = bayes.series_of(data)
    first = [list(series.of_task).index(s) for s in range(len(series.centre_y))]
    log_inputs = np.log([runs[t].inputs for t in first]) - series.centre_x[:, None]
    with sampler.numerics():
        given = [jnp.asarray(weights, float)]
        if from_prior:  # the posterior of a ladder without runs
            given.append(jnp.zeros_like(given[0]))
        of_runs = [_arguments1(series, present) for present in given]
        step1 = _modes(Step1(tuple(law.inputs), True), *of_runs)
        if all(linked):
            of_windows = [_arguments2(data, series, present) for present in given]
            step2 = _modes(Step2(True), *of_windows)
            function = _predict(step1.model, step2.model, tuple(series.of_task.tolist()))
            joint, found = function(*step1.at, *step2.at, log_inputs), step1.found & step2.found
        else:
            joint, found = _predict_losses(step1.model)(*step1.at, log_inputs), step1.found
    parts = JointPrediction(*(part if part is None else np.asarray(part) for part in joint))
    return parts._replace(loss=np.where(np.asarray(found)[:, None, None, None], parts.loss, np.nan))


class _Modes(NamedTuple):
    """The posteriors of one step for B sub-ladders.

    Attributes:
        model: of the step.
        at: modes and factors of covariances, each with a leading axis B, and the arguments of the
            model for one sub-ladder.
        found: whether each mode was found, shape (B,).
    """

    model: Any
    at: tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]
    found: jax.Array


def _modes(
    model: Step1 | Step2,
    arguments: tuple[jax.Array, ...],
    prior: tuple[jax.Array, ...] | None = None,
) -> _Modes:
    """Modes and covariances; with arguments `prior`, the covariances are those of its modes."""
    mode, factor, distance = sampler.modes(model, arguments)
    if prior is not None:
        factor = sampler.modes(model, prior).factor
    one = tuple(a[0] for a in arguments)
    return _Modes(model, (mode, factor, one), distance < sampler.STATIONARY)


def _arguments1(series: bayes.Series, present: jax.Array) -> tuple[jax.Array, ...]:
    """Arguments of step 1, repeated for each sub-ladder with its own weights of the runs."""
    log_x, log_y = (_repeat(array, len(present)) for array in (series.log_x, series.log_y))
    return log_x, log_y, present


def _arguments2(
    data: Sequence[Observations], series: bayes.Series, present: jax.Array
) -> tuple[jax.Array, ...]:
    """Arguments of step 2, likewise."""
    arrays = bayes.step2_arguments(data, series.centre_y[series.of_task])
    x, accuracy, lr_fraction, windows, chance, chance_sd = (
        _repeat(array, len(present)) for array in arrays
    )
    return x, accuracy, lr_fraction, windows * present[:, None, :, None], chance, chance_sd


def _repeat(array: np.ndarray, n: int) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(array), (n, *array.shape))


@functools.cache
def _predict_losses(model: Step1) -> Callable:
    def one(mode, factor, arguments, log_inputs) -> JointPrediction:
        directions = jax.jacobian(lambda theta: _log_loss(model, theta, arguments, log_inputs))
        noise = jnp.exp(2 * _sites(model, mode, arguments)["log_sigma"])
        return JointPrediction(directions(mode) @ factor, None, None, None, noise, None, None)

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None, None)))


def _log_loss(
    model: Step1, theta: jax.Array, arguments: tuple[jax.Array, ...], log_inputs: jax.Array
) -> jax.Array:
    """Centred log losses of runs, shape (S, M), at one vector of parameters."""
    p = _sites(model, theta, arguments)
    return p["level"][:, None] + model.shape(p, log_inputs)


@functools.cache
def _predict(model1: Step1, model2: Step2, of_task: tuple[int, ...]) -> Callable:
    tasks = np.array(of_task)

    def one(mode1, factor1, arguments1, mode2, factor2, arguments2, log_inputs) -> JointPrediction:
        def log_loss(theta: jax.Array) -> jax.Array:
            return _log_loss(model1, theta, arguments1, log_inputs)

        def accuracy(theta: jax.Array, log_x: jax.Array) -> jax.Array:
            return model2.mean(_sites(model2, theta, arguments2), log_x, ANNEALED)

        at = log_loss(mode1)[tasks]
        f, slope = jax.jvp(lambda x: accuracy(mode2, x), (at,), (jnp.ones_like(at),))
        p1, p2 = _sites(model1, mode1, arguments1), _sites(model2, mode2, arguments2)
        return JointPrediction(
            jax.jacobian(log_loss)(mode1) @ factor1,
            jax.jacobian(accuracy)(mode2, at) @ factor2,
            slope,
            f,
            jnp.exp(2 * p1["log_sigma"]),
            jnp.exp(2 * p2["log_run_sd"]),
            jnp.exp(2 * p2["log_window_sd"]),
        )

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None, 0, 0, None, None)))


def _sites(model: Step1 | Step2, theta: jax.Array, arguments: tuple[jax.Array, ...]) -> dict:
    """All sites of a model, deterministic ones included, at one vector of parameters."""
    _, unravel = sampler.flat_start(model, arguments)
    return constrain_fn(model, arguments, {}, unravel(theta), return_deterministic=True)
