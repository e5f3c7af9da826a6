"""The jitted training step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ladder_jax import parallel
from ladder_jax.config import ModelConfig, OptimConfig
from ladder_jax.models.protocol import Batch, Params
from ladder_jax.models.registry import architecture
from ladder_jax.training import optimizer
from ladder_jax.training.initialize import TrainState, state_sharding
from ladder_jax.training.schedule import Schedule, learning_rate

Gradients = Callable[[Params, Batch], tuple[jax.Array, Params]]


@functools.cache
def make_step(model: ModelConfig, constants: OptimConfig, mesh: Any) -> Callable:
    """The jitted training step: (state, batch, schedule) -> state, metrics.

    A batch is a tree of micro-batches, arrays of shape (A, B, ...); their gradients are summed, and
    losses are means over the tokens of all.  Compiled once for a model, a mesh, the optimiser's
    constants and a shape; learning rate and length are arguments.  Metrics are scalars: `loss`
    (nats per token, before the step), `lr`, `grad_norm` and, after it, `param_norm`.
    """
    transformation = optimizer.transformation(model, constants)
    shards = state_sharding(model, constants, mesh)
    scalar = parallel.replicated(mesh)
    gradients = _gradients(model, constants.z_loss, shards.params)

    def step(
        state: TrainState, batch: Batch, schedule: Schedule
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        loss, grads = gradients(state.params, batch)
        lr = learning_rate(schedule, state.step.astype(jnp.float32))
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
        in_shardings=(shards, parallel.micro_batch_sharding(mesh), scalar),
        out_shardings=(shards, scalar),
        donate_argnums=0,
    )


def _gradients(model: ModelConfig, z_loss: float, shards: Any) -> Gradients:
    """(params, batch of micro-batches) -> cross-entropy and the objective's gradients, summed."""
    family = architecture(model)

    def objective(params: Params, batch: Batch, n: jax.Array) -> tuple[jax.Array, jax.Array]:
        loss = family.loss(model, params, batch, n, z_loss)
        return loss.objective, loss.nats

    def gradients(params: Params, batch: Batch) -> tuple[jax.Array, Params]:
        n = jnp.maximum(family.n_predicted(batch), 1).astype(jnp.float32)

        def one(micro: Batch) -> tuple[jax.Array, Params]:
            (_, nats), grads = jax.value_and_grad(objective, has_aux=True)(params, micro, n)
            return nats, grads

        if len(jax.tree.leaves(batch)[0]) == 1:
            return one(jax.tree.map(lambda x: x[0], batch))

        def add(total: Any, micro: Batch) -> tuple[Any, None]:
            total = jax.tree.map(jnp.add, total, one(micro))
            return (total[0], jax.lax.with_sharding_constraint(total[1], shards)), None

        zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(add, zero, batch)[0]

    return gradients
