"""Fused attention against the plain form; the TPU's kernel is interpreted, cuDNN's only lowered."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fitting.errors import InputError
from ladder_jax import parallel
from ladder_jax.config import MeshConfig, ModelConfig
from ladder_jax.models import blocked, decoder, fused

MODEL = ModelConfig(
    d_model=32, n_heads=4, n_kv_heads=2, n_layers=1, d_ff=32, vocab_size=64, seq_len=128
)
TOKENS = jnp.arange(4 * 128).reshape(4, 128) % 61


def logits_and_gradients(monkeypatch, kernel, mesh):
    params = decoder.init_params(MODEL, jax.random.key(1))
    monkeypatch.setattr(fused, "attention", lambda *args: kernel)

    def mean(p):
        logits = decoder.bind(MODEL, p)(TOKENS)
        return jnp.mean(jnp.sin(3 * logits)), logits

    with parallel.use_mesh(mesh):
        (_, logits), grads = jax.jit(jax.value_and_grad(mean, has_aux=True))(params)
    return logits, grads


def test_the_kernel_of_tpus_is_attention(monkeypatch):
    mesh = parallel.make_mesh(MeshConfig(2, 2, 2))

    def splash(*arrays):
        return fused.splash(*arrays, interpret=True)

    plain = logits_and_gradients(monkeypatch, None, mesh)
    ours = logits_and_gradients(monkeypatch, splash, mesh)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()) + 1e-7)


def test_which_configs_use_a_kernel(monkeypatch):
    def found(platform, length, dtype, wanted="auto"):
        monkeypatch.setattr(parallel, "platform", lambda: platform)
        return fused.attention(replace(MODEL, attention=wanted), length, jnp.dtype(dtype))

    assert found("cpu", 100, "float32") is blocked.blocked
    assert found("tpu", 4096, "bfloat16") is not None
    assert found("tpu", 100, "bfloat16") is None
    assert found("gpu", 100, "bfloat16") is not None
    assert found("gpu", 100, "float32") is None
    assert found("tpu", 4096, "bfloat16", "plain") is None
    with pytest.raises(InputError, match=r"this is gpu, 128 and float32: use auto"):
        found("gpu", 128, "float32", "fused")


def test_bfloat16_computes_in_it_and_keeps_float32_parameters():
    params = decoder.init_params(MODEL, jax.random.key(1))
    half = replace(MODEL, dtype="bfloat16")

    def mean(p, model):
        return jnp.mean(decoder.bind(model, p)(TOKENS) ** 2)

    assert decoder.bind(half, params).hidden(TOKENS).dtype == jnp.bfloat16
    assert decoder.bind(half, params)(TOKENS).dtype == jnp.float32
    grads = jax.grad(mean)(params, half)
    assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    exact = jax.grad(mean)(params, MODEL)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(exact), strict=True):
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, atol=0.1 * scale)
