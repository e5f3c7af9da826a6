"""Models of Hugging Face: read and written to the bit, and refused in one line."""

import json
import tracemalloc
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from ladder_jax import hf, parallel
from ladder_jax.config import MeshConfig, ModelConfig
from ladder_jax.hf import checkpoint
from ladder_jax.hf import weights as weights_
from ladder_jax.hf.config import to_config
from ladder_jax.models import decoder
from ladder_jax.models.sizes import OLMO2_SIZES
from tests.helpers import BIG, GOLDEN, OLMO2, refused, same

HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def golden():
    tensors = load_file(GOLDEN / "olmo2_tiny.safetensors")
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights")}
    return weights, tensors["tokens"], tensors["logits"]


@pytest.fixture
def saved(tmp_path, golden):
    """A function that writes the golden model, with changes to its config and weights."""

    def save(changes=None, weights=None, version=5):
        config = json.loads((GOLDEN / f"olmo2_config_v{version}.json").read_text())
        config = {k: v for k, v in (config | (changes or {})).items() if v != "absent"}
        directory = tmp_path / "model"
        directory.mkdir(exist_ok=True)
        (directory / "config.json").write_text(json.dumps(config))
        weights = golden[0] if weights is None else weights
        save_file(weights, directory / "model.safetensors", {"format": "pt"})
        return directory

    return save


def difference(directory, golden):
    model = hf.read_config(directory)
    logits = jax.jit(decoder.bind(model, hf.read_params(directory, model)))(golden[1])
    return float(jnp.abs(logits - golden[2]).max())


@pytest.mark.parametrize("version", [4, 5])
def test_logits_equal_those_of_transformers(golden, saved, version):
    directory = saved(version=version)
    assert hf.read_config(directory) == OLMO2
    assert difference(directory, golden) < 2e-5


@pytest.mark.parametrize("name", ["370M", "7B"])
def test_the_published_sizes_are_read_as_published(tmp_path, name):
    config = to_config(OLMO2_SIZES[name], "float32", 100_257)
    del config["rope_parameters"]
    config |= {"rope_theta": 500_000, "rope_scaling": None, "pad_token_id": 100_277}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert hf.read_config(tmp_path) == OLMO2_SIZES[name]


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_half_precision_on_disk_is_read_as_it_is(golden, saved, kind):
    halves = {name: x.astype(jnp.dtype(kind)) for name, x in golden[0].items()}
    read = hf.read_params(saved(weights=halves), OLMO2)
    rounded = {name: x.astype(np.float32) for name, x in halves.items()}
    assert same(read, weights_.assemble(rounded.__getitem__, OLMO2))
    assert not same(read, weights_.assemble(golden[0].__getitem__, OLMO2))
    assert {x.dtype for x in jax.tree.leaves(read)} == {np.dtype("float32")}


def test_a_tied_head_is_the_input_table(golden, saved):
    tied = {name: x for name, x in golden[0].items() if name != HEAD}
    directory = saved({"tie_word_embeddings": True}, tied)
    read = hf.read_params(directory, OLMO2)
    np.testing.assert_array_equal(read["head"], read["embed"].T)
    np.testing.assert_array_equal(read["embed"], golden[0][EMBED])
    saved({"tie_word_embeddings": True}, tied | {HEAD: tied[EMBED]})
    assert same(hf.read_params(directory, OLMO2), read)
    saved({"tie_word_embeddings": True})
    refused(lambda: hf.read_params(directory, OLMO2), "tie_word_embeddings", HEAD)


@pytest.mark.parametrize("shard_bytes", [5e9, 45_000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_written_is_read_back_to_the_bit(tmp_path, params, shard_bytes, dtype):
    out = tmp_path / "deep" / "out"
    on_devices = jax.tree.map(jnp.asarray, params)
    hf.write(out, BIG, on_devices, None, dtype, shard_bytes)
    files = sorted(out.glob("*.safetensors"))
    assert (len(files) == 1) == (shard_bytes == 5e9)
    assert all(sum(x.nbytes for x in load_file(p).values()) <= shard_bytes for p in files)
    assert (out / "model.safetensors.index.json").is_file() == (len(files) > 1)
    assert hf.read_config(out) == BIG
    expected = jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), params)
    read = hf.read_params(out, BIG, dtype)
    assert same(read, expected)
    assert {x.dtype for x in jax.tree.leaves(read)} == {jnp.dtype(dtype)}
    wide = hf.read_params(out, BIG)
    assert same(wide, jax.tree.map(lambda x: x.astype(np.float32), expected))
    assert {p.stat().st_mode & 0o777 for p in out.iterdir()} == {
        (out / "config.json").stat().st_mode & 0o777
    }
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_every_setting_survives(tmp_path, params):
    odd = replace(BIG, n_kv_heads=2, norm_eps=1e-5, rope_theta=1e4, init_std=0.1)
    grouped = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), decoder.abstract_params(odd))
    hf.write(tmp_path / "out", odd, grouped)
    assert hf.read_config(tmp_path / "out") == odd


def test_the_tokenizer_is_carried_along(tmp_path, params, tokenizer):
    hf.write(tmp_path / "out", BIG, params, tokenizer)
    kept = hf.tokenizer_file(tmp_path / "out")
    assert kept is not None
    assert kept.read_bytes() == tokenizer.read_bytes()
    described = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert described["eos_token"] == "<|endoftext|>"
    assert described["model_max_length"] == BIG.seq_len
    end = Tokenizer.from_file(str(tokenizer)).token_to_id("<|endoftext|>")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["eos_token_id"] == end == 0
    assert config["pad_token_id"] is None
    hf.write(tmp_path / "bare", BIG, params)
    assert hf.tokenizer_file(tmp_path / "bare") is None


def test_parameters_go_to_their_shards(tmp_path, params):
    hf.write(tmp_path / "out", BIG, params)
    mesh = parallel.make_mesh(MeshConfig(fsdp=4, tensor=2))
    shards = jax.tree.map(
        lambda axes: parallel.parameter_sharding(mesh, axes),
        decoder.logical_axes(BIG),
        is_leaf=lambda axes: type(axes) is tuple,
    )
    read = hf.read_params(tmp_path / "out", BIG, shardings=shards)
    assert same(read, params)
    assert jax.tree.map(lambda x: x.sharding, read) == shards
    query = read["layers"]["attention"]["query"]
    assert query.addressable_shards[0].data.size == query.size // 8


def test_reading_takes_one_copy_and_a_tensor(tmp_path):
    model = ModelConfig(d_model=128, n_heads=4, n_layers=8, d_ff=512, vocab_size=512, seq_len=16)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), decoder.abstract_params(model))
    size = sum(x.nbytes for x in jax.tree.leaves(zeros))
    hf.write(tmp_path / "out", model, zeros, max_shard_bytes=size / 3)
    hf.read_params(tmp_path / "out", model)  # what is traced once is not counted
    tracemalloc.start()
    try:
        read = hf.read_params(tmp_path / "out", model)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert same(read, zeros)
    assert peak < size + 2 * read["embed"].nbytes


CONFIG_REFUSALS = {
    "model_type": "llama",
    "architectures": ["Olmo2ForSequenceClassification"],
    "hidden_act": "gelu",
    "attention_bias": True,
    "head_dim": 16,
    "quantization_config": {"bits": 4},
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    "rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0},
    "partial_rotary_factor": 0.5,
    "hidden_size": "absent",
    "rms_norm_eps": "absent",
    "max_position_embeddings": "64",
    "num_hidden_layers": True,
    "num_attention_heads": 5,
    "num_key_value_heads": 3,
    "vocab_size": -1,
    "rope_theta": 1e4,  # and 5e5 in rope_parameters
}


@pytest.mark.parametrize("field", CONFIG_REFUSALS)
def test_a_config_that_the_decoder_cannot_follow_is_refused(saved, field):
    directory = saved({field: CONFIG_REFUSALS[field]})
    named = {"num_attention_heads": "n_heads", "num_key_value_heads": "n_kv_heads"}
    refused(lambda: hf.read_config(directory), str(directory), named.get(field, field))


def test_a_missing_theta_and_a_damaged_config_are_refused(saved, tmp_path):
    directory = saved({"rope_parameters": "absent"})
    refused(lambda: hf.read_config(directory), "rope_theta is missing")
    for text, message in (("{", "not valid JSON"), ("[]", "list")):
        (directory / "config.json").write_text(text)
        refused(lambda: hf.read_config(directory), message)
    refused(lambda: hf.read_config(tmp_path), "not found")


def test_tensors_of_another_model_are_refused(golden, saved):
    weights, key = golden[0], "model.layers.1.self_attn.k_norm.weight"
    extra = {"model.layers.2.mlp.up_proj.weight": weights["model.layers.1.mlp.up_proj.weight"]}
    directory = saved()
    cases = [
        ({k: v for k, v in weights.items() if k != key}, (key, "missing")),
        ({k: v for k, v in weights.items() if k != HEAD}, (HEAD, "missing")),
        (weights | extra, (next(iter(extra)), "unknown")),
        (weights | {EMBED: weights[EMBED][:60]}, (EMBED, "(60, 32)", "(64, 32)")),
        (weights | {key: weights[key].astype(np.float64)}, (key, "F64")),
    ]
    for changed, parts in cases:
        saved(weights=changed)
        refused(lambda: hf.read_params(directory, OLMO2), *parts)


@pytest.mark.parametrize("keep", [0, 4, 100, -4])
def test_a_damaged_file_is_refused(saved, keep):
    path = saved() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(lambda: hf.read_params(path.parent, OLMO2), str(path), "fetch it again")


def test_a_lost_file_is_refused(tmp_path, params):
    out = tmp_path / "out"
    hf.write(out, BIG, params, max_shard_bytes=40_000)
    shard = sorted(out.glob("*.safetensors"))[1]
    kept = shard.read_bytes()
    shard.unlink()
    refused(lambda: hf.read_params(out, BIG), str(shard), "not found")
    shard.write_bytes(kept)
    index = out / "model.safetensors.index.json"
    for text in ("{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": "../b.safetensors"}}'):
        index.write_text(text)
        refused(lambda: hf.read_params(out, BIG), str(index))
    index.unlink()
    refused(lambda: hf.read_params(out, BIG), "holds no model.safetensors")
    (out / "pytorch_model.bin").touch()
    refused(lambda: hf.read_params(out, BIG), "pickled")


def test_nothing_half_written_is_left(tmp_path, params, tokenizer, monkeypatch):
    out = tmp_path / "out"
    wrong = params | {"head": params["head"][:, :7]}
    small = replace(BIG, vocab_size=200)
    of_small = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), decoder.abstract_params(small))
    (tmp_path / "bad.json").write_text("{}")
    refused(lambda: hf.write(out, BIG, wrong), "not of the model")
    refused(lambda: hf.write(out, BIG, params, dtype="float16"), "bfloat16")
    refused(lambda: hf.write(out, BIG, params, tmp_path / "bad.json"), "bad.json")
    refused(lambda: hf.write(out, small, of_small, tokenizer), "ids up to 2", "200")
    (tmp_path / "bad.json").unlink()

    def full(tensors, path, metadata):
        if "00002" in path.name:
            raise OSError(28, "No space left on device")
        save_file(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(weights_, "save_file", full)
        refused(lambda: hf.write(out, BIG, params, None, "float32", 4e4), "No space left on device")
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    hf.write(out, BIG, params)  # an empty directory is enough
    before = sorted(out.iterdir())
    refused(lambda: hf.write(out, BIG, params), "is not empty: choose")
    refused(lambda: hf.write(out / "config.json", BIG, params), "cannot be written")
    assert sorted(out.iterdir()) == before


def test_a_fingerprint_tells_models_apart(tmp_path, params, monkeypatch):
    monkeypatch.setattr(checkpoint, "_PIECE", 64)
    out, again = tmp_path / "a", tmp_path / "b"
    hf.write(out, BIG, params)
    hf.write(again, BIG, params)
    known = hf.fingerprint(out)
    assert hf.fingerprint(again) == known
    weights, config = again / "model.safetensors", again / "config.json"
    kept = weights.read_bytes()
    start = 8 + int.from_bytes(kept[:8], "little")
    for at in (20, start, start + 1000, len(kept) - 1):
        weights.write_bytes(kept[:at] + bytes([kept[at] ^ 1]) + kept[at + 1 :])
        assert hf.fingerprint(again) != known
    weights.write_bytes(kept)
    assert hf.fingerprint(again) == known
    config.write_text(config.read_text().replace("1e-06", "1e-05"))
    assert hf.fingerprint(again) != known
    config.unlink()
    refused(lambda: hf.fingerprint(again), "config.json")
    refused(lambda: hf.fingerprint(tmp_path), "holds no model.safetensors")
