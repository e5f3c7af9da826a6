"""A tiny run and a small experiment on invented text, and a cache for its tokens."""

from dataclasses import replace

import pytest

from ladder_jax import experiment
from ladder_jax.config import DataConfig, EvalConfig, OptimConfig, RunConfig
from ladder_jax.experiment import Experiment
from ladder_jax.ladder import Ladder, Recipe, Target
from tests.helpers import MODEL, story


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder of twelve text files."""
    folder = tmp_path_factory.mktemp("text")
    for i in range(12):
        (folder / f"{i}.txt").write_text(story(i), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(text):
    """The config of a run of 24 steps with three scored checkpoints."""
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
    """An empty folder for tokenized text."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small_experiment(run, monkeypatch, cache):
    """Four tiny runs and a target on invented text, with held-out loss only; any name loads it.

    Layers are few and workers have one device, to compile quickly.
    """
    monkeypatch.setenv("XLA_FLAGS", "")  # of the workers
    monkeypatch.setenv("LADDER_CACHE", str(cache))
    recipe = Recipe(batch_seqs_ref=8, batch_exponent=0.0, batch_granularity=8, lr_ref=1e-3,
                    extra_steps=0, tokens_per_param=0.1)  # fmt: skip
    base = replace(run, eval=replace(run.eval, n_checkpoints=2))
    small = replace(MODEL, n_layers=1)
    sizes = {"a": replace(small, d_model=16, d_ff=32), "b": small}
    later = Ladder("t", {"c": MODEL}, (1.0,), recipe, base).runs()
    targets = {r.name: Target(r, r.n_tokens) for r in later}
    ladder = Ladder("t", sizes, (0.5, 1.0), recipe, base, targets)
    made = Experiment(ladder, {"method": "bootstrap", "inputs": "c"})
    monkeypatch.setattr(experiment, "load", lambda name: made)
    return made
