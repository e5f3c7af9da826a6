"""The steps of a study, one by one, and ladders that grow."""

from dataclasses import replace

import pandas as pd
import pytest

from fitting.errors import InputError
from fitting.evaluation import lock
from ladder_jax import cli, launch
from ladder_jax.runtime.paths import cache_dir
from ladder_jax.study import Study


def scripted(monkeypatch):
    """Replaces training: records, for each call, the names of the runs that it should train."""
    calls = []

    def execute(runs, out, executor, withheld=()):
        calls.append(([run.name for run in runs], set(withheld)))

    monkeypatch.setattr(launch, "execute", execute)
    return calls


def test_training_and_scoring_are_apart(small_experiment, tmp_path, monkeypatch):
    calls = scripted(monkeypatch)
    made = Study(small_experiment, tmp_path)
    made.train()
    grid = ["a-0.5xC", "a-1xC", "b-0.5xC", "b-1xC"]
    assert calls == [([*grid, "c-1xC"], {"c-1xC"})]
    with pytest.raises(InputError, match="lock the forecast before the targets are scored"):
        made.score_targets()
    (tmp_path / "predictions.lock").write_text("{}")
    made.score_targets()
    assert calls[1] == (["c-1xC"], set())
    made.train(targets=False)
    assert calls[2] == (grid, {"c-1xC"})


def test_a_ladder_may_grow_until_its_forecast_is_locked(small_experiment, tmp_path, monkeypatch):
    scripted(monkeypatch)
    ladder = small_experiment.ladder
    Study(small_experiment, tmp_path).train()
    grown = replace(small_experiment, ladder=replace(ladder, multiples=(0.5, 1, 2), seeds=(0, 1)))
    made = Study(grown, tmp_path)
    assert {run.name for run in made.grid} >= {"a-0.5xC", "a-2xC", "a-0.5xC-s1"}
    made.check()
    made.train()
    assert launch.new_runs(made.grid, tmp_path) == []
    with pytest.raises(InputError, match=r"run 'a-0.5xC-s1' is there, and not in the experiment"):
        Study(small_experiment, tmp_path).train()
    (tmp_path / "predictions.lock").write_text("{}")
    further = replace(grown, ladder=replace(grown.ladder, seeds=(0, 1, 2)))
    with pytest.raises(InputError, match=r"made without run 'a-0.5xC-s2': use another `out`"):
        Study(further, tmp_path).check()


def test_the_directory_of_another_config_is_refused_by_its_field(
    small_experiment, tmp_path, monkeypatch
):
    scripted(monkeypatch)
    Study(small_experiment, tmp_path).train()
    ladder = small_experiment.ladder
    other = replace(ladder, base=replace(ladder.base, optim=replace(ladder.base.optim, eps=1e-6)))
    with pytest.raises(InputError, match=r"optim.eps of run 'a-0.5xC' is 1e-08 there, 1e-06 here"):
        Study(replace(small_experiment, ladder=other), tmp_path).train()


@pytest.mark.parametrize(
    ("forecast", "line"),
    [
        (None, "has targets and no FORECAST: add FORECAST = {}"),
        ({"way": "bayes"}, "FORECAST: no field 'way': use method,"),
        ({"train": ["a*"]}, "FORECAST: no field 'train'"),
        ({"chance": [1]}, "FORECAST: `chance` is .*: give a dict"),
        ({"method": "bays"}, "FORECAST: `method` bays: not known; use"),
    ],
)
def test_a_forecast_that_cannot_be_made_is_refused_before_any_work(
    forecast, line, small_experiment, tmp_path
):
    made = Study(replace(small_experiment, forecast=forecast), tmp_path / "out")
    with pytest.raises(InputError, match=line):
        made.check()
    assert not (tmp_path / "out").exists()


def test_overrides_reach_all_runs_and_others_are_refused(small_experiment, tmp_path):
    made = Study(small_experiment, tmp_path, {"data.workers": 2, "model.scan_layers": True})
    assert {run.data.workers for run in [*made.grid, *made.targets]} == {2}
    assert {run.model.scan_layers for run in made.grid} == {True}
    with pytest.raises(InputError, match="the rest is the experiment's config"):
        Study(small_experiment, tmp_path, {"optim.lr_peak": 1})
    with pytest.raises(InputError, match="`out` must name a directory"):
        Study(small_experiment, "")


@pytest.mark.slow
def test_the_steps_one_by_one_give_what_the_command_gives(small_experiment, tmp_path):
    assert cli.main(["run", "t", "--out", str(tmp_path / "command")]) == 0
    made = Study(small_experiment, tmp_path / "steps", executor=launch.Local(2, cache_dir()))
    made.train()
    before = made.measure()
    assert set(before["run"]) == {run.name for run in made.grid}
    forecast = made.forecast()
    assert lock.read(made.out / "predictions.lock") == forecast.lock
    made.score_targets()
    report = made.report()
    assert report.page.is_file()
    assert report.predictions["actual_loss"].notna().all()
    for name in ("measurements.csv", "predictions.csv", "predictions.lock"):
        ours, theirs = (tmp_path / d / name for d in ("steps", "command"))
        assert ours.read_bytes() == theirs.read_bytes(), name
    again = Study(small_experiment, tmp_path / "steps").report()
    pd.testing.assert_frame_equal(again.predictions, report.predictions)
