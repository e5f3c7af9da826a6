"""Predictive distributions as quantile functions on a grid, the same form for every method.

Scores are proper (Gneiting and Raftery, JASA 102, 2007): lower is better, and a
forecaster expects the lowest score from the distribution that it believes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

_GRID = np.arange(1, 200) / 200


def probabilities(levels: Iterable[float]) -> np.ndarray:
    """Probabilities of quantiles, ascending: a grid and the ends of central intervals, (Q,)."""
    ends = [0.5 + sign * level / 2 for level in levels for sign in (-1, 1)]
    return np.unique(np.round(np.concatenate([_GRID, ends]), 12))


def interval(p: np.ndarray, quantiles: np.ndarray, level: float) -> tuple[float, float]:
    """Central interval at a level, from quantiles (Q,) at p (Q,)."""
    low, high = np.interp([0.5 - level / 2, 0.5 + level / 2], p, quantiles)
    return float(low), float(high)


def crps(p: np.ndarray, quantiles: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score: twice the integral of the pinball loss, on the grid.

    Args:
        p: shape (Q,).
        quantiles: shape (..., Q).
        actual: shape (...).
    """
    on_grid = np.isin(p, np.round(_GRID, 12))
    miss = actual[..., None] - quantiles[..., on_grid]
    pinball = miss * (p[on_grid] - (miss < 0))
    return 2 * pinball.sum(axis=-1) / (on_grid.sum() + 1)  # 0 at p = 0 and p = 1


def interval_score(
    low: np.ndarray, high: np.ndarray, actual: np.ndarray, level: float
) -> np.ndarray:
    """Width of a central interval, plus 2 / (1 - level) times the distance of any miss."""
    miss = np.maximum(low - actual, 0) + np.maximum(actual - high, 0)
    return high - low + 2 / (1 - level) * miss


def mixture(p: np.ndarray, quantiles: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Quantiles of a mixture of distributions (a linear pool).

    Args:
        p: shape (Q,).
        quantiles: of each component, shape (..., Q).
        weights: one per component.
    """
    parts = np.stack([np.asarray(q) for q in quantiles])
    share = np.asarray(weights, float) / np.sum(weights)
    flat = parts.reshape(len(parts), -1, parts.shape[-1])
    mixed = np.empty(flat.shape[1:])
    for i in range(flat.shape[1]):
        at = np.sort(flat[:, i].ravel())
        below = [np.interp(at, q, p, left=0.0, right=1.0) for q in flat[:, i]]
        total = share @ np.array(below)
        # Where no component has mass, the distribution function is flat: keep one point of it.
        mixed[i] = np.interp(p, *_rising(total, at))
    return mixed.reshape(parts.shape[1:])


def _rising(total: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep = np.append(True, np.diff(total) > 0)
    return total[keep], at[keep]


def density(
    p: np.ndarray, quantiles: np.ndarray, points: int = 120
) -> tuple[np.ndarray, np.ndarray]:
    """Smooth density for a figure: positions and heights, from quantiles (Q,) at p (Q,)."""
    mass, at = np.diff(p), (quantiles[1:] + quantiles[:-1]) / 2
    low, high = interval(p, quantiles, 0.68)
    spread = (high - low) / 2
    bandwidth = max(0.35 * spread, 1e-4)
    places = np.linspace(quantiles[0] - bandwidth, quantiles[-1] + bandwidth, points)
    hills = np.exp(-0.5 * ((places[:, None] - at) / bandwidth) ** 2)
    return places, hills @ mass / (mass.sum() * bandwidth * np.sqrt(2 * np.pi))
