"""Laplace's approximation of the posterior of a NumPyro model: its mode, and draws about it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import potential_energy

from fitting.posterior.draws import N_CHAINS, N_DRAWS, Draws, Model, flat_start, named, numerics

_MAX_NEWTON = 150
_LEAST_CURVATURE = 0.3  # of the log density at its mode; smaller ones are taken as this
STATIONARY = 1e-3  # distance from a mode, in posterior standard deviations


def sample(
    model: Model, arguments: tuple[np.ndarray, ...], seed: int, n_draws: int = N_CHAINS * N_DRAWS
) -> Draws:
    """Draws from the normal approximation at the mode, in unconstrained coordinates, float64."""
    with numerics():
        batch = tuple(jnp.asarray(a)[None] for a in arguments)
        mode, factor, distance = (v[0] for v in modes(model, batch))
        z = np.random.default_rng(seed).standard_normal((n_draws, len(mode)))
        values = named(model, mode + z @ np.asarray(factor).T, tuple(a[0] for a in batch))
    found = {name: v[None] for name, v in values.items()}
    converged = float(distance) < STATIONARY and bool(np.all(np.isfinite(np.asarray(factor))))
    problems = () if converged else ("the search for the posterior's mode did not converge",)
    return Draws(found, {}, {}, problems)


class Modes(NamedTuple):
    """Modes of B posteriors with P parameters, in unconstrained coordinates.

    Attributes:
        mode: shape (B, P).
        factor: F of shape (B, P, P), with F F' the inverse Hessian, its eigenvalues bounded.
        distance: from the exact mode, in posterior standard deviations, shape (B,).
    """

    mode: jax.Array
    factor: jax.Array
    distance: jax.Array


def modes(model: Model, arguments: tuple[jax.Array, ...]) -> Modes:
    """Finds the modes of B posteriors; call it within `numerics`.

    Args:
        model: one whose density has a mode.
        arguments: each with a leading axis B.
    """
    return _modes(model)(arguments)


@functools.cache
def _modes(model: Model) -> Callable:
    return jax.jit(jax.vmap(lambda arguments: mode_of(model, arguments)))


def mode_of(model: Model, arguments: tuple[jax.Array, ...]) -> Modes:
    """The mode of one posterior; the parts of the result have no leading axis."""
    start, unravel = flat_start(model, arguments)
    return _newton(lambda x: potential_energy(model, arguments, {}, unravel(x)), start)


def _newton(energy: Callable, start: jax.Array) -> Modes:
    """Damped Newton steps to a minimum, and a factor of the inverse Hessian there."""
    value_and_grad, hessian = jax.value_and_grad(energy), jax.hessian(energy)
    eye = jnp.eye(len(start))

    def unfinished(state: tuple) -> jax.Array:
        *_, damping, decrement, count = state
        arrived = (decrement < STATIONARY**2 / 100) & (damping < 1e-3)
        return ~arrived & (count < _MAX_NEWTON)

    def step(state: tuple) -> tuple:
        x, value, gradient, curvature, damping, _, count = state
        factor = jnp.linalg.cholesky(curvature + damping * eye)
        change = -jax.scipy.linalg.cho_solve((factor, True), gradient)
        new_value, new_gradient = value_and_grad(x + change)
        better = new_value <= value  # False for a factor that failed
        x = jnp.where(better, x + change, x)
        return (
            x,
            jnp.where(better, new_value, value),
            jnp.where(better, new_gradient, gradient),
            hessian(x),
            jnp.where(better, damping / 8, jnp.maximum(4 * damping, 1e-4)),
            jnp.where(jnp.isfinite(change).all(), -gradient @ change, jnp.inf),
            count + 1,
        )

    value, gradient = value_and_grad(start)
    state = (start, value, gradient, hessian(start), jnp.asarray(1.0), jnp.asarray(jnp.inf), 0)
    x, _, gradient, curvature, *_ = jax.lax.while_loop(unfinished, step, state)
    # Student t noise may leave the density flat in some direction at a mode; priors of unit
    # variance still bound the posterior.
    values, vectors = jnp.linalg.eigh(curvature)
    factor = vectors / jnp.sqrt(jnp.maximum(values, _LEAST_CURVATURE))
    return Modes(x, factor, jnp.linalg.norm(factor.T @ gradient))
