"""Laws and links at the means of a posterior, for tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import expit

from fitting.laws import Law, Link
from fitting.observations.arrays import Observations
from fitting.posterior.bayes import Posterior, by_task
from fitting.posterior.hierarchy import exponent_names
from fitting.solve.fit import Curve, Fit, summarise

_TINY = 1e-9  # least accuracy whose logarithm is taken


def at_means(
    posterior: Posterior, data: Observations, task: int
) -> tuple[Fit[Law], Fit[Link] | None]:
    """A task's law and link at the posterior's means, with the posterior's covariance."""
    series, s = posterior.series, posterior.series.of_task[task]
    place = posterior.linked.index(task) if task in posterior.linked else None
    q: dict[str, Any] = {}
    if posterior.step2 is not None and place is not None:
        q = {n: v[:, place] for n, v in by_task(posterior.step2).items()}
        steepness = np.exp(q["log_steepness"])
    if posterior.step1 is None:
        powers = _powers(q, data.law, -q["height"] / steepness, series.centre_x[s])
        theta = np.column_stack([powers, steepness, q["floor"], q["top"]])
        y = np.maximum(data.y, _TINY)
        sd = float(np.exp(q["log_run_sd"]).mean() / y.mean())
        return _fit_of(data.law, theta, np.log(data.x), np.log(y), sd, not posterior.problems), None
    p = {n: v[:, s] for n, v in by_task(posterior.step1).items()}
    theta = _powers(p, data.law, series.centre_y[s] + p["level"], series.centre_x[s])
    sd, passed = float(np.exp(p["log_sigma"]).mean()), not posterior.problems
    step1 = _fit_of(data.law, theta, np.log(data.x), np.log(data.y), sd, passed)
    if not q or data.link is None:
        return step1, None
    half = np.exp(series.centre_y[s] + q["height"] / steepness)
    sd = float(np.exp(q["log_run_sd"]).mean())
    theta = np.stack([q["floor"], half, steepness], axis=-1)
    return step1, _fit_of(data.link, theta, data.y, data.final_accuracy, sd, passed)


def _powers(
    p: Mapping[str, np.ndarray], law: Law, log_level: np.ndarray, centre_x: np.ndarray
) -> np.ndarray:
    """Scales, exponents and constant of a law, from draws (B,) of its shape: shape (B, 2 K + 1)."""
    floor, n = expit(p["logit_floor"]), len(law.terms)
    share = expit(p["logit_share"]) if n == 2 else np.ones_like(floor)
    theta = np.empty((len(floor), 2 * n + 1))
    theta[:, -1] = np.exp(log_level) * floor
    for own, (scale, exponent, i) in zip((share, 1 - share), law.terms, strict=False):
        theta[:, exponent] = np.exp(p[exponent_names(tuple(law.inputs))[i]])
        theta[:, scale] = log_level + np.log((1 - floor) * own) + theta[:, exponent] * centre_x[i]
    return theta


def _fit_of(
    curve: Curve, theta: np.ndarray, x: np.ndarray, y: np.ndarray, sd: float, converged: bool
) -> Fit[Curve]:
    """A fit from draws `theta` of shape (B, P)."""
    at = summarise(curve, theta.mean(axis=0), 0.0, x, y, converged)
    covariance = np.cov(theta, rowvar=False)
    scale = np.sqrt(np.maximum(np.diag(covariance), 1e-300))  # a ceiling of 1 does not vary
    spread = np.linalg.eigvalsh(covariance / np.outer(scale, scale))
    return replace(
        at,
        objective=float(at.residual_sd**2 * at.dof),
        covariance=covariance,
        residual_sd=sd,
        on_bound=(),
        condition=float(np.sqrt(spread[-1] / max(spread[0], 1e-300))),
    )
