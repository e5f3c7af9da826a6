"""Links: curves from a feature to accuracy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fitting.laws.base import INF, Link, Param


def _sigmoid_starts(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Starts: centres and slopes on a grid, height and offset by linear regression; best first."""
    starts, centred = [], y - y.mean()
    for centre in np.quantile(x, (0.1, 0.5, 0.9)):
        for slope in np.array([0.5, 1.5, 4.0]) / max(np.std(x), 1e-9):
            s = 1.0 / (1.0 + np.exp(-slope * (x - centre)))
            height = np.clip(s @ centred / max(s @ (s - s.mean()), 1e-300), -1.0, 0.0)
            foot = np.clip(y.mean() - height * s.mean(), 0.0, 1.0)
            miss = np.sum((height * s + foot - y) ** 2)
            starts.append((miss, [height, max(centre, 0.0), slope, foot]))
    return np.array([start for _, start in sorted(starts)])


def _log_sigmoid_starts(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    slopes = np.array([1.0, 5.0, 20.0]) / max(np.std(x), 1e-9)
    return np.array([[-0.1, c, k] for c in np.quantile(x, (0.5, 0.9)) for k in slopes])


def _sigmoid(theta: jax.Array, x: jax.Array) -> jax.Array:
    a, x0, k, b = theta
    return a * jax.nn.sigmoid(k * (x - x0)) + b


def _log_sigmoid(theta: jax.Array, x: jax.Array) -> jax.Array:
    a, x0, k = theta
    return 1.0 - a * jnp.log(1.0 - 1.0 / (1.0 + jnp.exp(-k * (x - x0))))


def _hill(theta: jax.Array, x: jax.Array) -> jax.Array:
    c, x0, k = theta
    return c + (1.0 - c) * jax.nn.sigmoid(k * (jnp.log(x0) - jnp.log(x)))


def _hill_starts(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    low = 0.9 * y.min()
    return np.array([[low, x0, k] for x0 in np.quantile(x, (0.1, 0.5)) for k in (2.0, 5.0, 10.0)])


# The paper starts a at chance - 1, but a wrong argument position in its chained command makes it
# -1.  This changes only the result of BoolQ (by .012 point), which is not one of its eight tasks.
SIGMOID = Link(
    name="Acc(L) = a sigmoid(k (L - L0)) + b",
    params=(
        Param("a", -1.0, -1.0, 0.0),
        Param("L0", 0.9, 0.0),
        Param("k", 3.0, 0.0),
        Param("b", 1.0, 0.0, 1.0),
    ),
    mean=_sigmoid,
    anchor=(0.0, 1.0),
    starts=_sigmoid_starts,
    citation="arXiv 2412.04403, Eq. 2; starts and bounds of its published code",
)
LOG_SIGMOID = Link(
    name="Acc(L) = 1 - a log sigmoid(-k (L - L0))",
    params=(Param("a", -0.1, -INF, 0.0), Param("L0", 0.9, 0.0), Param("k", 3.0, 0.0)),
    mean=_log_sigmoid,
    anchor=None,
    starts=_log_sigmoid_starts,
    citation="arXiv 2412.04403, Eq. 7; starts and bounds of its published code",
)
HILL = Link(
    name="Acc(L) = c + (1 - c) / (1 + (L / L0)^k)",
    params=(Param("c", 0.25, 0.0, 1.0), Param("L0", 0.9, 1e-6), Param("k", 5.0, 0.0)),
    mean=_hill,
    anchor=None,
    starts=_hill_starts,
    citation="Hill's curve: 1 where the loss is 0 by construction, and no artificial point",
)
