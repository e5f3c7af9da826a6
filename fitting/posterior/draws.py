"""Draws of the sites of a NumPyro model, and the numerics and coordinates in which they are made.

Models are called with arrays alone, so that one compilation serves all tables of one shape.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to
from numpyro.infer.util import constrain_fn

Model = Callable[..., None]
N_CHAINS, N_DRAWS = 4, 700  # of one posterior; both steps have as many, to be paired


@contextlib.contextmanager
def numerics() -> Iterator[None]:
    """float64 on the CPU, and broadcasting between ranks, which NumPyro's distributions need."""
    cpu = jax.local_devices(backend="cpu")[0]  # other processors would draw other numbers
    with jax.enable_x64(), jax.numpy_rank_promotion("allow"), jax.default_device(cpu):
        yield


@dataclass(frozen=True)
class Draws:
    """Draws of a model's sites.

    Attributes:
        values: by site, shape (chains, draws, ...).
        stats: of NUTS, by name, shape (chains, draws); empty for Laplace.
        health: r_hat, ess, divergent, bfmi: their worst values; empty for Laplace.
        problems: why the draws are not to be trusted, in words; empty if they passed all checks.
        attempts: what was tried before, and why it was given up, in words.
    """

    values: dict[str, np.ndarray]
    stats: dict[str, np.ndarray]
    health: dict[str, float]
    problems: tuple[str, ...]
    attempts: tuple[str, ...] = ()

    def flat(self) -> dict[str, np.ndarray]:
        """By site, chains joined: shape (draws, ...)."""
        return {name: v.reshape(-1, *v.shape[2:]) for name, v in self.values.items()}


def named(model: Model, flat: jax.Array, arguments: tuple[jax.Array, ...]) -> dict[str, np.ndarray]:
    """Sites at each of B vectors; sites in units of their priors, named `NAME_`, are left out."""
    found = _constrain(model)(flat, arguments)
    return {name: np.asarray(v) for name, v in found.items() if not name.endswith("_")}


@functools.cache
def _constrain(model: Model) -> Callable:
    def all_sites(flat: jax.Array, arguments: tuple[jax.Array, ...]) -> dict[str, Any]:
        _, unravel = flat_start(model, arguments)
        return jax.vmap(
            lambda x: constrain_fn(model, arguments, {}, unravel(x), return_deterministic=True)
        )(flat)

    return jax.jit(all_sites)


def flat_start(model: Model, arguments: tuple[jax.Array, ...]) -> tuple[jax.Array, Callable]:
    """Unconstrained prior means as one vector, and the function from vector to sites."""
    at_means = numpyro.handlers.substitute(model, substitute_fn=_prior_mean)
    seeded = numpyro.handlers.seed(at_means, jax.random.key(0))
    trace = numpyro.handlers.trace(seeded).get_trace(*arguments)
    start = {
        name: biject_to(site["fn"].support).inv(site["value"])
        for name, site in trace.items()
        if site["type"] == "sample" and not site["is_observed"]
    }
    return ravel_pytree(start)


def _prior_mean(site: Mapping[str, Any]) -> jax.Array | None:
    if site["type"] != "sample" or site.get("is_observed"):
        return None
    normal = site["fn"]
    return jnp.broadcast_to(normal.mean, normal.shape()).astype(float)
