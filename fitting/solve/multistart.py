"""Best minima of the paper's objectives: all tasks, resamples and starts are fitted at once.

Functions take the observations of T tasks that share their R runs, and B rows of run weights
(resamples, subsets); results lie on axes (B, T, ...).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fitting.laws import Law, Link
from fitting.observations.arrays import Observations
from fitting.solve import batched
from fitting.solve.batched import Solution
from fitting.solve.fit import Fit, summarise, with_anchor
from fitting.solve.lbfgs import fit_law
from fitting.solve.objectives import HUBER_DELTA


def laws(data: Sequence[Observations], weights: np.ndarray, starts: np.ndarray) -> Solution:
    """Fits the law of step 1.

    Args:
        data: of T tasks with one law.
        weights: of the runs, shape (B, R).
        starts: shape (T, S, P), or (B, T, S, P).

    Returns:
        theta (B, T, P), the Huber sums (B, T) and whether they are stationary (B, T).
    """
    law, n, n_tasks = data[0].law, len(weights), len(data)
    log_x, log_y = np.log([p.x for p in data]), np.log([p.y for p in data])
    found = batched.solve(
        law.log_mean,
        law.bounds,
        np.broadcast_to(starts, (n, n_tasks, *starts.shape[-2:])).reshape(-1, *starts.shape[-2:]),
        np.tile(log_x, (n, 1, 1)),
        np.tile(log_y, (n, 1)),
        np.repeat(weights, n_tasks, axis=0),
        HUBER_DELTA,
        law.pivot(log_x[0]),
    )
    return _shaped(found, n)


def links(
    data: Sequence[Observations], link: Link, weights: np.ndarray, starts: np.ndarray
) -> Solution:
    """Fits the link of step 2; a checkpoint has the weight of its run, the anchor always 1.

    Args:
        data: of T tasks with this link.
        link: what to fit.
        weights: of the runs, shape (B, R).
        starts: shape (T, S, P), or (B, T, S, P).

    Returns:
        theta (B, T, P), half the sums of squares (B, T) and whether they are stationary (B, T).
    """
    n, n_tasks, n_runs = len(weights), len(data), weights.shape[1]
    sets = [with_anchor(link, p.feature, p.accuracy) for p in data]
    longest = max(len(y) for _, y in sets)
    x, y = np.ones((n_tasks, longest)), np.zeros((n_tasks, longest))
    run = np.full((n_tasks, longest), n_runs + 1)  # the padding
    for t, (task, (feature, accuracy)) in enumerate(zip(data, sets, strict=True)):
        x[t, : len(feature)], y[t, : len(feature)] = feature, accuracy
        run[t, : len(feature)] = n_runs  # the anchor
        run[t, : len(task.run)] = task.run
    known = np.concatenate([weights, np.ones((n, 1)), np.zeros((n, 1))], axis=1)
    found = batched.solve(
        link.mean,
        link.bounds,
        np.broadcast_to(starts, (n, n_tasks, *starts.shape[-2:])).reshape(-1, *starts.shape[-2:]),
        np.tile(x, (n, 1)),
        np.tile(y, (n, 1)),
        known[:, run].reshape(n * n_tasks, -1),
    )
    return _shaped(found, n)


def _shaped(found: Solution, n: int) -> Solution:
    return Solution(*(v.reshape(n, -1, *v.shape[1:]) for v in found))


def best_laws(data: Sequence[Observations]) -> list[Fit[Law]]:
    """Fits each task's law at the best minimum of many starts, the paper's result among them."""
    law = data[0].law
    starts = []
    for task in data:
        published = fit_law(law, task.x, task.y).theta  # so that the best is never worse than it
        own = law.starts(np.log(task.x), np.log(task.y))
        starts.append(np.concatenate([law.start[None], published[None], own]))
    found = laws(data, np.ones((1, len(data[0].y))), np.array(starts))
    return [
        summarise(
            law, theta, float(objective), np.log(task.x), np.log(task.y), bool(converged),
            HUBER_DELTA,
        )
        for task, theta, objective, converged in zip(
            data, found.theta[0], found.objective[0], found.converged[0], strict=True
        )
    ]  # fmt: skip


def best_links(data: Sequence[Observations]) -> list[Fit[Link] | None]:
    """Fits each task's link at the best minimum of many starts; None for a task without a link."""
    fits: list[Fit[Link] | None] = [None] * len(data)
    link, which = _with_links(data)
    if link is None:
        return fits
    linked = [data[t] for t in which]
    own = [link.starts(task.feature, task.accuracy) for task in linked]
    starts = np.array([np.concatenate([link.start[None], s]) for s in own])
    found = links(linked, link, np.ones((1, len(data[0].y))), starts)
    for i, t in enumerate(which):
        x, y = with_anchor(link, data[t].feature, data[t].accuracy)
        objective, converged = 2 * float(found.objective[0, i]), bool(found.converged[0, i])
        fits[t] = summarise(link, found.theta[0, i], objective, x, y, converged)
    return fits


def links_of_tasks(
    data: Sequence[Observations], weights: np.ndarray, starts: Sequence[np.ndarray | None]
) -> list[np.ndarray | None]:
    """Fits each task's link to B resamples of the runs.

    Args:
        data: of T tasks.
        weights: of the runs, shape (B, R).
        starts: one per task, shape (P,); None for a task without a link.

    Returns:
        Parameters of shape (B, P) for each task, None for a task without a link.
    """
    thetas: list[np.ndarray | None] = [None] * len(data)
    link, which = _with_links(data)
    if link is None:
        return thetas
    each = np.array([[start] for start in starts if start is not None])
    found = links([data[t] for t in which], link, weights, each)
    for i, t in enumerate(which):
        thetas[t] = found.theta[:, i]
    return thetas


def _with_links(data: Sequence[Observations]) -> tuple[Link | None, list[int]]:
    """The link that the tasks with a second step share, and the positions of those tasks."""
    which = [t for t, task in enumerate(data) if task.link is not None]
    return (data[which[0]].link if which else None), which
