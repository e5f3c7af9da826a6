"""A tiny run on made-up text, and a cache for its tokens."""

import pytest

from ladder_jax.config import DataConfig, EvalConfig, OptimConfig, RunConfig
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
