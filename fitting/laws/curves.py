"""Values and gradients of laws and links at given parameters, in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np

from fitting.laws.base import Law, Link


def predict(curve: Law | Link, theta: np.ndarray, x: np.ndarray | float) -> np.ndarray:
    """Value of a curve: a law at inputs of shape (..., I), a link at features of any shape."""
    with jax.enable_x64():
        if isinstance(curve, Law):
            return np.exp(np.asarray(_compiled(curve.log_mean)(theta, np.log(x))))
        return np.asarray(_compiled(curve.mean)(theta, np.asarray(x, float)))


@functools.cache
def _compiled(function: Callable) -> Callable:
    return jax.jit(function)


def gradient(curve: Law | Link, theta: np.ndarray, x: np.ndarray | float) -> np.ndarray:
    """Gradient of a law's log mean, or of a link's mean, with respect to theta; shape (P,).

    Args:
        curve: law or link.
        theta: shape (P,).
        x: one point: inputs of shape (I,) for a law, a feature for a link.
    """
    with jax.enable_x64():
        if isinstance(curve, Law):
            return np.asarray(_compiled_grad(curve.log_mean, 0)(theta, np.log(x)))
        return np.asarray(_compiled_grad(curve.mean, 0)(theta, np.float64(x)))


def slope(link: Link, theta: np.ndarray, x: float) -> float:
    """Derivative of a link's accuracy with respect to its feature."""
    with jax.enable_x64():
        return float(_compiled_grad(link.mean, 1)(theta, np.float64(x)))


@functools.cache
def _compiled_grad(function: Callable, argument: int) -> Callable:
    return jax.jit(jax.grad(function, argnums=argument))
