"""`ladder status`: the state of a run from its directory, also after it was killed."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from ladder_jax import cli, launch
from ladder_jax.launch import attempts
from ladder_jax.runtime import locks
from ladder_jax.runtime.preemption import EXIT_CODE
from ladder_jax.training import metrics_log, run_directory


@pytest.fixture
def directory(run, tmp_path):
    return launch.run_directory(tmp_path, run)


def state(run, directory):
    return launch.progress(run, directory)["state"]


def log(directory, **row):
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / metrics_log.METRICS_FILE, "a") as file:
        file.write(json.dumps({"step": 10, "loss": 2.5, "tokens_per_s": 100.0} | row) + "\n")


def test_a_run_passes_through_its_states(run, directory):
    assert state(run, directory) == "waiting"
    attempts.end(directory, EXIT_CODE, "")  # stopped before it was started
    assert state(run, directory) == "waiting"
    with attempts.record(directory):
        assert state(run, directory) == "running"
        log(directory)
        log(directory, step=20, mfu=0.5)
        (directory / metrics_log.METRICS_FILE).open("a").write('{"step": 2')  # being written
        now = launch.progress(run, directory)
        assert (now["step"], now["loss"], now["mfu"]) == (20, 2.5, 0.5)
        assert now["eta_s"] == pytest.approx(4 * run.batch_tokens / 100)
    assert state(run, directory) == "interrupted"
    attempts.end(directory, EXIT_CODE, "")
    assert state(run, directory) == "interrupted"
    attempts.end(directory, 2, "the loss is NaN")
    assert state(run, directory) == "failed"
    assert launch.progress(run, directory)["reason"] == "the loss is NaN"
    with attempts.record(directory):  # tried again
        assert state(run, directory) == "running"
    (directory / "checkpoints" / str(run.n_steps)).mkdir(parents=True)
    attempts.end(directory, 0, "")
    assert state(run, directory) == "to score"
    for step in run_directory.scored_steps(run):
        run_directory.write_eval(directory, step, "heldout", {"lm_loss": 1.0}, 1)
    assert state(run, directory) == "done"


def test_a_killed_process_does_not_count_as_working(run, directory):
    script = (
        "import pathlib, sys, time\nfrom ladder_jax.launch import attempts\n"
        "with attempts.record(pathlib.Path(sys.argv[1])): print(flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, directory], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert state(run, directory) == "running"
    process.kill()
    process.wait()
    assert state(run, directory) == "interrupted"


def test_plain_training_is_seen_too(run, directory):
    log(directory)
    with locks.held(directory / locks.FILE, ""):
        assert state(run, directory) == "running"
    assert state(run, directory) == "interrupted"


def test_on_another_machine_the_time_of_the_file_decides(run, directory, monkeypatch):
    here = socket.gethostname()
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    with attempts.record(directory):
        pass
    assert state(run, directory) == "interrupted"
    monkeypatch.setattr(socket, "gethostname", lambda: here)
    assert state(run, directory) == "running"
    old = time.time() - 600
    os.utime(directory / attempts.FILE, (old, old))
    assert state(run, directory) == "interrupted"
    attempts.end(directory, 0, "")
    assert state(run, directory) == "interrupted"


def test_the_command_finds_the_experiment_by_its_directory(
    run,
    directory,
    tmp_path,
    capsys,
):
    runs = [run, replace(run, name="second")]
    assert cli.main(["status", str(tmp_path)]) == 2
    assert "holds no experiment" in capsys.readouterr().err
    launch.claim_manifest("t", runs, tmp_path)
    attempts.end(directory, 2, "the loss is NaN")
    assert cli.main(["status", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "waiting" in shown
    assert "tiny failed: the loss is NaN" in shown
    assert "MFU" not in shown
    log(directory, mfu=0.415)
    assert cli.main(["status", str(tmp_path)]) == 0
    assert "41.5%" in capsys.readouterr().out
    assert cli.main(["status", str(tmp_path), "--json"]) == 0
    states = {r["run"]: r["state"] for r in json.loads(capsys.readouterr().out)["runs"]}
    assert states == {"tiny": "failed", "second": "waiting"}
