"""Runs that are stopped or killed and started again have the losses of an undisturbed run."""

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from ladder_jax.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, RunConfig
from ladder_jax.config_text import to_json
from ladder_jax.eval import runs, store
from ladder_jax.runtime import preemption
from ladder_jax.training import run_directory
from ladder_jax.training.metrics_log import read
from tests.helpers import story

KILLED_WHILE_IT_SAVES = """
import os, signal, sys
from ladder_jax import cli
from ladder_jax.training import checkpoint
save = checkpoint.Checkpoints.save
def killed(self, step, *rest):
    save(self, step, *rest)
    if step == 16:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.Checkpoints.save = killed
if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i in range(12):
        (folder / f"{i}.txt").write_text(story(i), encoding="utf-8")
    return RunConfig(
        n_steps=24,
        batch_seqs=8,
        model=ModelConfig(
            d_model=32, n_heads=4, n_layers=2, d_ff=64, vocab_size=304, seq_len=16, init_std=0.0
        ),
        data=DataConfig("local", str(folder), vocab_size=300, heldout_fraction=0.25),
        optim=OptimConfig(lr_peak=0.01, warmup_steps=4),
        eval=EvalConfig(("cloze4",), n_checkpoints=3, every=12, heldout_tokens=400),
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def losses(directory):
    return {row["step"]: (row["loss"], row["grad_norm"]) for row in read(directory)}


def scores(run, directory):
    steps = sorted({*run_directory.scored_steps(run), *range(run.eval.every, 25, run.eval.every)})
    return [store.read(run_directory.scores_path(directory, s))["loglik"].tolist() for s in steps]


@pytest.fixture(scope="module")
def whole(run, cache, tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "r"
    runs.train_and_score(run, directory, cache, progress=False)
    return directory


def check_equal(run, directory, whole):
    assert losses(directory) == losses(whole)
    assert scores(run, directory) == scores(run, whole)
    assert run_directory.is_done(run, directory)


@pytest.mark.parametrize(
    ("workers", "nth"), [(0, 1), pytest.param(2, 1, marks=pytest.mark.slow), (0, 2), (0, 7)]
)
def test_sigterm_in_an_evaluation_loses_nothing(
    run, cache, whole, tmp_path, monkeypatch, workers, nth
):
    """A stop is requested at the nth poll of the evaluations: first in training, last after it."""
    real, polls = preemption.check, []

    def check():
        polls.append(1)
        if len(polls) == nth:
            os.kill(os.getpid(), signal.SIGTERM)
        real()

    run = replace(run, data=replace(run.data, workers=workers))
    monkeypatch.setattr(preemption, "check", check)
    with pytest.raises(preemption.Preempted):
        runs.train_and_score(run, tmp_path / "r", cache, progress=False)
    assert not run_directory.is_done(run, tmp_path / "r")
    saved = [int(p.name) for p in (tmp_path / "r" / "checkpoints").iterdir() if p.name.isdecimal()]
    assert max(saved) >= 12  # what the evaluation was of
    runs.train_and_score(run, tmp_path / "r", cache, progress=False)
    check_equal(run, tmp_path / "r", whole)


@pytest.mark.parametrize("at", [5, 8])  # between saves, and at one
def test_sigterm_in_training_saves(run, cache, whole, tmp_path, monkeypatch, at):
    real, polls = preemption.noticed, []
    before = signal.getsignal(signal.SIGTERM)

    def noticed():
        polls.append(1)
        if len(polls) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return real()

    monkeypatch.setattr(preemption, "noticed", noticed)
    with pytest.raises(preemption.Preempted):
        runs.train_and_score(run, tmp_path / "r", cache, progress=False)
    monkeypatch.undo()
    assert (tmp_path / "r" / "checkpoints" / str(at)).is_dir()
    assert signal.getsignal(signal.SIGTERM) == before  # given back
    runs.train_and_score(run, tmp_path / "r", cache, progress=False)
    check_equal(run, tmp_path / "r", whole)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_while_it_saves(run, cache, whole, tmp_path, capfd, workers):
    run = replace(run, data=replace(run.data, workers=workers))
    config, script = tmp_path / "config.json", tmp_path / "killed.py"
    config.write_text(to_json(run), encoding="utf-8")
    script.write_text(KILLED_WHILE_IT_SAVES, encoding="utf-8")
    command = [sys.executable, str(script), "train", str(config), "--out", str(tmp_path / "r")]
    ended = subprocess.run(command, env=os.environ | {"LADDER_CACHE": str(cache)}, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "r" / "checkpoints" / "16").exists()
    assert [p.name for p in (tmp_path / "r" / "checkpoints").glob("16*")]  # it had begun
    capfd.readouterr()
    runs.train_and_score(run, tmp_path / "r", cache, progress=False)
    assert "was only saved in part: removed" in capfd.readouterr().err
    check_equal(run, tmp_path / "r", whole)


def test_an_event_of_the_metadata_server_is_a_notice(monkeypatch):
    answers = {"/preempted": "FALSE", "/maintenance-event": "NONE"}

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers[self.path].encode())

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("LADDER_METADATA", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(preemption, "_POLL_S", 0.05)
        with preemption.watch():
            time.sleep(0.3)
            answers["/maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"
            time.sleep(0.3)
            assert not preemption.noticed()
            answers["/maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
            deadline = time.monotonic() + 20
            while not preemption.noticed() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert preemption.noticed()
            with pytest.raises(preemption.Preempted):
                preemption.check()
        with preemption.watch():  # restarted, while the event is still there
            time.sleep(0.3)
            assert not preemption.noticed()
        server.shutdown()
