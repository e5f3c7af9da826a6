"""Types of laws and links: functions, parameters, bounds, starts, methods and source.

A law maps logarithms of its inputs to the logarithm of a positive quantity: a loss, as a
log-sum-exp of terms affine in the log inputs, or (single step) an accuracy.  A link maps a feature
such as bits per byte to an accuracy.  Both are pure `jax.numpy` functions of one parameter
vector, so that gradients come from `jax.grad` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

INF = float("inf")
TASK_BY_TASK = ("paper", "least-squares", "bootstrap")  # methods that can fit any law
POOLED = ("bayes", "laplace")  # methods that fit all tasks together, with a model of their own
ALL_METHODS = (*POOLED, *TASK_BY_TASK)


@dataclass(frozen=True)
class Param:
    """One parameter: its name, the start of the paper's search, and its bounds."""

    name: str
    start: float
    lower: float = -INF
    upper: float = INF


class _Parameters:
    params: tuple[Param, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.params)

    @property
    def start(self) -> np.ndarray:
        return np.array([p.start for p in self.params])

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds, each of shape (P,)."""
        return np.array([p.lower for p in self.params]), np.array([p.upper for p in self.params])


@dataclass(frozen=True)
class Law(_Parameters):
    """A scaling law.

    Attributes:
        name: for messages.
        inputs: columns of the measurement table, in the order of `log_x`'s last axis.
        params: in the order of `theta`.
        log_mean: (theta of shape (P,), log_x of shape (..., I)) -> log prediction, shape (...).
        starts: (log_x of shape (M, I), log_y of shape (M,)) -> starts of a search, shape (S, P).
        terms: for each power term the index of its scale, of its exponent and of its input.
        citation: paper and equation.
        of_accuracy: whether the law gives an accuracy, so that no link is needed.
        methods: names of the methods that can fit it.  The pooled methods, bayes and laplace, have
            their own model, which contains only the laws of N and D and of compute alone; they are
            the only ones that do not take the logarithm of an accuracy.
    """

    name: str
    inputs: tuple[str, ...]
    params: tuple[Param, ...]
    log_mean: Callable[[jax.Array, jax.Array], jax.Array]
    starts: Callable[[np.ndarray, np.ndarray], np.ndarray]
    terms: tuple[tuple[int, int, int], ...]
    citation: str
    of_accuracy: bool = False
    methods: tuple[str, ...] = TASK_BY_TASK

    def pivot(self, log_x: np.ndarray) -> np.ndarray:
        """Matrix (P, P) from theta to coordinates with scales at the centre of log_x (M, I)."""
        matrix = np.eye(len(self.params))
        for scale, exponent, i in self.terms:
            matrix[scale, exponent] = -log_x[:, i].mean()
        return matrix


@dataclass(frozen=True)
class Link(_Parameters):
    """A curve from a task feature to accuracy.

    Attributes:
        name: for messages.
        params: in the order of `theta`.
        mean: (theta of shape (P,), x of any shape) -> accuracy of that shape.
        anchor: an artificial point (feature, accuracy) that the paper adds to the data, or None.
        starts: (x, y, each of shape (M,)) -> starts of a search, shape (S, P).
        citation: paper and equation.
    """

    name: str
    params: tuple[Param, ...]
    mean: Callable[[jax.Array, jax.Array], jax.Array]
    anchor: tuple[float, float] | None
    starts: Callable[[np.ndarray, np.ndarray], np.ndarray]
    citation: str


def sum_of_powers(logs: list[jax.Array], constant: jax.Array) -> jax.Array:
    """log(sum of exp(logs) + constant), differentiable at constant = 0."""
    top = jnp.max(jnp.stack(logs), axis=0)
    scaled = sum(jnp.exp(t - top) for t in logs) + constant * jnp.exp(-top)
    return top + jnp.log(scaled)
