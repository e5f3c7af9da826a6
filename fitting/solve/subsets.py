"""The two steps fitted to many subsets of the runs, and the forecast from each subset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fitting.errors import InputError
from fitting.laws import Link
from fitting.observations.arrays import Observations
from fitting.solve import multistart
from fitting.solve.fit import with_anchor
from fitting.solve.lbfgs import Found, search_law, search_link

_STARTS = 9  # of each curve's starts, the first ones


class Fits(NamedTuple):
    """Fits of T tasks to B subsets.

    Attributes:
        first: parameters of the law, shape (B, T, P).
        first_objective: Huber sums, shape (B, T).
        second: parameters of the link, shape (B, T, Q), or None.
        second_objective: sums of squares, shape (B, T), or None.
    """

    first: np.ndarray
    first_objective: np.ndarray
    second: np.ndarray | None
    second_objective: np.ndarray | None


class Forecasts(NamedTuple):
    """Forecasts of G runs for T tasks from B subsets, each of shape (B, T, G).

    Attributes:
        first: the law at the runs' inputs.
        second: accuracy, the link taken at `first`; NaN without a link.
        through: accuracy, the link taken at the measured feature; NaN without a link.
    """

    first: np.ndarray
    second: np.ndarray
    through: np.ndarray


def fit(data: Sequence[Observations], chosen: np.ndarray, method: str) -> Fits:
    """Fits tasks that share their runs, law and link to subsets of the runs.

    Fewer runs than parameters are allowed: such fits interpolate, and their forecasts mean nothing.

    Args:
        data: observations of T tasks.
        chosen: which runs each subset holds, booleans of shape (B, R).
        method: `paper` (its one start and optimisers) or `least-squares` (several starts).
    """
    if method == "paper":
        return _one_by_one(data, chosen)
    if method != "least-squares":
        raise InputError(f"`method` {method}: subsets are fitted by paper or least-squares")
    weights = np.asarray(chosen, float)
    log_x, log_y = np.log([p.x for p in data]), np.log([p.y for p in data])
    law, link = data[0].law, data[0].link
    starts = np.array([
        [law.starts(x[some], y[some])[:_STARTS] for x, y in zip(log_x, log_y, strict=True)]
        for some in chosen
    ])  # fmt: skip
    first = multistart.laws(data, weights, starts)
    if link is None:
        return Fits(first.theta, first.objective, None, None)
    second = multistart.links(data, link, weights, _link_starts(data, link, chosen))
    return Fits(first.theta, first.objective, second.theta, 2 * second.objective)


def _link_starts(data: Sequence[Observations], link: Link, chosen: np.ndarray) -> np.ndarray:
    """Shape (B, T, S, Q), from each subset's own checkpoints."""
    return np.array([
        [
            [link.start, *link.starts(p.feature[some[p.run]], p.accuracy[some[p.run]])[:_STARTS]]
            for p in data
        ]
        for some in chosen
    ])  # fmt: skip


def _one_by_one(data: Sequence[Observations], chosen: np.ndarray) -> Fits:
    law, link = data[0].law, data[0].link
    laws = [[search_law(law, p.x[some], p.y[some]) for p in data] for some in chosen]
    first, first_objective = _split(laws)
    if link is None:
        return Fits(first, first_objective, None, None)
    links = []
    for some in chosen:
        sets = [with_anchor(link, p.feature[some[p.run]], p.accuracy[some[p.run]]) for p in data]
        links.append([search_link(link, x, y) for x, y in sets])
    return Fits(first, first_objective, *_split(links))


def _split(fits: list[list[Found]]) -> tuple[np.ndarray, np.ndarray]:
    """Parameters (B, T, P) and objectives (B, T)."""
    return (
        np.array([[end.theta for end in row] for row in fits]),
        np.array([[end.objective for end in row] for row in fits]),
    )


def forecast(
    fits: Fits, data: Sequence[Observations], x: np.ndarray, feature: np.ndarray
) -> Forecasts:
    """Forecasts of some runs from every subset.

    Args:
        fits: as `fit` gives them.
        data: observations of the same tasks.
        x: law inputs of G runs, shape (T, G, I).
        feature: their measured features, shape (T, G).
    """
    with jax.enable_x64():
        theta, log_x = jnp.asarray(fits.first), jnp.log(x)
        of_runs = jax.vmap(data[0].law.log_mean)  # over tasks
        first = jnp.exp(jax.vmap(of_runs, (0, None))(theta, log_x))
        if fits.second is None or data[0].link is None:
            unknown = np.full(first.shape, np.nan)
            return Forecasts(np.asarray(first), unknown, unknown)
        of_tasks, theta = jax.vmap(data[0].link.mean), jnp.asarray(fits.second)
        second = jax.vmap(of_tasks)(theta, first)
        through = jax.vmap(of_tasks, (0, None))(theta, jnp.asarray(feature))
        return Forecasts(np.asarray(first), np.asarray(second), np.asarray(through))
