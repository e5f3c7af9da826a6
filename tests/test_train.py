"""Training: golden step, sharding, schedule, and resuming to the bit."""

import functools
import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fitting.errors import InputError
from ladder_jax import parallel
from ladder_jax.config import (
    DataConfig,
    EvalConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
)
from ladder_jax.config_text import load_json
from ladder_jax.data import pipeline
from ladder_jax.eval import heldout, runs
from ladder_jax.measurements import own_runs
from ladder_jax.models import decoder
from ladder_jax.models.protocol import PADDING
from ladder_jax.training import initialize, loop, optimizer, run_directory, step
from ladder_jax.training.checkpoint import Checkpoints
from ladder_jax.training.metrics_log import read
from ladder_jax.training.schedule import learning_rate, schedule_of
from tests.test_data import story

MODEL = ModelConfig(
    d_model=32, n_heads=4, n_layers=2, d_ff=64, vocab_size=304, seq_len=16, init_std=0.0
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i in range(12):
        (folder / f"{i}.txt").write_text(story(i), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(text):
    return RunConfig(
        name="tiny",
        n_steps=24,
        batch_seqs=8,
        model=MODEL,
        data=DataConfig("local", str(text), vocab_size=300, heldout_fraction=0.25),
        optim=OptimConfig(lr_peak=0.01, warmup_steps=4),
        eval=EvalConfig(n_checkpoints=3, heldout_tokens=400),
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undisturbed(run, cache, tmp_path_factory):
    """The run, trained and scored."""
    directory = tmp_path_factory.mktemp("undisturbed") / "r"
    runs.train_and_score(run, directory, cache, progress=False)
    return directory


@pytest.fixture
def trained(undisturbed, tmp_path):
    """A copy of it, to do with as one likes."""
    return shutil.copytree(undisturbed, tmp_path / "r")


def results(directory):
    evals = {p.name: p.read_text() for p in sorted((directory / "evals").iterdir())}
    losses = [(r["step"], r["loss"], r["grad_norm"], r["lr"]) for r in read(directory)]
    return evals, losses


def test_scored_checkpoints_are_spread_over_the_saved_and_end_with_the_last(run):
    sparse = replace(run, n_steps=100, checkpoint_every=10)
    assert runs.scored_steps(sparse) == [40, 70, 100]
    assert runs.scored_steps(replace(sparse, eval=replace(run.eval, n_checkpoints=1))) == [100]
    assert runs.scored_steps(run) == run_directory.checkpoint_steps(run) == [8, 16, 24]


def mesh_of(**axes):
    config = MeshConfig(**axes)
    n = config.fsdp * config.tensor * max(config.data, 1)
    return parallel.make_mesh(replace(config, data=max(config.data, 1)), jax.devices()[:n])


def one_step(mesh, params, batch, constants=None):
    constants = constants or OptimConfig()
    params = jax.tree.map(jnp.array, params)  # the step donates its state
    moments = optimizer.transformation(MODEL, constants).init(params)
    state = initialize.TrainState(jnp.zeros((), jnp.int32), params, moments)
    state = jax.device_put(state, initialize.state_sharding(MODEL, constants, mesh))
    rows = jax.device_put({"tokens": batch[None]}, parallel.micro_batch_sharding(mesh))
    with parallel.use_mesh(mesh):
        return step.make_step(MODEL, constants, mesh)(
            state, rows, schedule_of(OptimConfig(lr_peak=0.1), 10)
        )


BATCH = np.random.default_rng(0).integers(0, 304, (8, 17)).astype(np.int32)


def test_one_step_is_adamw_written_out():
    """The step against AdamW, clipping and both loss terms in numpy, from the paper's settings."""
    params = decoder.init_params(MODEL, jax.random.key(0))
    batch = BATCH.copy()
    batch[0, 9:] = PADDING

    def objective(p):
        inputs, targets = np.maximum(batch[:, :-1], 0), batch[:, 1:]
        logits = decoder.bind(MODEL, p)(inputs)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        gold = jnp.take_along_axis(logits, np.maximum(targets, 0)[..., None], axis=-1)[..., 0]
        counted = targets != PADDING
        ce = jnp.sum((log_z - gold) * counted) / counted.sum()
        return ce + 1e-5 * jnp.sum(log_z**2 * counted) / counted.sum(), ce

    (_, loss), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
    state, metrics = one_step(mesh_of(data=1), params, batch)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-6)
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    lr = float(metrics["lr"])

    def expected(path, p, g):
        g = np.asarray(g) * min(1.0, 1.0 / norm)
        direction = g / (np.abs(g) + 1e-8)  # the first step of Adam, bias-corrected
        decay = 0.0 if path[0].key == "embed" else 0.1
        return p - lr * (direction + decay * p)

    clipped = jax.tree.map(lambda g: np.asarray(g) * min(1.0, 1.0 / norm), grads)
    adam = state.moments[1]
    for moment, rate, power in ((adam.mu, 1 - 0.9, 1), (adam.nu, 1 - 0.95, 2)):
        for m, g in zip(jax.tree.leaves(moment), jax.tree.leaves(clipped), strict=True):
            np.testing.assert_allclose(m, rate * g**power, rtol=2e-3, atol=1e-8)
    wanted = jax.tree_util.tree_map_with_path(expected, params, grads)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


MESHES = [
    {"data": 8},
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"fsdp": 2, "tensor": 4},
    {"data": 1, "micro_seqs": 2},
    {"data": 2, "fsdp": 2, "micro_seqs": 1},
]


@functools.cache
def fresh():
    """A state as runs begin with it."""
    return jax.device_get(initialize.init_state(RunConfig(model=MODEL), mesh_of(data=1)))


def steps_on(n, model=MODEL, **axes):
    """Losses of n steps, gradient norms, and the state after them."""
    config, constants = MeshConfig(**axes), OptimConfig()
    mesh = mesh_of(**{k: v for k, v in axes.items() if k != "micro_seqs"})
    n_micro = parallel.micro_batches(8, config, mesh)
    state = jax.device_put(
        fresh(), initialize.state_sharding(model, constants, mesh), may_alias=False
    )
    own = parallel.own_rows(n_micro, 8, mesh)
    function, found = step.make_step(model, constants, mesh), []
    schedule = schedule_of(OptimConfig(lr_peak=0.01), 10)
    with parallel.use_mesh(mesh):
        for i in range(n):
            batch = np.roll(BATCH, i, axis=1)
            batch[3, 5:] = PADDING  # micro-batches of unequal weight
            batch = parallel.put_batch({"tokens": batch}, own, n_micro, 8, mesh)
            state, metrics = function(state, batch, schedule)
            found.append((float(metrics["loss"]), float(metrics["grad_norm"])))
    return found, state


@pytest.fixture(scope="module")
def on_one_device():
    return steps_on(5, data=1)


@pytest.mark.parametrize("axes", MESHES, ids=str)
def test_five_steps_on_any_mesh_are_those_of_one_device(axes, on_one_device):
    alone, spread = on_one_device, steps_on(5, **axes)
    np.testing.assert_allclose(spread[0], alone[0], atol=1e-5)
    first, second = (state.moments[1].mu for _, state in (alone, spread))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    "change", [{"loss_chunk": 0}, {"loss_chunk": 24}, {"scan_layers": True}, {"linear": "custom"}]
)
def test_five_steps_computed_otherwise_are_the_same(change, on_one_device):
    alone, other = on_one_device, steps_on(5, model=replace(MODEL, **change), data=1)
    np.testing.assert_allclose(other[0], alone[0], atol=1e-5)


def test_a_batch_that_does_not_divide_is_refused():
    mesh = mesh_of(data=4, fsdp=2)
    with pytest.raises(InputError, match="`batch_seqs` 12 does not divide over 8 data x fsdp dev"):
        parallel.micro_batches(12, MeshConfig(), mesh)
    with pytest.raises(InputError, match=r"micro_seqs` 2 does not divide the 3 .* one of 1, 3"):
        parallel.micro_batches(24, MeshConfig(micro_seqs=2), mesh)
    assert parallel.micro_batches(24, MeshConfig(micro_seqs=1), mesh) == 3


def test_parameters_and_moments_lie_where_the_rules_say(run):
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    state = initialize.init_state(run, mesh)
    for a, b in zip(*map(jax.tree.leaves, (state, fresh())), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # drawn as on one device
    gate = state.params["layers"]["mlp"]["gate"]
    assert tuple(gate.sharding.spec) == (None, "fsdp", "tensor")
    assert gate.addressable_shards[0].data.shape == (2, 32 // 2, 64 // 2)
    assert tuple(state.params["embed"].sharding.spec) == ("tensor", "fsdp")
    adam = state.moments[1]
    for moments in (adam.mu, adam.nu):
        jax.tree.map(lambda m, p: assert_same(m.sharding, p.sharding), moments, state.params)
    after, _ = one_step(mesh, state.params, BATCH)
    jax.tree.map(
        lambda m, p: assert_same(m.sharding, p.sharding), after.moments[1].nu, after.params
    )


SPECS = {
    "embed": ("tensor", "fsdp"),
    "head": ("fsdp", "tensor"),
    "norm/scale": (None,),
    "layers/attention/query": (None, "fsdp", "tensor"),
    "layers/attention/key": (None, "fsdp", "tensor"),
    "layers/attention/value": (None, "fsdp", "tensor"),
    "layers/attention/out": (None, "tensor", "fsdp"),
    "layers/attention/query_norm/scale": (None, None),
    "layers/attention/key_norm/scale": (None, None),
    "layers/attention_norm/scale": (None, None),
    "layers/mlp/gate": (None, "fsdp", "tensor"),
    "layers/mlp/up": (None, "fsdp", "tensor"),
    "layers/mlp/down": (None, "tensor", "fsdp"),
    "layers/mlp_norm/scale": (None, None),
}


def test_the_spec_of_every_parameter(run):
    shards = initialize.state_sharding(MODEL, run.optim, mesh_of(fsdp=4, tensor=2)).params
    found = {
        "/".join(key.key for key in path): tuple(shard.spec)
        for path, shard in jax.tree_util.tree_flatten_with_path(shards)[0]
    }
    assert found == SPECS


def assert_same(a, b):
    assert a == b


def test_a_mesh_of_one_device_is_a_mesh(run):
    state = initialize.init_state(run, mesh_of(data=1))
    assert tuple(state.params["head"].sharding.spec) == ("fsdp", "tensor")


def test_the_schedule_warms_up_and_falls_to_a_tenth():
    config = OptimConfig(lr_peak=2.0, warmup_steps=5)
    schedule = schedule_of(config, 105)
    rates = np.array([learning_rate(schedule, jnp.float32(s)) for s in range(105)])
    np.testing.assert_allclose(rates[:5], [0.4, 0.8, 1.2, 1.6, 2.0], rtol=1e-6)
    assert rates.argmax() in (4, 5)
    assert rates[54] == pytest.approx(2 * (0.1 + 0.9 / 2), rel=1e-5)
    assert rates[-1] == pytest.approx(0.2, rel=1e-6)
    reference = optax.cosine_decay_schedule(2.0, 100, alpha=0.1)
    np.testing.assert_allclose(rates[5:], [reference(s) for s in range(1, 101)], rtol=1e-5)


def test_losses_cover_the_same_text_in_nats_and_bytes(run, cache):
    packed = pipeline.prepare(run.data, MODEL.seq_len, cache)
    whole = heldout.Heldout.of(packed, 10**9)
    assert whole.n_bytes == packed.info.heldout_bytes
    assert whole.n_tokens == packed.info.n_tokens["heldout"]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), decoder.abstract_params(MODEL))
    uniform = heldout.measure(MODEL, zeros, whole)
    assert uniform["lm_loss"] == pytest.approx(np.log(304), rel=1e-6)
    bits = np.log2(304) * whole.n_tokens / whole.n_bytes
    assert uniform["lm_bpb"] == pytest.approx(bits, rel=1e-6)
    few = heldout.Heldout.of(packed, 100)
    assert few.n_sequences == 7
    assert few.n_bytes < whole.n_bytes


def test_a_run_learns_logs_and_measures(run, trained, cache):
    assert load_json(RunConfig, trained / "config.json") == run
    rows = read(trained)
    assert [r["step"] for r in rows] == [8, 10, 16, 20, 24]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.3
    assert rows[-1]["n_tokens"] == 24 * 8 * 16
    packed = pipeline.prepare(run.data, MODEL.seq_len, cache)
    assert rows[-1]["epoch"] == 24 * 8 * 16 / packed.info.n_tokens["train"]
    evals = [json.loads(t) for t in results(trained)[0].values()]
    assert [e["step"] for e in evals] == [8, 16, 24]
    assert evals[-1]["values"]["lm_bpb"] < evals[0]["values"]["lm_bpb"]
    assert run_directory.is_done(run, trained)
    before = results(trained)
    runs.train_and_score(run, trained, cache, progress=False)  # nothing left to do
    assert results(trained) == before


def test_a_run_is_scored_on_its_tasks_once(run, tmp_path, cache):
    run = replace(run, n_steps=8, eval=EvalConfig(("cloze4",), 2, heldout_tokens=400))
    runs.train_and_score(run, tmp_path / "r", cache, progress=False)
    stores = sorted((tmp_path / "r" / "evals").glob("scores-*.parquet"))
    assert [p.name for p in stores] == ["scores-00000004.parquet", "scores-00000008.parquet"]
    stamps = [p.stat().st_mtime_ns for p in stores]
    stores[1].unlink()
    runs.train_and_score(run, tmp_path / "r", cache, progress=False)
    assert stores[0].stat().st_mtime_ns == stamps[0]  # nothing is scored twice
    table = own_runs.from_runs(tmp_path)
    cloze = table[(table["task"] == "cloze4") & (table["step"] == 8)].set_index("metric")["value"]
    assert cloze["bpb"] > 0
    assert 0 < cloze["acc"] < 1
    assert set(table["task"]) == {"cloze4", "heldout"}


class Killed(Exception):
    pass


@pytest.mark.parametrize("where", ["between saves", "before the first save"])
def test_an_interrupted_run_ends_bit_for_bit_as_an_undisturbed_one(
    run, undisturbed, tmp_path, cache, monkeypatch, where
):
    real, calls = loop._collect, []

    def collect(*args):
        calls.append(args[1])
        if len(calls) == (4 if where == "between saves" else 1):
            raise Killed
        return real(*args)

    monkeypatch.setattr(loop, "_collect", collect)
    with pytest.raises(Killed):
        runs.train_and_score(run, tmp_path / "cut", cache, progress=False)
    monkeypatch.undo()
    runs.train_and_score(run, tmp_path / "cut", cache, progress=False)
    assert results(tmp_path / "cut") == results(undisturbed)
    mesh = parallel.make_mesh(run.mesh)
    ends = []
    for directory in (tmp_path / "cut", undisturbed):
        kept = Checkpoints(directory / "checkpoints")
        ends.append(kept.restore_newest(initialize.abstract_state(run, mesh))[0])
        kept.close()
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def damage(directory, how):
    """All data files, as some bytes of each are of no use any more, and which ones varies."""
    meta = directory / "meta" / "metadata"
    if how in ("meta", "digest"):
        tree = json.loads(meta.read_text())
        tree["digest"] = tree["digest"][::-1]
        meta.write_text(json.dumps(tree if how == "digest" else {}))
        return
    for path in [p for p in (directory / "state").rglob("*") if p.is_file()]:
        content = bytearray(path.read_bytes())
        if how == "emptied":
            path.unlink()
        elif path.parent.name == "d" and how == "cut short":
            path.write_bytes(content[: len(content) // 2])
        elif path.parent.name == "d":
            content[::512] = bytes(byte ^ 0x10 for byte in content[::512])
            path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut short", "flipped", "emptied", "meta", "digest"])
def test_a_corrupt_checkpoint_falls_back_to_the_one_before(run, trained, cache, capsys, how):
    whole = results(trained)
    damage(trained / "checkpoints" / "24", how)
    (trained / "evals" / "heldout-00000024.json").unlink()
    capsys.readouterr()
    runs.train_and_score(run, trained, cache, progress=False)
    said = capsys.readouterr().err
    assert "checkpoint 24 is corrupt" in said
    assert len(said.splitlines()) == 1
    assert results(trained) == whole
    assert run_directory.is_done(run, trained)


def test_divergence_names_step_and_last_good_checkpoint(run, tmp_path, cache, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 3)
    real = step.make_step

    def broken(*args):
        inner = real(*args)

        def broken_step(state, batch, schedule):
            state, metrics = inner(state, batch, schedule)
            bad = state.step == 11
            return state, metrics | {"loss": jnp.where(bad, jnp.nan, metrics["loss"])}

        return broken_step

    monkeypatch.setattr(loop, "make_step", broken)
    with pytest.raises(loop.Diverged, match=r"loss is nan at step 11; .*step 8 in .*checkp"):
        runs.train_and_score(run, tmp_path / "r", cache, progress=False)
    assert not (tmp_path / "r" / "checkpoints" / "16").exists()


def test_a_first_step_to_nowhere_is_no_success(run, tmp_path, cache):
    wild = replace(run, n_steps=1, optim=replace(run.optim, lr_peak=1e38, warmup_steps=0))
    with pytest.raises(loop.Diverged, match=r"at step 1; last good .* none"):
        runs.train_and_score(wild, tmp_path / "r", cache, progress=False)
    assert not (tmp_path / "r" / "checkpoints" / "1").exists()


def test_a_passing_read_error_loses_nothing(run, trained, monkeypatch):
    kept = Checkpoints(trained / "checkpoints")

    def busy(*args, **kwargs):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(kept._manager, "restore", busy)
    with pytest.raises(InputError, match="checkpoint 24 cannot be read: Too many open files"):
        kept.restore_newest(initialize.abstract_state(run, parallel.make_mesh(run.mesh)))
    assert kept.steps() == [8, 16, 24]
    kept.close()


def test_bad_input_leaves_nothing_behind(run, tmp_path, cache):
    out = tmp_path / "r"
    bad = [
        replace(run, data=replace(run.data, path=str(tmp_path / "nowhere"))),
        replace(run, model=replace(run.model, vocab_size=64)),
        replace(run, batch_seqs=6),
        replace(run, mesh=MeshConfig(data=1, tensor=8)),
    ]
    for wrong in bad:
        with pytest.raises(InputError):
            runs.train_and_score(wrong, out, cache, progress=False)
        assert not out.exists()


def test_a_directory_belongs_to_one_config(run, tmp_path, cache):
    run_directory.claim_directory(run, tmp_path)
    other = replace(run, optim=replace(run.optim, lr_peak=0.02))
    with pytest.raises(InputError, match=r"another config \(optim.lr_peak is 0.01 there, 0.02 he"):
        runs.train_and_score(other, tmp_path, cache, progress=False)


def test_an_unwritable_directory_is_one_line(run, tmp_path, cache):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        runs.train_and_score(run, tmp_path / "file" / "r", cache, progress=False)


def test_batches_must_divide_over_the_mesh(run, tmp_path, cache):
    with pytest.raises(InputError, match="`batch_seqs` 6 does not divide over 8"):
        runs.train_and_score(replace(run, batch_seqs=6), tmp_path / "r", cache, progress=False)
    with pytest.raises(InputError, match="needs 6 devices, there are 8"):
        parallel.make_mesh(MeshConfig(data=2, fsdp=3))


def test_checkpoints_are_spread_and_end_at_the_end(run):
    assert run_directory.checkpoint_steps(run) == [8, 16, 24]
    assert run_directory.checkpoint_steps(replace(run, checkpoint_every=10)) == [10, 20, 24]
    assert run_directory.checkpoint_steps(replace(run, n_steps=2)) == [1, 2]
