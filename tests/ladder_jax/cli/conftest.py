"""A cache with invented public tasks, models and scored runs for the tests of `ladder eval`."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from ladder_jax import hf, parallel
from ladder_jax.downloads import public_tasks
from ladder_jax.eval import loglik
from ladder_jax.eval.runs import train_and_score
from ladder_jax.runtime import compilation
from ladder_jax.training import loop, optimizer
from ladder_jax.training.initialize import TrainState
from tests.eval_home import (
    MINE,
    MODEL,
    Scored,
    one_device,
    rest_of_mmlu,
    shardings,
    trained_on,
    weights,
)
from tests.helpers import write_jsonl
from tests.olmes_wheels import publish, tokenizer


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Invented public tasks in the cache, models, a tokenizer and a user's own task."""
    root = tmp_path_factory.mktemp("home")
    words = tokenizer(root / "bpe")
    (root / "tokenizer.json").write_bytes(words)
    params = weights()
    hf.write(root / "tiny", MODEL, params, root / "tokenizer.json")
    hf.write(root / "bare", MODEL, params)
    hf.write(root / "other", MODEL, params | {"head": -params["head"]}, root / "tokenizer.json")
    few = params | {"embed": params["embed"][:288], "head": params["head"][:, :288]}
    hf.write(root / "few", replace(MODEL, vocab_size=288), few)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LADDER_CACHE", str(root / "cache"))
        patch.setattr(public_tasks, "WHEELS", publish(root / "wheels", words, rest_of_mmlu()))
        patch.setattr(compilation, "keep", lambda cache: None)
        patch.setattr(compilation, "hold_memory", lambda: None)
        patch.setattr(parallel, "make_mesh", one_device)
        public_tasks.olmes(root / "wheels")
        mine = write_jsonl(root / "mine.jsonl", MINE)
        yield SimpleNamespace(root=root, cache=root / "cache", params=params, mine=mine)


@pytest.fixture(scope="module")
def runs(home):
    """One run that was scored while it trained, and the same run that was not."""
    watched, plain = trained_on(home, n_checkpoints=1, every=4), trained_on(home, n_checkpoints=2)

    def begun(run, mesh):  # compiling what draws it takes seconds for each run
        moments = optimizer.transformation(run.model, run.optim).init(home.params)
        state = TrainState(jnp.int32(0), home.params, moments)
        return jax.device_put(state, shardings(run, mesh))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "init_state", begun)
        for run, name in ((watched, "watched"), (plain, "plain")):
            train_and_score(run, home.root / name, home.cache, progress=False)
    return SimpleNamespace(watched=watched, plain=plain)


@pytest.fixture
def old(home, runs, tmp_path):
    """A copy of the run that was scored only at its checkpoints."""
    return shutil.copytree(home.root / "plain", tmp_path / "runs" / "old")


@pytest.fixture
def idle(monkeypatch):
    """A switch: after its call, computing a score raises `Scored`; after a second call, not."""
    real = loglik._computed

    def refuse(*args):
        raise Scored
        yield

    def switch(on=True):
        monkeypatch.setattr(loglik, "_computed", refuse if on else real)

    return switch
