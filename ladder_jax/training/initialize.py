"""The training state: fresh, its shapes, and its shardings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ladder_jax import parallel
from ladder_jax.config import ModelConfig, OptimConfig, RunConfig
from ladder_jax.models import decoder
from ladder_jax.training import optimizer


class TrainState(NamedTuple):
    """Everything a step changes."""

    step: jax.Array
    params: decoder.Params
    moments: optax.OptState


def init_state(run: RunConfig, mesh: Any) -> TrainState:
    """A fresh state, laid out on the mesh from the start."""
    return _initialiser(run.model, constants_of(run.optim), mesh)(jax.random.key(run.seed))


@functools.cache
def _initialiser(model: ModelConfig, constants: OptimConfig, mesh: Any) -> Callable:
    """The jitted function of a key that makes a fresh state."""
    make = functools.partial(_fresh_state, model, constants)
    return jax.jit(make, out_shardings=state_sharding(model, constants, mesh))


def _fresh_state(model: ModelConfig, constants: OptimConfig, key: jax.Array) -> TrainState:
    params = decoder.init_params(model, key)
    moments = optimizer.transformation(constants).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, moments)


def abstract_state(run: RunConfig, mesh: Any) -> TrainState:
    """Shapes, dtypes and shardings of a run's state."""
    return _abstract_state(run.model, constants_of(run.optim), mesh)


@functools.cache
def _abstract_state(model: ModelConfig, constants: OptimConfig, mesh: Any) -> TrainState:
    make = functools.partial(_fresh_state, model, constants)
    shapes = jax.eval_shape(make, jax.random.key(0))
    shards = state_sharding(model, constants, mesh)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shards
    )


def state_sharding(model: ModelConfig, constants: OptimConfig, mesh: Any) -> Any:
    """A `TrainState` of shardings: moments lie where their parameters lie."""
    params = parallel.parameter_shardings(mesh, decoder.logical_axes(model))
    transformation = optimizer.transformation(constants)
    shapes = jax.eval_shape(transformation.init, decoder.abstract_params(model))
    moments = optax.tree.map_params(
        transformation,
        lambda _, shard: shard,
        shapes,
        params,
        transform_non_params=lambda _: parallel.replicated(mesh),
    )
    step: Any = parallel.replicated(mesh)
    return TrainState(step, params, moments)


def constants_of(config: OptimConfig) -> OptimConfig:
    """The optimiser without what the step takes as arguments, so that runs share a compile."""
    plain = OptimConfig()
    return replace(
        config,
        lr_peak=plain.lr_peak,
        lr_final_ratio=plain.lr_final_ratio,
        warmup_steps=plain.warmup_steps,
    )
