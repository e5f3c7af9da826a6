"""The training loop: logs, interrupted runs, corrupt checkpoints, divergence, bad input."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fitting.errors import InputError
from ladder_jax import parallel
from ladder_jax.config import (
    EvalConfig,
    MeshConfig,
    RunConfig,
)
from ladder_jax.config_text import load_json
from ladder_jax.data import pipeline
from ladder_jax.eval import runs
from ladder_jax.measurements import own_runs
from ladder_jax.training import initialize, loop, run_directory, step
from ladder_jax.training.checkpoint import Checkpoints
from ladder_jax.training.metrics_log import read
from tests.helpers import MODEL, results


@pytest.fixture(scope="module")
def undisturbed(run, cache, tmp_path_factory):
    """The run, trained and scored."""
    directory = tmp_path_factory.mktemp("undisturbed") / "r"
    runs.train_and_score(run, directory, cache, progress=False)
    return directory


@pytest.fixture
def trained(undisturbed, tmp_path):
    """A copy of the trained run, which a test may change."""
    return shutil.copytree(undisturbed, tmp_path / "r")


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
    """All data files of a checkpoint: which bytes of a file are used varies, so all are damaged."""
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
    message = capsys.readouterr().err
    assert "checkpoint 24 is corrupt" in message
    assert len(message.splitlines()) == 1
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


def test_an_unwritable_directory_is_one_line(run, tmp_path, cache):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        runs.train_and_score(run, tmp_path / "file" / "r", cache, progress=False)


def test_batches_must_divide_over_the_mesh(run, tmp_path, cache):
    with pytest.raises(InputError, match="`batch_seqs` 6 does not divide over 8"):
        runs.train_and_score(replace(run, batch_seqs=6), tmp_path / "r", cache, progress=False)
    with pytest.raises(InputError, match="needs 6 devices, there are 8"):
        parallel.make_mesh(MeshConfig(data=2, fsdp=3))
