"""A run directory: its steps, and the one config that it belongs to."""

from dataclasses import replace

import pytest

from fitting.errors import InputError
from ladder_jax.eval import runs
from ladder_jax.training import run_directory


def test_scored_checkpoints_are_spread_over_the_saved_and_end_with_the_last(run):
    sparse = replace(run, n_steps=100, checkpoint_every=10)
    assert runs.scored_steps(sparse) == [40, 70, 100]
    assert runs.scored_steps(replace(sparse, eval=replace(run.eval, n_checkpoints=1))) == [100]
    assert runs.scored_steps(run) == run_directory.checkpoint_steps(run) == [8, 16, 24]


def test_a_directory_belongs_to_one_config(run, tmp_path, cache):
    run_directory.claim_directory(run, tmp_path)
    other = replace(run, optim=replace(run.optim, lr_peak=0.02))
    with pytest.raises(InputError, match=r"another config \(optim.lr_peak is 0.01 there, 0.02 he"):
        runs.train_and_score(other, tmp_path, cache, progress=False)


def test_checkpoints_are_spread_and_end_at_the_end(run):
    assert run_directory.checkpoint_steps(run) == [8, 16, 24]
    assert run_directory.checkpoint_steps(replace(run, checkpoint_every=10)) == [10, 20, 24]
    assert run_directory.checkpoint_steps(replace(run, n_steps=2)) == [1, 2]
