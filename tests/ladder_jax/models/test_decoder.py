"""The decoder: parity with transformers, causality through gradients, layouts that agree."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from ladder_jax.config import ModelConfig
from ladder_jax.models import counts, decoder
from ladder_jax.models.linear import linear
from tests.helpers import GOLDEN

OLMO2 = ModelConfig(
    d_model=32, n_heads=4, n_kv_heads=2, n_layers=2, d_ff=48, vocab_size=64, seq_len=64
)
TINY = ModelConfig(d_model=32, n_heads=4, n_layers=2, d_ff=64, vocab_size=96, seq_len=16)


def from_transformers(weights: dict[str, np.ndarray], n_layers: int) -> decoder.Params:
    """Olmo2ForCausalLM's weights in our structure: matrices transposed, layers stacked."""

    def stack(name: str, transpose: bool = True) -> np.ndarray:
        found = [weights[f"model.layers.{i}.{name}.weight"] for i in range(n_layers)]
        return np.stack([w.T if transpose else w for w in found])

    return {
        "embed": weights["model.embed_tokens.weight"],
        "head": weights["lm_head.weight"].T,
        "norm": {"scale": weights["model.norm.weight"]},
        "layers": {
            "attention": {
                "query": stack("self_attn.q_proj"),
                "key": stack("self_attn.k_proj"),
                "value": stack("self_attn.v_proj"),
                "out": stack("self_attn.o_proj"),
                "query_norm": {"scale": stack("self_attn.q_norm", False)},
                "key_norm": {"scale": stack("self_attn.k_norm", False)},
            },
            "attention_norm": {"scale": stack("post_attention_layernorm", False)},
            "mlp": {
                "gate": stack("mlp.gate_proj"),
                "up": stack("mlp.up_proj"),
                "down": stack("mlp.down_proj"),
            },
            "mlp_norm": {"scale": stack("post_feedforward_layernorm", False)},
        },
    }


@pytest.fixture(scope="module")
def golden():
    tensors = load_file(GOLDEN / "olmo2_tiny.safetensors")
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights")}
    return from_transformers(weights, OLMO2.n_layers), tensors["tokens"], tensors["logits"]


def logits(config, params, tokens):
    return jax.jit(lambda p, t: decoder.bind(config, p)(t))(params, tokens)


@pytest.mark.parametrize("scan", [False, True])
def test_logits_equal_those_of_transformers(golden, scan):
    params, tokens, expected = golden
    ours = logits(replace(OLMO2, scan_layers=scan), params, tokens)
    assert float(jnp.abs(ours - expected).max()) < 2e-5


@pytest.mark.parametrize("wrong", [{"norm_eps": 1e-5}, {"rope_theta": 1e4}], ids=str)
def test_the_golden_logits_notice_a_wrong_setting(golden, wrong):
    params, tokens, expected = golden
    ours = logits(replace(OLMO2, **wrong), params, tokens)
    assert float(jnp.abs(ours - expected).max()) > 2e-4


def test_every_norm_scale_matters(golden):
    params, tokens, expected = golden
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    for i, (path, leaf) in enumerate(leaves):
        if path[-1].key == "scale":
            flat = [np.ones_like(x) if j == i else x for j, (_, x) in enumerate(leaves)]
            changed = logits(OLMO2, jax.tree_util.tree_unflatten(tree, flat), tokens)
            assert float(jnp.abs(changed - expected).max()) > 1e-3, path
            assert leaf.shape == flat[i].shape


def test_no_token_sees_the_future():
    params = decoder.init_params(TINY, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (1, 12), 0, TINY.vocab_size)

    def output(table, position):
        model = decoder.bind(TINY, params | {"embed": table})
        return jnp.sum(model.hidden(jnp.arange(12)[None])[0, position])

    table = params["embed"][tokens[0]]  # a row for each position
    table = jnp.concatenate([table, jnp.zeros((TINY.vocab_size - 12, TINY.d_model))])
    for position in (0, 5, 11):
        seen = jnp.abs(jax.grad(output)(table, position)[:12]).sum(axis=1) > 0
        np.testing.assert_array_equal(seen, np.arange(12) <= position)


def test_a_mask_and_positions_can_be_given():
    params = decoder.init_params(TINY, jax.random.key(0))
    tokens = jnp.array([[5, 6, 7, 8]])
    packed = jnp.concatenate([tokens, tokens], axis=1)
    segment = jnp.array([0] * 4 + [1] * 4)
    mask = (segment[:, None] == segment[None, :]) & jnp.tril(jnp.ones((8, 8), bool))
    position = jnp.array([[0, 1, 2, 3, 0, 1, 2, 3]])
    together = decoder.bind(TINY, params)(packed, position, mask[None])
    alone = decoder.bind(TINY, params)(tokens)
    np.testing.assert_allclose(together[:, 4:], alone, atol=1e-5)


@pytest.mark.parametrize("remat", [pytest.param("none", marks=pytest.mark.slow), "dots", "full"])
def test_scanned_and_unrolled_layers_agree(remat):
    params = decoder.init_params(TINY, jax.random.key(0))
    tokens = jnp.arange(10)[None]

    def grads(config):
        return jax.grad(lambda p: jnp.mean(decoder.bind(config, p)(tokens) ** 2))(params)

    scanned = grads(replace(TINY, scan_layers=True, remat=remat))
    for a, b in zip(jax.tree.leaves(grads(TINY)), jax.tree.leaves(scanned), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [TINY, OLMO2], ids=["tiny", "grouped"])
def test_counts_in_closed_form_are_those_of_the_arrays(config):
    shapes = decoder.abstract_params(config)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == counts.n_params_total(config)


def test_initialisation_has_the_configured_spread():
    wide = ModelConfig(d_model=64, n_heads=8, n_layers=1, d_ff=256, vocab_size=512, init_std=0.02)
    kernel = decoder.init_params(wide, jax.random.key(0))["layers"]["mlp"]["gate"]
    assert float(kernel.std()) == pytest.approx(0.02, rel=0.05)
    assert float(jnp.abs(kernel).max()) <= 0.06
    narrow = decoder.init_params(replace(wide, init_std=0.0), jax.random.key(0))
    assert float(narrow["head"].std()) == pytest.approx(64**-0.5, rel=0.05)
    np.testing.assert_array_equal(narrow["norm"]["scale"], 1.0)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)], ids=str)
def test_a_custom_linear_has_the_gradients_of_a_plain_one(shape):
    key = jax.random.key(0)
    x, w = (jax.random.normal(key, s) for s in ((4, shape[0]), shape))

    def total(x, w, how):
        return jnp.sum(jnp.sin(linear(x, nnx.Param(w), how)))

    plain, custom = (jax.grad(total, (0, 1))(x, w, how) for how in ("plain", "custom"))
    for a, b in zip(plain, custom, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    program = str(jax.make_jaxpr(jax.grad(total, 1), static_argnums=2)(x, w, "custom"))
    assert ("optimization_barrier" in program) == (shape[0] > shape[1])
