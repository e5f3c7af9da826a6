"""Draws from the posterior of a NumPyro model by NUTS, and checks of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.hmc import HMCState, hmc
from numpyro.infer.util import potential_energy

from fitting.posterior import laplace
from fitting.posterior.draws import N_CHAINS, N_DRAWS, Draws, Model, flat_start, named, numerics
from fitting.posterior.laplace import Modes

N_WARMUP = 400
MAX_R_HAT, MIN_ESS, MAX_DIVERGENT, MIN_BFMI = 1.01, 400.0, 0.002, 0.3
_LONGER, _CAREFUL = 3, 0.98  # chains' length and target acceptance of the second attempt
_NEAR = 1.03  # r_hat below which longer chains may pass
_MAX_DEPTH = 8


def nuts(model: Model, arguments: tuple[np.ndarray, ...], seed: int) -> Draws:
    """Draws by the No-U-Turn sampler (Hoffman and Gelman, JMLR 15, 2014), in float64.

    Chains that fail their checks are repeated once, longer and with smaller steps, if that may
    help; if these fail too, the draws are Laplace's.  `attempts` of the draws says so.
    """
    first = run_nuts(model, arguments, seed)
    if not first.problems:
        return first
    tried = (f"NUTS: {', '.join(first.problems)}",)
    if not first.health["r_hat"] < _NEAR:  # chains in different places, or NaN
        return replace(laplace.sample(model, arguments, seed), attempts=tried)
    second = run_nuts(
        model, arguments, seed + 1, n_warmup=_LONGER * N_WARMUP, n_draws=_LONGER * N_DRAWS,
        target=_CAREFUL,
    )  # fmt: skip
    if not second.problems:  # as many draws as the other step has, to pair them
        values, stats = (
            {name: v[:, ::_LONGER] for name, v in draws.items()}
            for draws in (second.values, second.stats)
        )
        return replace(second, values=values, stats=stats, attempts=tried)
    tried += (f"NUTS, {_LONGER} times as long: {', '.join(second.problems)}",)
    return replace(laplace.sample(model, arguments, seed), attempts=tried)


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
        values = named(model, flat.reshape(-1, flat.shape[-1]), given)
    shape = flat.shape[:2]
    found = {name: v.reshape(*shape, *v.shape[1:]) for name, v in values.items()}
    stats = {name: np.asarray(v) for name, v in extra.items()}
    health = _health(found, stats)
    return Draws(found, stats, health, _problems(health))


@functools.lru_cache(maxsize=32)
def _chains(model: Model, n_warmup: int, n_draws: int, target: float) -> Callable:
    """NUTS from the first step to the last, compiled at once, with the data as arguments.

    Chains move in the coordinates of Laplace's approximation, in which a posterior that is nearly
    normal has unit variances: few steps of adaptation suffice.  NumPyro's `MCMC` compiles each
    operation of a model by itself first, which takes longer than the sampling; its functional
    kernel is the same sampler.
    """

    def chain(key: jax.Array, at: Modes, arguments: tuple[jax.Array, ...]) -> tuple:
        _, unravel = flat_start(model, arguments)
        key_start, key_kernel = jax.random.split(key)

        def position(y: jax.Array, mode: jax.Array, factor: jax.Array) -> jax.Array:
            return mode + factor @ y

        def energy_of(mode: jax.Array, factor: jax.Array, *given: jax.Array) -> Callable:
            return lambda y: potential_energy(model, given, {}, unravel(position(y, mode, factor)))

        start, advance = hmc(potential_fn_gen=energy_of, algo="NUTS")
        data = (at.mode, at.factor, *arguments)
        state = start(
            jax.random.normal(key_start, at.mode.shape),
            n_warmup,
            dense_mass=False,
            target_accept_prob=target,
            max_tree_depth=_MAX_DEPTH,
            model_args=data,
            rng_key=key_kernel,
        )

        def step(state: HMCState, _: None) -> tuple:
            state = advance(state, data)
            kept = {name: getattr(state, name) for name in ("diverging", "energy", "num_steps")}
            return state, (position(state.z, at.mode, at.factor), kept)

        _, (z, kept) = jax.lax.scan(step, state, None, length=n_warmup + n_draws)
        return z[n_warmup:], {name: v[n_warmup:] for name, v in kept.items()}

    def chains(keys: jax.Array, arguments: tuple[jax.Array, ...]) -> tuple:
        at = laplace.mode_of(model, arguments)
        # One after another: under vmap each would take as many leapfrog steps as the longest.
        return jax.lax.map(lambda key: chain(key, at, arguments), keys)

    return jax.jit(chains)


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
        excess = health["r_hat"] - MAX_R_HAT  # so many digits that it does not look equal
        digits = 3 if not 0 < excess < 1e-3 else 1 - math.floor(math.log10(excess))
        failed.append(f"r_hat {health['r_hat']:.{digits}f} above {MAX_R_HAT}")
    if not health["ess"] >= MIN_ESS:
        failed.append(f"effective sample size {health['ess']:.0f} below {MIN_ESS:.0f}")
    if not health["divergent"] <= MAX_DIVERGENT:
        failed.append(f"{health['divergent']:.2%} of draws diverge, above {MAX_DIVERGENT:.1%}")
    if not health["bfmi"] >= MIN_BFMI:
        failed.append(f"E-BFMI {health['bfmi']:.2f} below {MIN_BFMI}")
    return tuple(failed)
