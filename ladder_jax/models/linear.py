"""Products of activations and weights, as one matrix product of all rows.

XLA on CPU otherwise copies activations for the weights' gradients.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

_ROWS = (((0,), (0,)), ((), ()))  # contracted over the rows of both


def linear(
    x: jax.Array, kernel: nnx.Param, gradients: str = "plain", dtype: Any = None
) -> jax.Array:
    """x @ kernel over the last axis.

    Args:
        x: activations (..., D).
        kernel: weights (D, F).
        gradients: `plain`, or `custom` for those of `product`; see `ModelConfig.linear`.
        dtype: of the result; by default that of the operands.
    """
    rows = x.reshape(-1, x.shape[-1])
    if gradients == "custom" and dtype is None:
        y = product(rows, kernel[...])
    else:
        y = jnp.matmul(rows, kernel[...], preferred_element_type=dtype)
    return y.reshape(*x.shape[:-1], y.shape[-1])


@jax.custom_vjp
def product(x_MxD: jax.Array, kernel_DxF: jax.Array) -> jax.Array:
    """A matrix product; its kernel's gradient has the narrower operand first, for XLA on CPU."""
    return x_MxD @ kernel_DxF


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    if x.shape[1] <= dy.shape[1]:
        d_kernel = jax.lax.dot_general(x, dy, _ROWS)
    else:  # the barrier keeps XLA from swapping the operands back
        d_kernel = jax.lax.optimization_barrier(jax.lax.dot_general(dy, x, _ROWS)).T
    return dy @ kernel.T, d_kernel


product.defvjp(_forward, _backward)
