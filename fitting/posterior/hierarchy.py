"""The pooled models as NumPyro models, in which tasks learn from one another.

Step 1 is the law of `fitting.laws` in coordinates that the data can tell apart: inputs centred,
losses relative to their geometric mean Lbar, and terms as shares of the loss at the centre,

    ln L = ln Lbar + level + ln[floor + (1 - floor) sum_k share_k exp(-exponent_k x_k)] + noise.

Step 2 is a Hill curve from chance to 1 (to a ceiling, for tasks that are not multiple choice),

    acc = floor + (top - floor) sigmoid(height - steepness z) + noise,

where z is the log loss that step 1's law gives at a run's N and D, not the loss that was measured:
the law serves as an instrument.  A measured loss is noisy, and a curve fitted to noisy losses is
too flat (errors in variables).  Without any loss, z is a law of the same shape, one for all tasks,
whose parameters are known from accuracies and priors alone.

A task's parameter comes from a normal population, whose mean is fitted; its spread is fixed, by
leave-one-ladder-out scores (`python -m experiments.forecasts choose`).  So the posterior has a
mode, and no funnel.  Noise has a Student t distribution: a run far off the curve bends it little.
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
from fitting.laws.accuracy import LATENT_COMPUTE, LATENT_LOSS

Values = Mapping[str, Any]  # of arrays, by site

# Centres of the exponents' prior: typical of language-model losses, within a factor of about 2.
_EXPONENTS = {"n_params": 0.35, "n_tokens": 0.28, "flops": 0.16}
_LEVEL_SD = 0.1
_FLOOR_SD = 0.03  # of the accuracy at very high losses, about chance
# Of the logit of the greatest accuracy, where it is not known to be 1.
_CEILING_CENTRE, _CEILING_SD = 0.8, 0.5
NOISE_DOF = 4.0  # degrees of freedom of the Student t noise
COMMON_SITES = ("mean", "tasks", "latent")  # not one value a task


def _normal(name: str, mean: Any, sd: Any, shape: tuple[int, ...]) -> Any:
    """A normal parameter of a shape, sampled in units of its prior: the site `NAME_`."""
    units = numpyro.sample(f"{name}_", dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))
    return numpyro.deterministic(name, mean + sd * units)


class Population(NamedTuple):
    """Priors of a parameter that each task draws from one common normal distribution.

    Attributes:
        name: of the parameter.
        centre: mean of the prior of the normal's mean.
        wide: standard deviation of the prior of the normal's mean.
        spread: standard deviation of the normal.
    """

    name: str
    centre: float
    wide: float
    spread: float


def _tasks(populations: Sequence[Population], n: int) -> dict[str, Any]:
    """Every population's parameter of n tasks, each of shape (n,).

    One site holds them all: on a small model the cost of NUTS grows with the number of operations,
    not with their size.
    """
    names, *priors = zip(*populations, strict=True)
    centre, wide, spread = (np.array(v) for v in priors)
    mean = _normal("mean", centre, wide, (len(names),))
    rows = _normal("tasks", mean[:, None], spread[:, None], (len(names), n))
    return {name: numpyro.deterministic(name, rows[i]) for i, name in enumerate(names)}


def exponent_names(inputs: tuple[str, ...]) -> list[str]:
    """Names of the sites that hold the logarithms of the exponents."""
    return [f"log_exponent_{name}" for name in inputs]


def _shape_populations(inputs: tuple[str, ...], exponents: tuple[float, float]) -> list[Population]:
    """Populations of the law's shape; `exponents`: the two spreads of each log exponent."""
    shares = [Population("logit_share", 0.0, 0.7, 0.35)] if len(inputs) == 2 else []
    names = zip(exponent_names(inputs), inputs, strict=True)
    return [
        Population("logit_floor", 0.0, 1.0, 0.35),
        *shares,
        *(Population(n, float(np.log(_EXPONENTS[column])), *exponents) for n, column in names),
    ]


def _shape(p: Values, log_x: jax.Array | np.ndarray, inputs: tuple[str, ...]) -> jax.Array:
    """Log loss less its level: sites of shape (..., S), log_x (..., S, G, K) -> (..., S, G)."""
    floor = jax.nn.sigmoid(p["logit_floor"])[..., None]
    terms = [
        jnp.exp(-jnp.exp(p[name])[..., None] * log_x[..., k])
        for k, name in enumerate(exponent_names(inputs))
    ]
    falling = terms[0]
    if len(terms) == 2:
        share = jax.nn.sigmoid(p["logit_share"])[..., None]
        falling = share * terms[0] + (1 - share) * terms[1]
    return jnp.log(floor + (1 - floor) * falling)


def _observe(residual: jax.Array, log_sd: jax.Array, weight: jax.Array) -> None:
    """Adds the likelihood of residuals (T, R) with Student t noise of scale exp(log_sd) (T,)."""
    noise = dist.StudentT(NOISE_DOF, 0.0, jnp.exp(log_sd)[:, None])
    numpyro.factor("log_likelihood", (weight * noise.log_prob(residual)).sum())


@dataclass(frozen=True)
class Step1:
    """Losses of S series (of tasks, or of a text that many tasks share) over R runs.

    Attributes:
        inputs: of the law, one or two columns of the measurement table.
    """

    inputs: tuple[str, ...]

    @property
    def populations(self) -> list[Population]:
        """Populations in the order of the rows of the site `tasks`."""
        noise = Population("log_sigma", float(np.log(0.01)), 1.0, 0.35)
        return [*_shape_populations(self.inputs, (0.4, 0.175)), noise]

    def __call__(self, log_x: jax.Array, log_y: jax.Array, weight: jax.Array) -> None:
        """The model.

        Args:
            log_x: log inputs less their means over runs, shape (S, R, K).
            log_y: log losses less their means over runs, shape (S, R).
            weight: 1 for a run that is fitted, 0 for one that is left out, shape (R,).
        """
        n = log_y.shape[0]
        p = _tasks(self.populations, n)
        p["level"] = _normal("level", 0.0, _LEVEL_SD, (n,))
        residual = log_y - self.log_loss(p, log_x)
        _observe(residual, p["log_sigma"], weight)

    def log_loss(self, p: Values, log_x: jax.Array | np.ndarray) -> jax.Array:
        """Log loss less its mean: sites of shape (..., S), log_x (..., S, G, K) -> (..., S, G)."""
        return p["level"][..., None] + _shape(p, log_x, self.inputs)


@dataclass(frozen=True)
class Step2:
    """Accuracies of T tasks over R runs.

    Attributes:
        inputs: none, if the log loss is given; else those of the law that takes its place.
    """

    inputs: tuple[str, ...] = ()

    @property
    def populations(self) -> list[Population]:
        """Populations in the order of the rows of the site `tasks`."""
        return [
            Population("log_steepness", float(np.log(5)), 0.7, 0.5),
            Population("log_run_sd", float(np.log(0.02)), 1.0, 0.4),
        ]

    def _latent(self, n: int) -> dict[str, Any]:
        """Parameters of the law that takes the place of a loss, the same for all n tasks."""
        if not self.inputs:
            return {}
        names, centre, wide, _ = zip(*_shape_populations(self.inputs, (0.15, 0.0)), strict=True)
        values = _normal("latent", np.array(centre), np.array(wide), (len(names),))
        return {
            name: numpyro.deterministic(name, jnp.repeat(values[i], n))
            for i, name in enumerate(names)
        }

    def __call__(
        self,
        log_x: jax.Array,
        accuracy: jax.Array,
        weight: jax.Array,
        chance: jax.Array,
        chance_sd: jax.Array,
        choices: jax.Array,
    ) -> None:
        """The model.

        Args:
            log_x: the log loss of step 1's law less its mean, shape (T, R); or log inputs less
                their means, shape (T, R, K).
            accuracy: shape (T, R).
            weight: 1 for a run that is fitted, 0 for one that is left out, shape (R,).
            chance: accuracy of guessing, shape (T,).
            chance_sd: standard deviation of what is known of it, shape (T,).
            choices: 1 for multiple choice, which is 1 at no loss; 0 for other tasks, whose
                greatest accuracy is fitted; shape (T,).
        """
        n = accuracy.shape[0]
        ceiling = jax.nn.sigmoid(_normal("ceiling", _CEILING_CENTRE, _CEILING_SD, (n,)))
        height_sd = jnp.where(choices > 0, 1.5, 2.5)  # other tasks may begin much later
        p = (
            _tasks(self.populations, n)
            | self._latent(n)
            | {
                "floor": _normal("floor", chance, jnp.hypot(chance_sd, _FLOOR_SD), (n,)),
                "height": _normal("height", -1.0, height_sd, (n,)),
                "top": numpyro.deterministic("top", jnp.where(choices > 0, 1.0, ceiling)),
            }
        )
        _observe(accuracy - self.accuracy(p, log_x), p["log_run_sd"], weight)

    def accuracy(self, p: Values, log_x: jax.Array | np.ndarray) -> jax.Array:
        """The curve: sites (..., T) and log_x (..., T, G) or (..., T, G, K) -> (..., T, G)."""
        z = _shape(p, log_x, self.inputs) if self.inputs else log_x
        floor, top, height = (p[name][..., None] for name in ("floor", "top", "height"))
        return floor + (top - floor) * jax.nn.sigmoid(
            height - jnp.exp(p["log_steepness"])[..., None] * z
        )


def check_law(law: Law) -> None:
    """Checks that a law is one that these models describe.

    Raises:
        InputError: it is not, or it was changed: the model has curves of its own.
    """
    own = (CHINCHILLA, COMPUTE_ONLY, LATENT_LOSS, LATENT_COMPUTE)
    known = any(law.log_mean is one.log_mean and law.inputs == one.inputs for one in own)
    if not (known and {"bayes", "laplace"} & set(law.methods)):
        others = [name for name in law.methods if name not in ("bayes", "laplace")]
        raise InputError(
            f"the pooled model cannot fit the law {law.name}: use `method` {', '.join(others)}"
        )
