"""The model protocol: the registry of model families, and the properties of each family."""

import ast
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fitting.errors import InputError
from ladder_jax import parallel
from ladder_jax.config import MeshConfig, ModelConfig
from ladder_jax.models import decoder
from ladder_jax.models.protocol import PADDING
from ladder_jax.models.registry import architecture, counts_of
from tests.helpers import ROOT

PACKAGE = ROOT / "ladder_jax"
PUBLIC = {"counts", "protocol", "registry", "sizes"}  # what other folders may import of models
MODEL = ModelConfig(
    d_model=32, n_heads=4, n_kv_heads=2, n_layers=2, d_ff=64, vocab_size=304, seq_len=16
)


def imported(path: Path) -> set[str]:
    """Files of `models` that a file imports, lazy imports included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "ladder_jax.models":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "ladder_jax.models."
        ):
            found.add(node.module.split(".")[2])
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {n[2] for n in names if n[:2] == ["ladder_jax", "models"] and len(n) > 2}
    return found


@pytest.mark.parametrize(
    "path", [p for p in sorted(PACKAGE.rglob("*.py")) if p.parent.name != "models"], ids=str
)
def test_no_file_outside_models_imports_a_model_module(path):
    assert imported(path) <= PUBLIC


def test_counts_and_plans_and_padding_import_no_jax():
    code = """
import sys
from ladder_jax import ladder
from ladder_jax.config import ModelConfig
from ladder_jax.models import counts, protocol, sizes
counts.flops_per_token(ModelConfig(), "olmo")
assert protocol.PADDING == -1
print(sorted(m for m in ("jax", "flax") if m in sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "[]\n"


def test_a_config_has_its_family_and_an_unknown_one_has_none():
    assert architecture(MODEL) is decoder

    @dataclass(frozen=True)
    class Other:
        d_model: int = 8

    for find in (architecture, counts_of):
        with pytest.raises(TypeError, match="Other"):
            find(Other())


def test_counts_are_those_of_the_parameters():
    params = decoder.abstract_params(MODEL)
    sizes = jax.tree.map(lambda x: x.size, params)
    counts = counts_of(MODEL)
    assert counts.input_table == sizes["embed"]
    assert counts.output_head == sizes["head"]
    total = sum(jax.tree.leaves(sizes))
    assert counts.non_embedding == total - sizes["embed"] - sizes["head"]
    scales = jax.tree_util.tree_leaves_with_path(sizes)
    assert counts.norm_scales == sum(n for path, n in scales if path[-1].key == "scale")


def test_weight_decay_covers_all_but_the_input_table():
    params = decoder.abstract_params(MODEL)
    assert all(jax.tree.leaves(decoder.decayed(params, True)))
    without = decoder.decayed(params, False)
    assert without["embed"] is False
    assert jax.tree.structure(without) == jax.tree.structure(params)
    assert all(jax.tree.leaves({k: v for k, v in without.items() if k != "embed"}))


@pytest.mark.parametrize("loss_chunk", [0, 8])
def test_a_split_batch_gives_the_loss_of_the_whole(loss_chunk):
    """Sums over the parts, each divided by the tokens of the whole; and the nats of each row."""
    model = replace(MODEL, loss_chunk=loss_chunk)
    params = decoder.init_params(model, jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, 304, (4, 17)).astype(np.int32)
    tokens[1, 5:] = PADDING
    batch = {"tokens": tokens}
    shapes = decoder.abstract_batch(model, 4)["tokens"]
    assert (shapes.shape, shapes.dtype) == (tokens.shape, tokens.dtype)
    n = decoder.n_predicted({"tokens": jnp.asarray(tokens)})
    assert int(n) == 3 * 16 + 4
    assert int(decoder.n_predicted({"tokens": jnp.asarray(tokens).reshape(2, 2, 17)})) == int(n)
    whole = decoder.loss(model, params, batch, n, 1e-2)
    parts = [
        decoder.loss(model, params, {"tokens": part}, n, 1e-2) for part in np.split(tokens, [1, 3])
    ]
    for field in ("objective", "nats"):
        total = sum(float(getattr(part, field)) for part in parts)
        assert total == pytest.approx(float(getattr(whole, field)), rel=1e-5)
    assert whole.objective > whole.nats
    rows = decoder.sequence_nats(model, params, batch)
    assert rows.shape == (4,)
    assert float(rows.sum() / n) == pytest.approx(float(whole.nats), rel=1e-5)


def test_widths_that_do_not_divide_are_named_with_their_axis():
    widths = decoder.divisibility(MODEL)
    assert parallel.widest(widths, "tensor") == 2  # key and value heads
    assert parallel.widest(widths, "fsdp") == 32
    parallel.check_fit(widths, parallel.abstract_mesh(MeshConfig(1, 2, 2), 4))
    mesh = parallel.abstract_mesh(MeshConfig(1, 1, 4), 4)
    with pytest.raises(InputError, match=r"`model\.n_kv_heads` 2 does not .* `mesh\.tensor` 4"):
        parallel.check_fit(widths, mesh)
    odd = widths | {"d_model": widths["d_model"]._replace(size=31)}
    with pytest.raises(InputError, match=r"`model\.d_model` 31 .* `mesh\.fsdp` 2"):
        parallel.check_fit(odd, parallel.abstract_mesh(MeshConfig(1, 2, 1), 2))
