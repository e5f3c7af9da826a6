"""The two steps fitted to subsets of the runs: many at once, and what each would have forecast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from fitting import converge
from fitting.gather import Points
from fitting.laws import Link
from fitting.optimise import search_law, search_link, with_anchor
from fitting.table import InputError

_STARTS = 5  # of a law, the first of its own


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
    """What B subsets forecast of G runs for T tasks, each of shape (B, T, G).

    Attributes:
        first: what the law gives.
        second: accuracy, the link taken at `first`; NaN without a link.
        through: accuracy, the link taken at the measured feature; NaN without a link.
    """

    first: np.ndarray
    second: np.ndarray
    through: np.ndarray


def fit(data: Sequence[Points], chosen: np.ndarray, method: str) -> Fits:
    """Fits tasks that share their runs, law and link to subsets of the runs.

    Fewer runs than parameters are allowed: such fits interpolate, and forecast nothing.

    Args:
        data: of T tasks.
        chosen: which runs each subset holds, booleans of shape (B, R).
        method: `paper` (its one start and optimisers) or `least-squares` (several starts).
    """
    if method == "paper":
        return _one_by_one(data, chosen)
    if method != "least-squares":
        raise InputError(f"--method {method}: subsets are fitted by paper or least-squares")
    weights = np.asarray(chosen, float)
    log_x, log_y = np.log([p.x for p in data]), np.log([p.y for p in data])
    law, link = data[0].law, data[0].link
    starts = np.array([
        [law.starts(x[some], y[some])[:_STARTS] for x, y in zip(log_x, log_y, strict=True)]
        for some in chosen
    ])  # fmt: skip
    first = converge.laws(data, weights, starts)
    if link is None:
        return Fits(first.theta, first.objective, None, None)
    second = converge.links(data, link, weights, _link_starts(data, link))
    return Fits(first.theta, first.objective, second.theta, 2 * second.objective)


def _link_starts(data: Sequence[Points], link: Link) -> np.ndarray:
    own = [link.starts(points.feature, points.accuracy) for points in data]
    return np.array([np.concatenate([link.start[None], starts]) for starts in own])


def _one_by_one(data: Sequence[Points], chosen: np.ndarray) -> Fits:
    law, link = data[0].law, data[0].link
    laws = [[search_law(law, p.x[some], p.y[some])[:2] for p in data] for some in chosen]
    first = [np.array([[fit[i] for fit in fits] for fits in laws]) for i in (0, 1)]
    if link is None:
        return Fits(*first, None, None)
    links = [
        [
            search_link(link, *with_anchor(link, p.feature[some[p.run]], p.accuracy[some[p.run]]))
            for p in data
        ]
        for some in chosen
    ]
    second = [np.array([[fit[i] for fit in fits] for fits in links]) for i in (0, 1)]
    return Fits(*first, *second)


def forecast(fits: Fits, data: Sequence[Points], x: np.ndarray, feature: np.ndarray) -> Forecasts:
    """What every subset forecasts.

    Args:
        fits: of `fit`.
        data: of the same tasks.
        x: law inputs of G runs, shape (T, G, I).
        feature: their measured features, shape (T, G).
    """
    with jax.enable_x64():
        of_goals = jax.vmap(data[0].law.log_mean)  # over tasks
        first = np.exp(np.asarray(jax.vmap(of_goals, (0, None))(fits.first, np.log(x))))
        unknown = np.full_like(first, np.nan)
        if fits.second is None or data[0].link is None:
            return Forecasts(first, unknown, unknown)
        of_tasks = jax.vmap(data[0].link.mean)
        second = np.asarray(jax.vmap(of_tasks)(fits.second, first))
        through = np.asarray(jax.vmap(of_tasks, (0, None))(fits.second, feature))
    return Forecasts(first, second, through)
