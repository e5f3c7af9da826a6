"""The training state: how a run begins, its shapes, and its shardings."""

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
from ladder_jax.models.protocol import Params
from ladder_jax.models.registry import architecture
from ladder_jax.training import optimizer


class TrainState(NamedTuple):
    """Everything a step changes."""

    step: jax.Array
    params: Params
    moments: optax.OptState


def init_state(run: RunConfig, mesh: Any) -> TrainState:
    """The state before the first step, laid out on the mesh from the start."""
    return state_of(run, initial_params(run, mesh), mesh)


def initial_params(run: RunConfig, mesh: Any) -> Params:
    """The parameters that a run begins with, on the mesh: fresh ones, from its seed.

    Parameters of another checkpoint, once a run can name one, are read here and nowhere else.
    """
    return _fresh_params(run.model, mesh)(jax.random.key(run.seed))


def state_of(run: RunConfig, params: Params, mesh: Any, step: int = 0) -> TrainState:
    """A state of given parameters, its moments zero.

    Args:
        run: what the parameters are of.
        params: on the mesh, sharded as `state_sharding` says.
        mesh: the devices.
        step: how many steps are done.
    """
    begin = _step_and_moments(run.model, constants_of(run.optim), mesh, step)
    count, moments = begin(params)
    return TrainState(count, params, moments)


@functools.cache
def _fresh_params(model: ModelConfig, mesh: Any) -> Callable[[jax.Array], Params]:
    """The jitted function of a key that makes parameters."""
    family = architecture(model)
    shards = parallel.parameter_shardings(mesh, family.logical_axes(model))
    return jax.jit(functools.partial(family.init_params, model), out_shardings=shards)


@functools.cache
def _step_and_moments(
    model: ModelConfig, constants: OptimConfig, mesh: Any, step: int
) -> Callable[[Params], tuple[jax.Array, optax.OptState]]:
    """The jitted function of parameters that makes the rest of a state."""
    begin = optimizer.transformation(model, constants).init
    shards = state_sharding(model, constants, mesh)

    def rest(params: Params) -> tuple[jax.Array, optax.OptState]:
        return jnp.full((), step, jnp.int32), begin(params)

    return jax.jit(rest, out_shardings=(shards.step, shards.moments))


def abstract_state(run: RunConfig, mesh: Any) -> TrainState:
    """Shapes, dtypes and shardings of a run's state."""
    return _abstract_state(run.model, constants_of(run.optim), mesh)


@functools.cache
def _abstract_state(model: ModelConfig, constants: OptimConfig, mesh: Any) -> TrainState:
    shards = state_sharding(model, constants, mesh)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        _shapes(model, constants),
        shards,
    )


def state_sharding(model: ModelConfig, constants: OptimConfig, mesh: Any) -> Any:
    """A `TrainState` of shardings: each moment lies where its parameter lies."""
    params = parallel.parameter_shardings(mesh, architecture(model).logical_axes(model))
    moments = optax.tree.map_params(
        optimizer.transformation(model, constants),
        lambda _, shard: shard,
        _shapes(model, constants).moments,
        params,
        transform_non_params=lambda _: parallel.replicated(mesh),
    )
    step: Any = parallel.replicated(mesh)
    return TrainState(step, params, moments)


def _shapes(model: ModelConfig, constants: OptimConfig) -> TrainState:
    """Shapes and dtypes of a state."""
    params = architecture(model).abstract_params(model)
    moments = jax.eval_shape(optimizer.transformation(model, constants).init, params)
    step: Any = jax.ShapeDtypeStruct((), jnp.int32)
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
