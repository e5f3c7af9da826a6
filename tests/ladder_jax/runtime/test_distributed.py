"""Runs of two real processes over gloo, stopped and continued by another number of processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
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
from ladder_jax.config_text import to_json
from ladder_jax.eval import store
from ladder_jax.runtime import distributed, preemption
from ladder_jax.training import run_directory
from ladder_jax.training.metrics_log import read
from tests.helpers import story

COMMAND = [sys.executable, "-m", "ladder_jax.cli"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i in range(12):
        (folder / f"{i}.txt").write_text(story(i), encoding="utf-8")
    return RunConfig(
        n_steps=120,
        batch_seqs=8,
        checkpoint_every=40,
        model=ModelConfig(
            d_model=32, n_heads=4, n_layers=2, d_ff=64, vocab_size=304, seq_len=16, init_std=0.0
        ),
        data=DataConfig("local", str(folder), vocab_size=300, heldout_fraction=0.25),
        optim=OptimConfig(lr_peak=0.003, warmup_steps=4),
        mesh=MeshConfig(data=-1, fsdp=2),
        eval=EvalConfig(("cloze4",), n_checkpoints=1, every=60, heldout_tokens=400),
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(run, directory, cache, n_processes):
    """`ladder train` of a run."""
    config = directory.with_name(f"{directory.name}.json")
    config.write_text(to_json(run), encoding="utf-8")
    return command(["train", str(config), "--out", str(directory)], cache, n_processes)


def command(arguments, cache, n_processes):
    """`ladder` in processes of two simulated devices each."""
    address, processes = f"127.0.0.1:{free_port()}", []
    env = os.environ | {
        "LADDER_CACHE": str(cache),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "OMP_NUM_THREADS": "1",
    }
    for i in range(n_processes):
        joined = ["--coordinator", address, "--process-count", str(n_processes)]
        joined += ["--process-id", str(i)]
        whole = [*COMMAND, *arguments, *joined]
        processes.append(subprocess.Popen(whole, env=env, stderr=subprocess.PIPE, text=True))
    return processes


def end(processes):
    errors = [p.communicate(timeout=300)[1] for p in processes]
    return [p.returncode for p in processes], errors


def tell_when(process, directory, step):
    """Sends SIGTERM once a step is logged."""
    deadline = time.monotonic() + 240
    while not any(row["step"] >= step for row in read(directory)):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)


def losses(directory):
    return {row["step"]: row["loss"] for row in read(directory) if row["step"] % 10 == 0}


@pytest.fixture(scope="module")
def alone(run, cache, tmp_path_factory):
    directory = tmp_path_factory.mktemp("alone") / "r"
    one_device = replace(run, mesh=MeshConfig(data=2))
    codes, errors = end(start(one_device, directory, cache, 1))
    assert codes == [0], errors
    return directory


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes(run, cache, alone, tmp_path, first, then):
    directory = tmp_path / "r"
    processes = start(run, directory, cache, first)
    tell_when(processes[-1], directory, 20)  # of two, the one that does not write
    codes, errors = end(processes)
    assert codes == [preemption.EXIT_CODE] * first, errors
    assert "stop requested; everything is saved" in errors[0]
    saved = [int(p.name) for p in (directory / "checkpoints").iterdir() if p.name.isdecimal()]
    assert max(saved) < 120
    codes, errors = end(start(run, directory, cache, then))
    assert codes == [0] * then, errors
    ours, theirs = losses(directory), losses(alone)
    assert sorted(ours) == sorted(theirs) == list(range(10, 121, 10))
    np.testing.assert_allclose([*ours.values()], [*theirs.values()], atol=1e-5)
    assert run_directory.is_done(run, directory)
    a, b = (store.read(run_directory.scores_path(d, 120))["loglik"] for d in (directory, alone))
    np.testing.assert_allclose(a, b, atol=1e-3)
    a, b = (
        json.loads(run_directory.eval_path(d, 120, "heldout").read_text())
        for d in (directory, alone)
    )
    assert a["values"]["lm_loss"] == pytest.approx(b["values"]["lm_loss"], abs=1e-4)


def test_two_processes_score_as_one(alone, cache, tmp_path):
    task = tmp_path / "mine.jsonl"
    rows = [
        {"context": f"{i} and", "choices": [" the people", " a law", " it"], "gold": i % 3}
        for i in range(40)
    ]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = []
    for n in (1, 2):
        asked = [
            "--checkpoint",
            str(alone),
            "--tasks",
            str(task),
            "--out",
            str(tmp_path / f"{n}.csv"),
        ]
        kept = tmp_path / f"{n}.parquet"
        codes, errors = end(command(["eval", *asked, "--store", str(kept)], cache, n))
        assert codes == [0] * n, errors
        found.append(store.read(kept)["loglik"])
        assert (tmp_path / f"{n}.csv").is_file()
    np.testing.assert_allclose(*found, atol=1e-4)


def test_each_process_reads_its_own_rows():
    mesh = parallel.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    assert parallel.own_rows(2, 8, mesh).tolist() == list(range(8))


PORT = free_port()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "127.0.0.1:1"}, "go together: give all three"),
        (
            {"coordinator": "127.0.0.1:1", "process_count": 2, "process_id": 1, "timeout_s": 1},
            "nobody answers at `coordinator` 127.0.0.1:1 within 1 s",
        ),
        (
            {
                "coordinator": f"127.0.0.1:{PORT}",
                "process_count": 3,
                "process_id": 0,
                "timeout_s": 1,
            },
            "process 1 of 3 did not come to .* within 1 s",
        ),
        (
            {"coordinator": "nowhere", "process_count": 2, "process_id": 1},
            "`coordinator` 'nowhere' is not HOST:PORT",
        ),
        (
            {"coordinator": "127.0.0.1:1", "process_count": 2, "process_id": 2},
            "`process_id` 2 must lie in 0 to 1",
        ),
    ],
)
def test_processes_that_cannot_join_give_the_reason(given, message):
    with pytest.raises(InputError, match=message):
        distributed.initialize(**given)


def test_one_process_needs_no_others(monkeypatch):
    distributed.initialize()
    distributed.initialize("127.0.0.1:1", 1, 0)
    monkeypatch.setenv("LADDER_PROCESS_COUNT", "two")
    with pytest.raises(InputError, match="LADDER_PROCESS_COUNT 'two' is not a whole number"):
        distributed.initialize()
