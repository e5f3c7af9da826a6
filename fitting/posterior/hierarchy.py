"""The two steps as NumPyro models, in which tasks learn from one another.

Step 1 is the law of `fitting.laws` in coordinates that the data can tell apart: inputs centred,
losses relative to their geometric mean Lbar, and terms as shares of the loss at the centre,

    ln L = ln Lbar + level + ln[floor + (1 - floor) sum_k share_k exp(-exponent_k x_k)] + noise.

Step 2 is a Hill curve from chance to 1, over windows of each run's checkpoints,

    acc = f + slope f (1 - f) (lr_fraction - .1) + effect of the run + noise,
    f = floor + (1 - floor) sigmoid(height - steepness ln(x / Lbar)).

`lr_fraction` is the learning rate over its peak: at equal loss, accuracy is higher while it is
high.  The effect of the run is shared by its windows, which are not independent observations.

A task's parameter comes from a normal population.  The spread of a population has a log-normal
prior, which keeps it off zero: centred parameters then mix well.  Levels and effects of runs are
integrated out; `level` is then the mean of a level given the other parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from fitting.errors import InputError
from fitting.laws import CHINCHILLA, COMPUTE_ONLY, Law

Values = Mapping[str, Any]  # of arrays, by site

# Centres of the exponents' prior: typical of language-model losses, within a factor of about 2.
_EXPONENTS = {"n_params": 0.35, "n_tokens": 0.28, "flops": 0.16}
_LEVEL_VARIANCE = 0.1**2
_FLOOR_SD = 0.03  # of the accuracy at very high losses, about chance
COMMON_SITES = ("mean", "spread", "tasks")  # a value or row a population, not one a task
ANNEALED = 0.1  # the learning-rate fraction at which the Hill curve itself is the accuracy


def _sample(name: str, prior: dist.Distribution) -> Any:
    return numpyro.sample(name, prior)


class Population(NamedTuple):
    """Priors of a parameter that each task draws from one common normal distribution.

    Attributes:
        name: of the parameter.
        centre: mean of the prior of the normal's mean.
        wide: standard deviation of the prior of the normal's mean.
        spread: twice the median of the prior of the normal's standard deviation.
    """

    name: str
    centre: float
    wide: float
    spread: float


def _tasks(populations: Sequence[Population], n: int, known_spreads: bool) -> dict[str, Any]:
    """Every population's parameter of n tasks, each of shape (n,).

    One site holds them all: on a small model the cost of NUTS grows with the number of operations,
    not with their size.
    """
    names, *priors = zip(*populations, strict=True)
    centre, wide, spread = (np.array(v) for v in priors)
    mean = _sample("mean", dist.Normal(centre, wide).to_event(1))
    sd = spread / 2
    if not known_spreads:
        sd = _sample("spread", dist.LogNormal(np.log(sd), 0.6).to_event(1))
    normal = dist.Normal(mean[:, None], sd[:, None]).expand([len(names), n]).to_event(2)
    rows = _sample("tasks", normal)
    return {name: numpyro.deterministic(name, rows[i]) for i, name in enumerate(names)}


def _levels(n: int) -> Any:
    return _sample("level", dist.Normal(0.0, _LEVEL_VARIANCE**0.5).expand([n]).to_event(1))


def exponent_names(inputs: tuple[str, ...]) -> list[str]:
    """Names of the sites that hold the logarithms of the exponents."""
    return [f"log_exponent_{name}" for name in inputs]


@dataclass(frozen=True)
class Step1:
    """Losses of S series (of tasks, or of a text that many tasks share) over R runs.

    Attributes:
        inputs: of the law, one or two columns of the measurement table.
        known_spreads: populations spread as their prior's median says, so that the posterior has
            a mode: with spreads unknown its density has none (it grows as a spread falls to 0).
    """

    inputs: tuple[str, ...]
    known_spreads: bool = False

    @property
    def populations(self) -> list[Population]:
        """Populations in the order of the rows of the site `tasks`."""
        shares = [Population("logit_share", 0.0, 0.7, 0.7)] if len(self.inputs) == 2 else []
        exponents = [
            Population(name, float(np.log(_EXPONENTS[column])), 0.4, 0.35)
            for name, column in zip(exponent_names(self.inputs), self.inputs, strict=True)
        ]
        noise = Population("log_sigma", float(np.log(0.008)), 0.5, 0.5)
        return [Population("logit_floor", 0.0, 1.0, 0.7), *shares, *exponents, noise]

    def __call__(self, log_x: jax.Array, log_y: jax.Array, weight: jax.Array) -> None:
        """The model.

        Args:
            log_x: log inputs less their means over runs, shape (S, R, K).
            log_y: log losses less their means over runs, shape (S, R).
            weight: 1 for a run that is fitted, 0 for one that is left out, shape (R,).
        """
        n = log_y.shape[0]
        p = _tasks(self.populations, n, self.known_spreads)
        sigma = p["log_sigma"]
        residual, spare = log_y - self.shape(p, log_x), _LEVEL_VARIANCE
        if self.known_spreads:  # the normal approximation has room for the level as a parameter
            level, spare = _levels(n), 0.0
            residual = residual - level[:, None]
        log_likelihood, mean, variance = _shared(residual, weight, jnp.exp(2 * sigma), spare)
        if not self.known_spreads:
            numpyro.deterministic("level", mean)
            numpyro.deterministic("level_variance", variance)
        numpyro.factor("log_likelihood", log_likelihood.sum())

    def shape(self, p: Values, log_x: jax.Array) -> jax.Array:
        """Log loss less its level: sites of shape (..., S), log_x (..., S, G, K) -> (..., S, G)."""
        floor = jax.nn.sigmoid(p["logit_floor"])[..., None]
        terms = [
            jnp.exp(-jnp.exp(p[name])[..., None] * log_x[..., k])
            for k, name in enumerate(exponent_names(self.inputs))
        ]
        if len(terms) == 2:
            share = jax.nn.sigmoid(p["logit_share"])[..., None]
            return jnp.log(floor + (1 - floor) * (share * terms[0] + (1 - share) * terms[1]))
        return jnp.log(floor + (1 - floor) * terms[0])


@dataclass(frozen=True)
class Step2:
    """Accuracies of T tasks over W windows of each of R runs.

    Attributes:
        known_spreads: populations spread as their prior's median says, so that the posterior has
            a mode: with spreads unknown its density has none (it grows as a spread falls to 0).
    """

    known_spreads: bool = False

    def __call__(
        self,
        log_x: jax.Array,
        accuracy: jax.Array,
        lr_fraction: jax.Array,
        weight: jax.Array,
        chance: jax.Array,
        chance_sd: jax.Array,
    ) -> None:
        """The model.

        Args:
            log_x: log feature less the mean that step 1 takes off, shape (T, R, W).
            accuracy: shape (T, R, W).
            lr_fraction: learning rate over its peak, shape (T, R, W).
            weight: 1 for an observed window, 0 for padding, shape (T, R, W).
            chance: accuracy of guessing, shape (T,).
            chance_sd: standard deviation of what is known of it, shape (T,).
        """
        n = accuracy.shape[0]
        floor_sd = jnp.hypot(chance_sd, _FLOOR_SD)
        p = {
            "floor": _sample("floor", dist.Normal(chance, floor_sd).to_event(1)),
            "height": _sample("height", dist.Normal(-1.0, 1.5).expand([n]).to_event(1)),
        } | _tasks(self.populations, n, self.known_spreads)
        residual = accuracy - self.mean(
            p, log_x.reshape(n, -1), lr_fraction.reshape(n, -1)
        ).reshape(accuracy.shape)
        log_likelihood, *_ = _shared(
            residual,
            weight,
            jnp.exp(2 * p["log_window_sd"])[:, None],
            jnp.exp(2 * p["log_run_sd"])[:, None],
        )
        numpyro.factor("log_likelihood", log_likelihood.sum())

    @property
    def populations(self) -> list[Population]:
        """Populations in the order of the rows of the site `tasks`."""
        return [
            Population("log_steepness", float(np.log(5)), 0.7, 0.5),
            Population("slope", 0.0, 0.05, 0.05),
            Population("log_window_sd", float(np.log(0.005)), 0.5, 0.5),
            Population("log_run_sd", float(np.log(0.005)), 0.5, 0.5),
        ]

    def mean(self, p: Values, log_x: jax.Array, lr_fraction: jax.Array | float) -> jax.Array:
        """Accuracy: sites of shape (..., T), log_x (..., T, G) -> (..., T, G)."""
        return self.at_lr_fraction(p, self.hill(p, log_x), lr_fraction)

    def hill(self, p: Values, log_x: jax.Array) -> jax.Array:
        """The Hill curve: sites of shape (..., T), log_x (..., T, G) -> (..., T, G)."""
        floor, height = p["floor"][..., None], p["height"][..., None]
        steepness = jnp.exp(p["log_steepness"])[..., None]
        return floor + (1 - floor) * jax.nn.sigmoid(height - steepness * log_x)

    def at_lr_fraction(self, p: Values, f: jax.Array, lr_fraction: jax.Array | float) -> jax.Array:
        """Accuracies f of the Hill curve, corrected for the learning rate."""
        return f + p["slope"][..., None] * f * (1 - f) * (lr_fraction - ANNEALED)


def _shared(
    residual: jax.Array, weight: jax.Array, own: jax.Array, shared: jax.Array | float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Likelihood of normal residuals that share a normal effect, which is integrated out.

    Args:
        residual: shape (..., M).
        weight: 1 for what was observed, 0 for what was not, broadcast against `residual`.
        own: variance of each residual about the effect, shape (...).
        shared: variance of the effect.

    Returns:
        Log likelihood, and mean and variance of the effect given the residuals, each (...).
    """
    weight = jnp.broadcast_to(weight, residual.shape)
    count = weight.sum(-1)
    mean = (weight * residual).sum(-1) / jnp.maximum(count, 1.0)
    squares = (weight * (residual - mean[..., None]) ** 2).sum(-1)
    total = own + count * shared
    log_likelihood = -0.5 * (
        squares / own
        + count * mean**2 / total
        + jnp.where(count > 0, (count - 1) * jnp.log(own) + jnp.log(total), 0.0)
        + count * np.log(2 * np.pi)
    )
    return log_likelihood, count * mean * shared / total, shared * own / total


def check_law(law: Law) -> None:
    """Checks that a law is one that these models describe.

    Raises:
        InputError: it is not, or it was changed: the model has curves of its own.
    """
    known = any(
        law.log_mean is own.log_mean and law.inputs == own.inputs
        for own in (CHINCHILLA, COMPUTE_ONLY)
    )
    if not (known and {"bayes", "laplace"} & set(law.methods)):
        others = [name for name in law.methods if name not in ("bayes", "laplace")]
        raise InputError(
            f"the pooled model cannot fit the law {law.name}: use `method` {', '.join(others)}"
        )
