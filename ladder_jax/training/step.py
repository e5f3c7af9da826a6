"""The one jitted step that changes the training state."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ladder_jax import parallel
from ladder_jax.config import ModelConfig, OptimConfig
from ladder_jax.data.pipeline import PADDING
from ladder_jax.eval import heldout
from ladder_jax.models import decoder
from ladder_jax.models.loss import summed_loss
from ladder_jax.training import optimizer
from ladder_jax.training.initialize import TrainState, state_sharding
from ladder_jax.training.schedule import Schedule, learning_rate


@functools.cache
def make_step(model: ModelConfig, constants: OptimConfig, mesh: Any) -> Callable:
    """The jitted training step: (state, batch of shape (A, B, L + 1), schedule) -> state, metrics.

    The gradients of A micro-batches are summed; losses are means over the tokens of all.  Compiled
    once for a model, a mesh, the optimiser's constants and a shape; learning rate and length are
    arguments.  Metrics are scalars: `loss` (nats per token, before the step), `lr`, `grad_norm`
    and, after it, `param_norm`.
    """
    transformation = optimizer.transformation(constants)
    shards = state_sharding(model, constants, mesh)
    scalar = parallel.replicated(mesh)

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
        state: TrainState, batch_AxBxL: jax.Array, schedule: Schedule
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        loss, grads = gradients(state.params, batch_AxBxL)
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
