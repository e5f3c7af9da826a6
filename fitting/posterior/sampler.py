"""Draws from the posterior of a NumPyro model, by NUTS or by Laplace's approximation, and checks of
them.

Models are called with arrays alone, so that one compilation serves all tables of one shape.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to
from numpyro.infer.hmc import HMCState, hmc
from numpyro.infer.util import constrain_fn, potential_energy

N_CHAINS, N_WARMUP, N_DRAWS = 4, 400, 700
MAX_R_HAT, MIN_ESS, MAX_DIVERGENT, MIN_BFMI = 1.01, 400.0, 0.002, 0.3
_CAREFUL = 0.98  # target acceptance of the second attempt, if the first fails its checks
_MAX_DEPTH = 8
_JITTER = 0.1  # of the chains' starts about the prior's mean, in unconstrained coordinates
_MAX_NEWTON = 150
STATIONARY = 1e-3  # distance from a mode, in posterior standard deviations

Model = Callable[..., None]


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
    """

    values: dict[str, np.ndarray]
    stats: dict[str, np.ndarray]
    health: dict[str, float]
    problems: tuple[str, ...]

    def flat(self) -> dict[str, np.ndarray]:
        """By site, chains joined: shape (draws, ...)."""
        return {name: v.reshape(-1, *v.shape[2:]) for name, v in self.values.items()}


def nuts(model: Model, arguments: tuple[np.ndarray, ...], seed: int) -> Draws:
    """Draws by the No-U-Turn sampler (Hoffman and Gelman, JMLR 15, 2014), in float64.

    A run that fails its checks is repeated once, with smaller steps and a warm-up twice as long.
    """
    draws = run_nuts(model, arguments, seed)
    if draws.problems:
        draws = run_nuts(model, arguments, seed + 1, n_warmup=2 * N_WARMUP, target=_CAREFUL)
    return draws


def run_nuts(
    model: Model,
    arguments: tuple[np.ndarray, ...],
    seed: int,
    n_chains: int = N_CHAINS,
    n_warmup: int = N_WARMUP,
    n_draws: int = N_DRAWS,
    target: float = 0.9,
) -> Draws:
    """Samples once and checks the draws.

    Args:
        model: whose posterior is sampled.
        arguments: of the model.
        seed: of the chains.
        n_chains: number of chains.
        n_warmup: steps of each chain that adapt it and are left out.
        n_draws: kept of each chain.
        target: mean acceptance probability that the step size is adapted to.
    """
    with numerics():
        keys = jax.random.split(jax.random.key(seed), n_chains)
        given = tuple(jnp.asarray(a) for a in arguments)
        flat, extra = _chains(model, n_warmup, n_draws, target)(keys, given)
        values = _constrain(model)(flat.reshape(-1, flat.shape[-1]), given)
    shape = flat.shape[:2]
    found = {name: np.asarray(v).reshape(*shape, *v.shape[1:]) for name, v in values.items()}
    stats = {name: np.asarray(v) for name, v in extra.items()}
    health = _health(found, stats)
    return Draws(found, stats, health, _problems(health))


@functools.lru_cache(maxsize=32)
def _chains(model: Model, n_warmup: int, n_draws: int, target: float) -> Callable:
    """NUTS from the first step to the last, compiled at once, with the data as arguments.

    NumPyro's `MCMC` compiles each operation of a model by itself first, which takes longer than the
    sampling; its functional kernel is the same sampler.
    """

    def chain(key: jax.Array, arguments: tuple[jax.Array, ...]) -> tuple:
        first, unravel = flat_start(model, arguments)
        key_start, key_kernel = jax.random.split(key)
        first = first + _JITTER * jax.random.normal(key_start, first.shape)

        def energy_of(*given: jax.Array) -> Callable:
            return lambda x: potential_energy(model, given, {}, unravel(x))

        start, advance = hmc(potential_fn_gen=energy_of, algo="NUTS")
        state = start(
            first,
            n_warmup,
            dense_mass=True,
            target_accept_prob=target,
            max_tree_depth=_MAX_DEPTH,
            model_args=arguments,
            rng_key=key_kernel,
        )

        def step(state: HMCState, _: None) -> tuple:
            state = advance(state, arguments)
            kept = {name: getattr(state, name) for name in ("diverging", "energy", "num_steps")}
            return state, (state.z, kept)

        _, (z, kept) = jax.lax.scan(step, state, None, length=n_warmup + n_draws)
        return z[n_warmup:], {name: v[n_warmup:] for name, v in kept.items()}

    # One after another: under vmap every chain would take as many leapfrog steps as the longest.
    return jax.jit(lambda keys, given: jax.lax.map(lambda key: chain(key, given), keys))


def _health(values: Mapping[str, np.ndarray], stats: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The worst r_hat, ESS, share of divergences and BFMI.

    r_hat is the rank-normalised split version, ESS the smaller of bulk and tail (Vehtari et al.
    2021).
    """
    from arviz_stats.base.array import array_stats

    columns = np.concatenate([v.reshape(*v.shape[:2], -1) for v in values.values()], axis=-1)
    columns = columns[..., ~(np.ptp(columns, axis=(0, 1)) == 0)]  # NaN stays, and fails
    r_hat = array_stats.rhat(columns, chain_axis=0, draw_axis=1)
    bulk = array_stats.ess(columns, chain_axis=0, draw_axis=1, method="bulk")
    tail = array_stats.ess(columns, chain_axis=0, draw_axis=1, method="tail", prob=(0.05, 0.95))
    energy = stats["energy"]
    bfmi = np.square(np.diff(energy, axis=1)).mean(1) / energy.var(axis=1)  # Betancourt 2016
    return {
        "r_hat": float(np.max(r_hat)),
        "ess": float(min(np.min(bulk), np.min(tail))),
        "divergent": float(stats["diverging"].mean()),
        "bfmi": float(bfmi.min()),
    }


def _problems(health: Mapping[str, float]) -> tuple[str, ...]:
    """The checks that failed, in words; comparisons are written so that NaN fails them."""
    failed = []
    if not health["r_hat"] <= MAX_R_HAT:
        failed.append(f"r_hat {health['r_hat']:.3f} above {MAX_R_HAT}")
    if not health["ess"] >= MIN_ESS:
        failed.append(f"effective sample size {health['ess']:.0f} below {MIN_ESS:.0f}")
    if not health["divergent"] <= MAX_DIVERGENT:
        failed.append(f"{health['divergent']:.2%} of draws diverge, above {MAX_DIVERGENT:.1%}")
    if not health["bfmi"] >= MIN_BFMI:
        failed.append(f"E-BFMI {health['bfmi']:.2f} below {MIN_BFMI}")
    return tuple(failed)


def laplace(
    model: Model, arguments: tuple[np.ndarray, ...], seed: int, n_draws: int = N_CHAINS * N_DRAWS
) -> Draws:
    """Draws from the normal approximation at the mode, in unconstrained coordinates, float64."""
    with numerics():
        batch = tuple(jnp.asarray(a)[None] for a in arguments)
        mode, factor, distance = (v[0] for v in modes(model, batch))
        z = np.random.default_rng(seed).standard_normal((n_draws, len(mode)))
        values = _constrain(model)(mode + z @ np.asarray(factor).T, tuple(a[0] for a in batch))
    found = {name: np.asarray(v)[None] for name, v in values.items()}
    converged = float(distance) < STATIONARY and bool(np.all(np.isfinite(np.asarray(factor))))
    problems = () if converged else ("the search for the posterior's mode did not converge",)
    return Draws(found, {}, {}, problems)


class Modes(NamedTuple):
    """Modes of B posteriors with P parameters, in unconstrained coordinates.

    Attributes:
        mode: shape (B, P).
        factor: F of shape (B, P, P), with F F' the inverse Hessian.
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
    return Modes(*_modes(model)(arguments))


@functools.cache
def _modes(model: Model) -> Callable:
    def one(arguments: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
        start, unravel = flat_start(model, arguments)
        return _newton(lambda x: potential_energy(model, arguments, {}, unravel(x)), start)

    return jax.jit(jax.vmap(one))


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


def _newton(energy: Callable, start: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
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
    upper = jnp.linalg.cholesky(curvature).T
    factor = jax.scipy.linalg.solve_triangular(upper, eye)
    return x, factor, jnp.linalg.norm(factor.T @ gradient)
