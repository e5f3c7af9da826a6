"""Hugging Face models: from a hub, through run directories, and loaded by transformers."""

import contextlib
import http.server
import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file

from ladder_jax import hf, parallel
from ladder_jax.cli import models
from ladder_jax.config import DataConfig, MeshConfig, RunConfig
from ladder_jax.config_text import load_json, to_json
from ladder_jax.data.pipeline import prepare
from ladder_jax.data.tokenizer import load
from ladder_jax.measurements import own_runs
from ladder_jax.models import decoder
from ladder_jax.training import optimizer
from ladder_jax.training.checkpoint import Checkpoints
from ladder_jax.training.initialize import TrainState, abstract_state
from ladder_jax.training.loop import _meta, train
from ladder_jax.training.run_directory import claim_directory, is_trained, scored_steps, write_eval
from tests.helpers import BIG, OLMO2, refused, same, story

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves the few addresses of a hub that are needed to fetch a snapshot."""

    files: dict[str, bytes] = {}  # noqa: RUF012 (one hub at a time)
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self.asked.append(f"{self.command} {self.path}")
        kind, body = "application/json", b""
        status, headers = 200, {"X-Repo-Commit": COMMIT, "ETag": '"0"'}
        if self.path in (
            "/api/models/org/model/revision/main",
            "/api/models/org/model/revision/v1",
        ):
            body = json.dumps({"id": "org/model", "sha": COMMIT, "siblings": []}).encode()
        elif self.path.startswith(f"/api/models/org/model/tree/{COMMIT}"):
            known = {"type": "file", "oid": "0" * 40}
            rows = [known | {"path": k, "size": len(v)} for k, v in self.files.items()]
            body = json.dumps(rows).encode()
        elif self.path.startswith(f"/org/model/resolve/{COMMIT}/"):
            name = self.path.rsplit("/", 1)[1]
            kind, body, headers["ETag"] = "application/octet-stream", self.files[name], f'"{name}"'
        elif "org/broken" in self.path:
            status = 500
        else:
            code = "GatedRepo" if "gated" in self.path else "RepoNotFound"
            code = "RevisionNotFound" if "revision/none" in self.path else code
            status, headers = 404 if "Rev" in code else 401, {"X-Error-Code": code}
        self.send_response(status)
        headers |= {"Content-Type": kind, "Content-Length": str(len(body))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server that huggingface_hub uses as the hub, until the test ends or `stop` is called."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(Hub, "files", {})
    monkeypatch.setattr(Hub, "asked", [])

    def stop():
        server.shutdown()
        server.server_close()

    yield SimpleNamespace(handler=Hub, stop=stop)
    with contextlib.suppress(OSError):
        stop()


def test_a_model_is_fetched_from_the_hub_once(hub, tmp_path, params, tokenizer):
    hf.write(tmp_path / "out", BIG, params, tokenizer, max_shard_bytes=45_000)
    hub.handler.files = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    hub.handler.files |= {"pytorch_model.bin": b"pickled", "README.md": b"words"}
    found = hf.locate("org/model")
    wanted = set(hub.handler.files) - {"pytorch_model.bin", "README.md"}
    assert {p.name for p in found.iterdir()} == wanted
    assert not [line for line in hub.handler.asked if "pytorch_model" in line or "README" in line]
    assert hf.read_config(found) == BIG
    assert same(hf.read_params(found, BIG), params)
    assert hf.fingerprint(found) == hf.fingerprint(tmp_path / "out")
    hub.handler.asked.clear()
    assert hf.locate("org/model@v1") == found
    assert not [line for line in hub.handler.asked if "resolve" in line]
    hub.stop()
    assert hf.locate("org/model") == found


def test_a_model_missing_on_the_hub_gets_one_line(hub, tmp_path, monkeypatch):
    refused(lambda: hf.locate("org/none"), "org/none is neither a directory nor a model")
    refused(lambda: hf.locate("org/gated"), "gated", "accept its terms")
    refused(lambda: hf.locate("org/model@none"), "no revision 'none'")
    refused(lambda: hf.locate("a--b/c"), "cannot be a model")
    refused(lambda: hf.locate("org/broken"), "cannot be reached")
    asked = len(hub.handler.asked)
    for name in ("", "model", "./org/model", "/org/model", "a/b/c", "org/model@"):
        refused(lambda name=name: hf.locate(name), repr(name), "give a directory or org/model")
    assert len(hub.handler.asked) == asked
    assert hf.locate(str(tmp_path)) == tmp_path
    hub.stop()
    refused(lambda: hf.locate("org/other"), "org/other is no directory", "cannot be reached")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(lambda: hf.locate("org/model"), "cannot be reached")

    def cut(*args, **kwargs):
        raise RuntimeError("peer closed the connection\nafter 7 bytes")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cut)
    refused(lambda: hf.locate("org/model"), "peer closed the connection", "try again")


def importing(source, out, n_tokens=64_000):
    models.import_hf(SimpleNamespace(hf=str(source), out=str(out), n_tokens=n_tokens))


def exporting(run_directory, out, step=None, dtype="float32"):
    models.export_hf(
        SimpleNamespace(checkpoint=str(run_directory), step=step, out=str(out), dtype=dtype)
    )


def test_a_model_goes_through_a_run_directory_to_the_bit(
    tmp_path,
    params,
    tokenizer,
    capsys,
):
    source, out, back = tmp_path / "source", tmp_path / "runs" / "mine", tmp_path / "back"
    hf.write(source, BIG, params, tokenizer)
    importing(source, out)
    assert "64,000 tokens, with a tokenizer" in capsys.readouterr().out
    made = load_json(RunConfig, out / "config.json")
    assert made == RunConfig(name="source", n_steps=1, batch_seqs=4000, model=BIG)
    assert is_trained(made, out)
    assert scored_steps(made) == [1]
    train(made, out, tmp_path / "no-cache")  # nothing is left to train, and no text is read
    assert not (tmp_path / "no-cache").exists()
    write_eval(out, 1, "heldout", {"lm_loss": 2.0}, 7)
    assert set(own_runs.from_runs(out.parent)["n_tokens"]) == {64_000}

    exporting(out, back)
    assert "source at step 1" in capsys.readouterr().out
    assert hf.fingerprint(back) == hf.fingerprint(source)
    assert {p.name: p.read_bytes() for p in back.iterdir()} == {
        p.name: p.read_bytes() for p in source.iterdir()
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "runs", "source"]
    assert [p.name for p in out.parent.iterdir()] == ["mine"]


def test_an_imported_state_has_the_form_of_a_trained_one(tmp_path, params):
    hf.write(tmp_path / "source", BIG, params)
    importing(tmp_path / "source", tmp_path / "run")
    made = load_json(RunConfig, tmp_path / "run" / "config.json")
    mesh = parallel.make_mesh(MeshConfig(fsdp=4, tensor=2))  # another than it was saved on
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    try:
        state, meta = checkpoints.restore(abstract_state(made, mesh), 1)
    finally:
        checkpoints.close()
    assert same(state.params, params)
    assert int(state.step) == 1
    assert not any(np.any(x) for x in jax.tree.leaves(state.moments))
    assert meta["data"] == {"next_batch": 1, "fingerprint": "imported"}
    assert meta["config"]["model"]["d_model"] == BIG.d_model


def test_an_import_is_made_once(tmp_path, params, capsys):
    source, out = tmp_path / "a" / "source", tmp_path / "run"
    hf.write(source, BIG, params)
    importing(source, out)
    assert "without a tokenizer" in capsys.readouterr().out
    made = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    importing(source, out)
    assert "already" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == made
    refused(lambda: importing(source, out, 1e6), "batch_seqs", "another")
    other = tmp_path / "b" / "source"
    hf.write(other, BIG, jax.tree.map(lambda x: x + 1, params))
    refused(lambda: importing(other, out), "other weights", "another `out`")
    (out / "imported.json").unlink()
    refused(lambda: importing(source, out), "not imported", "another `out`")
    (out / "config.json").unlink()
    refused(lambda: importing(source, out), "is not empty: choose")


def test_a_failed_import_leaves_nothing(tmp_path, params):
    source, out = tmp_path / "source", tmp_path / "run"
    hf.write(source, BIG, params)
    refused(lambda: importing(source, out, 3), "`n_tokens`", "16")
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    refused(lambda: importing(source, out), "fetch it again")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def save_steps(run, directory, packed, params):
    """Two checkpoints as written by training, but without the time of compilation."""
    moments = optimizer.transformation(run.model, run.optim).init(jax.tree.map(jnp.asarray, params))
    saved = {1: params, 2: jax.tree.map(lambda x: x * np.float32(1.1), params)}
    checkpoints = Checkpoints(directory / "checkpoints")
    for step, values in saved.items():
        state = TrainState(jnp.int32(step), jax.tree.map(jnp.asarray, values), moments)
        checkpoints.save(step, state, _meta(run, packed, step))
    checkpoints.close()
    return saved


def test_a_trained_run_is_exported(tmp_path, params, monkeypatch):
    text, cache, directory = tmp_path / "text", tmp_path / "cache", tmp_path / "run"
    text.mkdir()
    for i in range(8):
        (text / f"{i}.txt").write_text(story(i), encoding="utf-8")
    monkeypatch.setenv("LADDER_CACHE", str(cache))
    data = DataConfig("local", str(text), vocab_size=300, heldout_fraction=0.25)
    run = RunConfig(n_steps=2, checkpoint_every=1, model=BIG, data=data)
    refused(lambda: exporting(directory, tmp_path / "out"), "config.json")
    claim_directory(run, directory)
    refused(lambda: exporting(directory, tmp_path / "out"), "no checkpoint yet")
    packed = prepare(data, BIG.seq_len, cache)
    saved = save_steps(run, directory, packed, params)
    exporting(directory, tmp_path / "newest", dtype="bfloat16")
    exporting(directory, tmp_path / "second", 2)
    exporting(directory, tmp_path / "first", 1)
    read = {p: hf.read_params(tmp_path / p, BIG) for p in ("newest", "second", "first")}
    assert same(read["first"], saved[1])
    assert same(read["second"], saved[2])
    halved = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(np.float32), saved[2])
    assert same(read["newest"], halved)
    kept = hf.tokenizer_file(tmp_path / "first")
    assert kept.read_bytes() == (packed.directory / "tokenizer.json").read_bytes()
    refused(lambda: exporting(directory, tmp_path / "out", 7), "step 7", "1, 2")
    refused(lambda: exporting(directory, tmp_path / "first"), "is not empty: choose")
    changed = replace(run, data=replace(data, heldout_fraction=0.5))
    (directory / "config.json").write_text(to_json(changed))
    refused(lambda: exporting(directory, tmp_path / "out"), "other text")
    assert not (tmp_path / "out").exists()


def assert_close(model, ours, tokens, expected):
    found = jax.jit(lambda p, t: decoder.bind(model, p)(t))(ours, tokens)
    difference = float(np.abs(found - expected).max())
    print(f"max |difference| of logits {difference:.2g}, their spread {expected.std():.2g}")
    assert expected.std() > 0.1
    assert difference < 2e-5


@pytest.mark.parametrize("shard_bytes", [5e9, 45_000])
@pytest.mark.parametrize("model", [BIG, replace(OLMO2, vocab_size=320)], ids=["plain", "grouped"])
def test_transformers_loads_what_we_write(tmp_path, tokenizer, model, shard_bytes):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    rng = np.random.default_rng(2)

    def spread(path, x):  # scales around 1, not 1, at which a lost one would not show
        around = rng.normal(1 if path[-1].key == "scale" else 0, 0.2, x.shape)
        return around.astype(np.float32)

    ours = jax.tree_util.tree_map_with_path(spread, decoder.abstract_params(model))
    hf.write(tmp_path / "out", model, ours, tokenizer, "float32", shard_bytes)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True, dtype="auto"
    )
    assert not any(report.values()), report
    assert theirs.dtype == torch.float32
    tokens = rng.integers(0, model.vocab_size, (2, model.seq_len))
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(tokens)).logits.numpy()
    assert_close(model, ours, tokens, expected)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words.eos_token == "<|endoftext|>"
    assert words.model_max_length == model.seq_len
    spoken = words("the cat sat", return_tensors="pt")
    assert spoken["input_ids"][0].tolist() == load(tokenizer).encode("the cat sat").ids
    assert theirs.generate(**spoken, max_new_tokens=3, pad_token_id=0).shape[0] == 1


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_we_read_what_transformers_writes(tmp_path, kind, tied):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    rope = {"rope_type": "default", "rope_theta": 1e4}
    torch.manual_seed(0)
    theirs = transformers.Olmo2ForCausalLM(
        transformers.Olmo2Config(
            vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
            rope_theta=1e4, rope_parameters=rope, tie_word_embeddings=tied, pad_token_id=None,
            eos_token_id=0,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            spread = 0.3 * torch.randn_like(parameter)
            parameter.copy_(1 + spread if "norm" in name else spread)
    theirs.to(getattr(torch, kind)).save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    theirs = transformers.Olmo2ForCausalLM.from_pretrained(tmp_path / "theirs", dtype="float32")
    tokens = torch.randint(0, 96, (2, 32))
    with torch.no_grad():
        expected = theirs.eval()(tokens).logits.numpy()
    model = hf.read_config(tmp_path / "theirs")
    ours = hf.read_params(tmp_path / "theirs", model)
    assert_close(model, ours, tokens.numpy(), expected)
    hf.write(tmp_path / "ours", model, ours, None, kind)
    again = load_file(tmp_path / "ours" / "model.safetensors")
    for path in Path(tmp_path / "theirs").glob("*.safetensors"):
        for name, values in load_file(path).items():
            np.testing.assert_array_equal(again[name], values)
