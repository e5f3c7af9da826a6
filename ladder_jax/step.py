"""The training state and the one jitted step that changes it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ladder_jax import optim, sharding
from ladder_jax.config import ModelConfig, OptimConfig, RunConfig
from ladder_jax.data.pipeline import PADDING
from ladder_jax.eval import heldout
from ladder_jax.models import decoder
from ladder_jax.models.loss import summed_loss


class TrainState(NamedTuple):
    """Everything a step changes."""

    step: jax.Array
    params: decoder.Params
    moments: optax.OptState


@functools.cache
def make_step(model: ModelConfig, constants: OptimConfig, mesh: Any) -> Callable:
    """The jitted training step: (state, batch of shape (A, B, L + 1), schedule) -> state, metrics.

    The gradients of A micro-batches are summed; losses are means over the tokens of all.  Compiled
    once for a model, a mesh, the optimiser's constants and a shape; learning rate and length are
    arguments.  Metrics are scalars: `loss` (nats per token, before the step), `lr`, `grad_norm`
    and, after it, `param_norm`.
    """
    transformation = optim.transformation(constants)
    shards = state_sharding(model, constants, mesh)
    scalar = sharding.replicated(mesh)

    def objective(
        params: decoder.Params, batch_BxL: jax.Array, n: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        inputs, targets = jnp.maximum(batch_BxL[:, :-1], 0), batch_BxL[:, 1:]
        weight = jnp.where(targets != PADDING, 1 / n, 0.0)
        bound = decoder.bind(model, params)
        if model.loss_chunk:
            hidden, head = bound.hidden(inputs), bound.head[...]
            return summed_loss(hidden, head, targets, weight, constants.z_loss, model.loss_chunk)
        nats, normaliser = heldout.token_nats(bound(inputs), targets)
        loss = jnp.sum(weight * nats)
        return loss + constants.z_loss * jnp.sum(weight * normaliser**2), loss

    def gradients(params: decoder.Params, batch_AxBxL: jax.Array) -> tuple[jax.Array, Any]:
        """Loss and its gradients, summed over the micro-batches."""
        n = jnp.maximum(jnp.sum(batch_AxBxL[:, :, 1:] != PADDING), 1).astype(jnp.float32)

        def one(batch_BxL: jax.Array) -> tuple[jax.Array, Any]:
            (_, loss), grads = jax.value_and_grad(objective, has_aux=True)(params, batch_BxL, n)
            return loss, grads

        if batch_AxBxL.shape[0] == 1:
            return one(batch_AxBxL[0])

        def add(total: Any, batch_BxL: jax.Array) -> tuple[Any, None]:
            total = jax.tree.map(jnp.add, total, one(batch_BxL))
            return (total[0], jax.lax.with_sharding_constraint(total[1], shards.params)), None

        zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(add, zero, batch_AxBxL)[0]

    def step(
        state: TrainState, batch_AxBxL: jax.Array, schedule: optim.Schedule
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        loss, grads = gradients(state.params, batch_AxBxL)
        lr = optim.learning_rate(schedule, state.step.astype(jnp.float32))
        direction, moments = transformation.update(grads, state.moments, state.params)
        params = jax.tree.map(lambda p, d: p - lr * d, state.params, direction)
        metrics = {
            "loss": loss,
            "lr": lr,
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),
        }
        return TrainState(state.step + 1, params, moments), metrics

    return jax.jit(
        step,
        in_shardings=(shards, sharding.micro_batch_sharding(mesh), scalar),
        out_shardings=(shards, scalar),
        donate_argnums=0,
    )


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
    moments = optim.transformation(constants).init(params)
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
    params = sharding.parameter_shardings(mesh, decoder.logical_axes(model))
    transformation = optim.transformation(constants)
    shapes = jax.eval_shape(transformation.init, decoder.abstract_params(model))
    moments = optax.tree.map_params(
        transformation,
        lambda _, shard: shard,
        shapes,
        params,
        transform_non_params=lambda _: sharding.replicated(mesh),
    )
    step: Any = sharding.replicated(mesh)
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
