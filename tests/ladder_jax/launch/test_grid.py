"""Runs in parallel, and real kills: a run ended by SIGKILL resumes to the bit."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from fitting.errors import InputError
from ladder_jax import launch
from ladder_jax.config_text import to_json
from ladder_jax.launch.executor import Ended, Job
from ladder_jax.launch.local import Local
from ladder_jax.measurements import own_runs
from ladder_jax.runtime import locks
from ladder_jax.runtime.preemption import EXIT_CODE
from ladder_jax.training import loop as training
from ladder_jax.training import metrics_log, run_directory
from tests.helpers import results


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Gives started processes one device, which halves the time of compilation."""
    monkeypatch.setenv("XLA_FLAGS", "")


def grid(run):
    return [replace(run, name=f"r{i}", size=f"s{i}", seed=i, n_steps=16) for i in range(3)]


def test_one_worker_and_two_train_the_same_bits(run, tmp_path, cache):
    runs = grid(run)
    launch.train_all(runs, tmp_path / "two", cache, workers=2)
    launch.train_all(runs[:1], tmp_path / "again", cache, workers=1)
    states = [launch.progress(r, launch.run_directory(tmp_path / "two", r))["state"] for r in runs]
    assert states == ["done"] * 3
    first = results(launch.run_directory(tmp_path / "two", runs[0]))
    assert results(launch.run_directory(tmp_path / "again", runs[0])) == first
    table = own_runs.from_runs(tmp_path / "two")
    assert set(table["run"]) == {"r0", "r1", "r2"}
    assert set(table["metric"]) == {"lm_loss", "lm_bpb"}
    assert table["lr"].notna().all()
    assert table.groupby("run")["n_tokens"].max().tolist() == [16 * 8 * 16] * 3


def test_one_failing_run_does_not_stop_the_others(run, tmp_path, cache):
    good, bad, _ = grid(run)
    bad = replace(bad, data=replace(bad.data, source="local", path=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match=r"run r1 failed: .*data.path.* does not exist"):
        launch.train_all([bad, good], tmp_path / "out", cache, workers=2)
    assert run_directory.is_done(good, launch.run_directory(tmp_path / "out", good))


def test_a_run_of_another_config_is_refused_by_the_grid(run, tmp_path, cache):
    first = grid(run)[0]
    other = replace(first, optim=replace(first.optim, lr_peak=0.02))
    launch.train_all([other], tmp_path, cache, workers=1)
    with pytest.raises(InputError, match=r"r0 belongs to another config \(optim.lr_peak"):
        launch.train_all([first], tmp_path, cache, workers=1)
    step = run_directory.scored_steps(other)[0]
    run_directory.eval_path(launch.run_directory(tmp_path, other), step, "heldout").unlink()
    assert not run_directory.is_done(other, launch.run_directory(tmp_path, other))


def test_a_manifest_belongs_to_one_experiment(run, tmp_path):
    runs = grid(run)
    launch.claim_manifest("x", runs, tmp_path)
    launch.claim_manifest("x", runs, tmp_path)
    with pytest.raises(
        InputError, match=r"belongs to another config \(seed of run .r1. is 1 there, 9 here\)"
    ):
        launch.claim_manifest("x", [runs[0], replace(runs[1], seed=9), runs[2]], tmp_path)


def test_a_second_process_is_kept_out(run, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_S", 0.1)  # of train
    with (
        locks.held(tmp_path / locks.FILE, "mine"),
        pytest.raises(InputError, match="another process is training it"),
    ):
        training.train(run, tmp_path, cache, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == [locks.FILE]


def start(config, out, cache):
    command = [sys.executable, "-m", "ladder_jax.cli", "train", str(config), "--out", str(out)]
    env = {"LADDER_CACHE": str(cache), "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"}
    env |= {key: value for key, value in os.environ.items() if key.startswith("JAX_")}
    return subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def kill_when(process, condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_killed_three_times_a_run_ends_bit_for_bit_the_same(run, tmp_path, cache):
    long = replace(run, n_steps=120, checkpoint_every=20)
    config = tmp_path / "config.json"
    config.write_text(to_json(long))
    assert start(config, tmp_path / "whole", cache).wait() == 0
    out = tmp_path / "cut"

    def reached(step):
        return lambda: any(r["step"] >= step for r in metrics_log.read(out))

    def saving():
        return reached(60)() and any((out / "checkpoints").glob("*tmp*"))

    for moment in (reached(30), saving, reached(110)):
        kill_when(start(config, out, cache), moment)
    assert not run_directory.is_done(long, out)
    assert start(config, out, cache).wait() == 0
    assert results(out) == results(tmp_path / "whole")
    assert json.loads((out / "config.json").read_text())["n_steps"] == 120


def test_a_stop_request_reaches_queued_jobs_too(run, tmp_path):
    jobs = [Job(r, tmp_path / r.name, True) for r in grid(run)]
    with Local(1, tmp_path) as local:
        local._queue.extend(jobs)
        local.notify()
        assert local.ended(0.1) == [Ended(job, EXIT_CODE) for job in jobs]
        assert local.ended(0.1) == []
