"""The chunked cross-entropy against full logits; blocked attention against plain."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ladder_jax import parallel
from ladder_jax.config import MeshConfig, ModelConfig
from ladder_jax.models import decoder
from ladder_jax.models.blocked import blocked
from ladder_jax.models.loss import summed_loss, token_nats

B, L, D, V = 8, 12, 16, 64
Z_LOSS = 1e-2  # large enough that its gradient counts


@pytest.fixture
def inputs():
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (B, L, D))
    head = jax.random.normal(keys[1], (D, V)) / 2
    target = jax.random.randint(keys[2], (B, L), 0, V)
    target = jnp.where(jax.random.bernoulli(keys[3], 0.2, (B, L)), -1, target)
    return hidden, head, target, target >= 0


def plain(hidden, head, target, weight):
    nats, normaliser = token_nats(jnp.einsum("bld,dv->blv", hidden, head), target)
    nats = jnp.where(weight, nats, 0.0)
    return jnp.sum(nats + Z_LOSS * jnp.where(weight, normaliser**2, 0.0)), jnp.sum(nats)


def with_gradients(function):
    """Gradients of a multiple of the objective, as in training."""

    def scaled(*args):
        objective, nats = function(*args)
        return objective / 7, nats

    return jax.jit(jax.value_and_grad(scaled, argnums=(0, 1), has_aux=True))


def assert_close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("chunk", [24, 40])  # of 3 and 4 (5, evened) positions
def test_chunks_give_the_loss_and_gradients_of_full_logits(inputs, chunk):
    found = with_gradients(lambda *a: summed_loss(*a, Z_LOSS, chunk))(*inputs)
    assert_close(found, with_gradients(plain)(*inputs))
    assert_close(summed_loss(*inputs, Z_LOSS, chunk), plain(*inputs))


def test_a_length_that_chunks_do_not_divide(inputs):
    hidden, head, target, weight = (x[:, :11] if x.shape[0] == B else x for x in inputs)
    args = hidden, head, target, weight
    found = with_gradients(lambda *a: summed_loss(*a, Z_LOSS, 3 * B))(*args)
    assert_close(found, with_gradients(plain)(*args))


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 2, 4)], ids=str)
def test_sharded_rows_and_vocabulary_change_nothing(inputs, shape):
    mesh = parallel.make_mesh(MeshConfig(*shape))
    hidden, head, target, weight = inputs
    rows = parallel.batch_sharding(mesh)
    places = (rows, parallel.parameter_sharding(mesh, ("embed", "vocab")), rows, rows)
    with parallel.use_mesh(mesh):
        function = with_gradients(lambda *a: summed_loss(*a, Z_LOSS, 3))
        function = function.lower(*jax.device_put(inputs, places)).compile()
        found = function(*jax.device_put(inputs, places))
    assert_close(found, with_gradients(plain)(hidden, head, target, weight))


def test_no_array_holds_all_logits(inputs):
    function = with_gradients(lambda *a: summed_loss(*a, Z_LOSS, 3 * B))
    text = str(function.lower(*inputs).compile().as_text())
    assert f"{3 * B},{V}" in text
    assert f"{B * L},{V}" not in text
    assert f"{B},{L},{V}" not in text


def test_bfloat16_inputs_keep_float32_sums(inputs):
    hidden, head, target, weight = inputs
    low = hidden.astype(jnp.bfloat16)
    (objective, nats), (d_hidden, d_head) = with_gradients(
        lambda *a: summed_loss(*a, Z_LOSS, 3 * B)
    )(low, head, target, weight)
    assert (objective.dtype, nats.dtype) == (jnp.float32, jnp.float32)
    assert (d_hidden.dtype, d_head.dtype) == (jnp.bfloat16, jnp.float32)
    exact = low.astype(jnp.float32), head.astype(jnp.bfloat16).astype(jnp.float32), target, weight
    expected, (e_hidden, e_head) = with_gradients(plain)(*exact)
    np.testing.assert_allclose((objective, nats), expected, rtol=1e-5)
    np.testing.assert_allclose(d_hidden.astype(jnp.float32), e_hidden, atol=0.02)
    np.testing.assert_allclose(d_head, e_head, atol=0.02)


@pytest.mark.parametrize("length", [5, pytest.param(131, marks=pytest.mark.slow)])
@pytest.mark.parametrize("groups", [2])
def test_blocked_attention_equals_a_causal_mask(length, groups):
    config = ModelConfig(
        d_model=32, n_heads=4, n_kv_heads=groups, n_layers=1, d_ff=32, vocab_size=64
    )
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(2, h, length, config.head_dim) for h in (4, groups, groups)]
    query, key, value = (jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True))

    def full(query, key, value):
        key, value = (jnp.repeat(x, 4 // groups, axis=1) for x in (key, value))
        score = jnp.einsum("bhlk,bhsk->bhls", query, key)
        seen = jnp.tril(jnp.ones((1, 1, length, length), bool))
        weight = jax.nn.softmax(jnp.where(seen, score, -jnp.inf), axis=-1)
        return jnp.einsum("bhls,bhsk->bhlk", weight, value)

    def gradients(attend):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(attend(*a))), argnums=(0, 1, 2))

    args = query, key, value
    np.testing.assert_allclose(blocked(*args), full(*args), atol=1e-5)
    assert_close_loosely(gradients(blocked)(*args), gradients(full)(*args))


def assert_close_loosely(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_the_decoder_is_the_same_with_blocked_and_plain_attention():
    config = ModelConfig(d_model=32, n_heads=4, n_layers=2, d_ff=32, vocab_size=64)
    params = decoder.init_params(config, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (2, 69), 0, 64)
    plain_form = decoder.bind(replace(config, attention="plain"), params)(tokens)
    np.testing.assert_allclose(decoder.bind(config, params)(tokens), plain_form, atol=1e-5)
