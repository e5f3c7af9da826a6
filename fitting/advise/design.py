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
from fitting.observations.distance import distance, positions
from fitting.posterior import bayes, laplace
from fitting.posterior.draws import flat_start, numerics
from fitting.posterior.hierarchy import NOISE_DOF, Step1, Step2

_HALF = 1.959964  # half a central 95 % interval of a normal, in standard deviations
# Variances, for squared scales of Student t noise: that of a value to come, and that of a normal
# observation that tells as much (the inverse of Fisher's information).
_TO_COME, _OBSERVED = NOISE_DOF / (NOISE_DOF - 2), (NOISE_DOF + 3) / (NOISE_DOF + 1)


class JointPrediction(NamedTuple):
    """Normal predictions for M runs: T tasks, S series, P1 and P2 parameters of the steps.

    The arrays are numpy's, or JAX's while they are computed.  `loss` and `accuracy` hold directions
    F' dprediction / dparameter, where F is a factor of the posterior's covariance; inner products
    of directions are covariances.  What a law straight to accuracy, or a loss alone, does not have
    is None.

    Attributes:
        found: whether the modes were found.
        loss: directions of log losses, shape (S, M, P1).
        loss_noise: squared scale of the noise of a run's log loss, shape (S,).
        accuracy: directions of accuracies at a given loss, shape (T, M, P2).
        accuracy_noise: squared scale of the noise of a run's accuracy, shape (T,).
        slope: derivative of accuracy in log loss, shape (T, M).
    """

    found: Any
    loss: Any = None
    loss_noise: Any = None
    accuracy: Any = None
    accuracy_noise: Any = None
    slope: Any = None


@dataclass(frozen=True)
class CandidateModel:
    """Predictive variances of G targets of T tasks, once any of C candidate runs are measured.

    Attributes:
        joint: predictions for the G targets, then the C candidates.
        of_task: index of each task's series, shape (T,).
        trained: positions of the training runs (see `observations.distance`), shape (R, 2).
        ahead: positions of the targets, then the candidates, shape (G + C, 2).
        n_targets: number of targets, G.
    """

    joint: JointPrediction
    of_task: np.ndarray
    trained: np.ndarray
    ahead: np.ndarray
    n_targets: int

    def variance(self, chosen: Sequence[int] = ()) -> np.ndarray:
        """Variance of each target's accuracy (or log loss) once the chosen are measured: (T, G).

        Args:
            chosen: positions of candidates, from 0.
        """
        joint, targets = self.joint, slice(0, self.n_targets)
        picked = [self.n_targets + c for c in chosen]
        left = distance(np.concatenate([self.trained, self.ahead[picked]]), self.ahead[targets])
        of_law = 0.0
        if joint.loss is not None:
            noise = np.repeat(_OBSERVED * joint.loss_noise, len(picked))
            of_law = _conditional_variance(
                joint.loss[self.of_task, targets], joint.loss[:, picked], noise
            )
        if joint.accuracy is None:
            noise = joint.loss_noise[self.of_task][:, None]
            off = bayes.loss_discrepancy(np.sqrt(noise), left)
            return of_law + _TO_COME * noise + off**2
        noise = joint.accuracy_noise[:, None]
        at_loss = _conditional_variance(
            joint.accuracy[:, targets],
            joint.accuracy[:, picked],
            np.repeat(_OBSERVED * joint.accuracy_noise, len(picked)),
        )
        through_loss = 0.0 if joint.slope is None else joint.slope[:, targets] ** 2 * of_law
        off = bayes.accuracy_discrepancy(np.sqrt(noise), left)
        return through_loss + at_loss + _TO_COME * noise + off**2

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
    return model_of(data, joint, positions(data[0].x), positions(runs[0].inputs), n_targets)


def model_of(
    data: Sequence[Observations],
    joint: JointPrediction,
    trained: np.ndarray,
    ahead: np.ndarray,
    n_targets: int,
    at: int = 0,
) -> CandidateModel:
    """Builds the model of candidates' effects from the predictions of one sub-ladder.

    Args:
        data: observations of the tasks.
        joint: the result of `joint_predictions`.
        trained: positions of its training runs, shape (R, 2).
        ahead: positions of the targets, then the candidates, shape (G + C, 2).
        n_targets: how many of the runs are targets.
        at: position of the sub-ladder.

    Raises:
        InputError: the sub-ladder's posterior has no mode.
    """
    one = JointPrediction(*(None if part is None else np.asarray(part)[at] for part in joint))
    if not one.found:
        raise InputError("no mode of the posterior was found: add runs to `train`")
    return CandidateModel(one, bayes.series_of(data).of_task, trained, ahead, n_targets)


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
        InputError: some tasks have an accuracy and others have none.
    """
    law = data[0].law
    latent, linked = law.of_accuracy, [task.link is not None for task in data]
    if not latent and any(linked) != all(linked):
        raise InputError(
            "advice is for accuracies, or for losses alone, as their widths cannot be added: leave "
            "out the other `tasks`"
        )
    series, inputs = bayes.series_of(data), tuple(law.inputs)
    first = [list(series.of_task).index(s) for s in range(len(series.centre_y))]
    log_inputs = np.log([runs[t].inputs for t in first]) - series.centre_x[:, None]
    with numerics():
        given = [jnp.asarray(weights, float)]
        if from_prior:  # the posterior of a ladder without runs
            given.append(jnp.zeros_like(given[0]))
        trained, ahead = (_repeat(x, len(weights)) for x in (series.log_x, log_inputs))
        if latent:
            trained, ahead = trained[:, series.of_task], ahead[:, series.of_task]
            step2 = _modes(Step2(inputs), *_arguments2(data, trained, given))
            joint = _accuracies(step2.model)(*step2.at, ahead)
            return _in_numpy(joint._replace(found=step2.found))
        step1 = _modes(Step1(inputs), *[_arguments1(series, present) for present in given])
        joint = _losses(step1.model)(*step1.at, ahead)._replace(found=step1.found)
        if all(linked):
            features = (_at_modes(step1.model)(*step1.at, x) for x in (trained, ahead))
            trained, ahead = (x[:, series.of_task] for x in features)
            step2 = _modes(Step2(), *_arguments2(data, trained, given))
            second = _accuracies(step2.model)(*step2.at, ahead)
            joint = joint._replace(
                found=step1.found & step2.found, accuracy=second.accuracy,
                accuracy_noise=second.accuracy_noise, slope=second.slope,
            )  # fmt: skip
        return _in_numpy(joint)


def _in_numpy(joint: JointPrediction) -> JointPrediction:
    return JointPrediction(*(part if part is None else np.asarray(part) for part in joint))


class _Modes(NamedTuple):
    """The posteriors of one step for B sub-ladders.

    Attributes:
        model: of the step.
        at: modes, factors of covariances and arguments of the model, each with a leading axis B.
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
    mode, factor, distance = laplace.modes(model, arguments)
    if prior is not None:
        factor = laplace.modes(model, prior).factor
    return _Modes(model, (mode, factor, arguments), distance < laplace.STATIONARY)


def _arguments1(series: bayes.Series, present: jax.Array) -> tuple[jax.Array, ...]:
    """Arguments of step 1, repeated for each sub-ladder with its own weights of the runs."""
    log_x, log_y = (_repeat(array, len(present)) for array in (series.log_x, series.log_y))
    return log_x, log_y, present


def _arguments2(
    data: Sequence[Observations], feature: jax.Array, given: Sequence[jax.Array]
) -> list[tuple[jax.Array, ...]]:
    """Arguments of step 2 for each of the given weights; `feature` has a leading axis B."""
    n_runs = len(data[0].y)
    _, accuracy, _, *rest = bayes.step2_arguments(data, np.asarray(feature[0]))
    fixed = [_repeat(array, len(feature)) for array in (accuracy[:, :n_runs], *rest)]
    return [(feature, fixed[0], present, *fixed[1:]) for present in given]


def _repeat(array: np.ndarray, n: int) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(array), (n, *array.shape))


@functools.cache
def _at_modes(model: Step1) -> Callable:
    """The law's log losses at log inputs (B, S, M, K), at each sub-ladder's mode: (B, S, M)."""

    def one(mode, factor, arguments, log_x) -> jax.Array:
        return model.log_loss(_sites(model, mode, arguments), log_x)

    return jax.jit(jax.vmap(one))


@functools.cache
def _losses(model: Step1) -> Callable:
    def one(mode, factor, arguments, log_x) -> JointPrediction:
        noise = jnp.exp(2 * _sites(model, mode, arguments)["log_sigma"])
        directions = _directions(model, model.log_loss, mode, factor, arguments, log_x)
        return JointPrediction(True, directions, noise)

    return jax.jit(jax.vmap(one))


@functools.cache
def _accuracies(model: Step2) -> Callable:
    def one(mode, factor, arguments, log_x) -> JointPrediction:
        p, slope = _sites(model, mode, arguments), None
        if not model.inputs:  # log_x is a log loss
            _, slope = jax.jvp(lambda x: model.accuracy(p, x), (log_x,), (jnp.ones_like(log_x),))
        directions = _directions(model, model.accuracy, mode, factor, arguments, log_x)
        noise = jnp.exp(2 * p["log_run_sd"])
        return JointPrediction(True, None, None, directions, noise, slope)

    return jax.jit(jax.vmap(one))


def _directions(
    model: Step1 | Step2, curve: Callable, mode: Any, factor: Any, arguments: Any, log_x: Any
) -> jax.Array:
    """F' dcurve / dparameter at a mode, for a curve of sites and log_x."""
    return jax.jacobian(lambda x: curve(_sites(model, x, arguments), log_x))(mode) @ factor


def _sites(model: Step1 | Step2, theta: jax.Array, arguments: tuple[jax.Array, ...]) -> dict:
    """All sites of a model, deterministic ones included, at one vector of parameters."""
    _, unravel = flat_start(model, arguments)
    return constrain_fn(model, arguments, {}, unravel(theta), return_deterministic=True)
