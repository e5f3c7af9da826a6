"""`ladder run`: order of scoring and forecasting, and checks before anything is written."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from ladder_jax import cli, experiment, launch
from ladder_jax.training import run_directory


@pytest.mark.slow
def test_the_target_is_scored_after_the_forecast_and_a_kill_changes_nothing(
    small_experiment, tmp_path, monkeypatch, capsys
):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli.main(["run", "t", "--out", str(whole)]) == 0

    class Killed(BaseException):
        pass

    scored = launch.execute
    calls = []

    def killed(runs, *rest, **more):
        calls.append([r.name for r in runs])
        if len(calls) == 2:
            raise Killed
        return scored(runs, *rest, **more)

    monkeypatch.setattr(launch, "execute", killed)
    with pytest.raises(Killed):
        cli.main(["run", "t", "--out", str(cut)])
    assert calls[1] == ["c-1xC"]
    assert (cut / "predictions.lock").is_file()
    blind = pd.read_csv(cut / "predictions.csv")
    assert blind["actual_loss"].isna().all()
    assert not list((cut / "runs" / "c-1xC" / "evals").glob("*"))
    before = {p: p.stat().st_mtime_ns for p in (cut / "runs").rglob("evals/*")}
    monkeypatch.setattr(launch, "execute", scored)
    assert cli.main(["run", "t", "--out", str(cut)]) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before  # nothing scored twice
    for name in ("measurements.csv", "predictions.csv", "predictions.lock"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    done = pd.read_csv(cut / "predictions.csv")
    assert done["actual_loss"].notna().all()
    pd.testing.assert_series_equal(done["pred_loss"], blind["pred_loss"], check_exact=True)
    assert (cut / "report" / "index.html").is_file()
    assert run_directory.is_done(
        small_experiment.ladder.targets["c-1xC"].run, cut / "runs" / "c-1xC"
    )

    capsys.readouterr()
    ask = ["score", "--predictions", str(cut / "predictions.csv"), "--measurements",
           str(cut / "measurements.csv"), "--out", str(tmp_path / "scored.csv")]  # fmt: skip
    assert cli.main(ask) == 0
    assert "the fitted runs are not in" not in capsys.readouterr().out
    assert (tmp_path / "scored.csv").read_bytes() == (cut / "predictions.csv").read_bytes()

    (cut / "predictions.lock").rename(tmp_path / "kept")
    assert cli.main(["run", "t", "--out", str(cut)]) == 2
    assert "c-1xC was scored before its forecast was locked" in capsys.readouterr().err
    (tmp_path / "kept").rename(cut / "predictions.lock")

    lock_file = json.loads((cut / "predictions.lock").read_text())
    (cut / "predictions.lock").write_text(json.dumps(lock_file | {"version": "0"}))
    capsys.readouterr()
    assert cli.main(["run", "t", "--out", str(cut)]) == 2
    assert "holds another forecast (version differs)" in capsys.readouterr().err


def test_nothing_is_written_before_data_and_flags_are_right(
    small_experiment, tmp_path, monkeypatch, capsys
):
    out, ladder = tmp_path / "out", small_experiment.ladder
    lost = replace(ladder.base, data=replace(ladder.base.data, path=str(tmp_path / "lost")))
    elsewhere = replace(small_experiment, ladder=replace(ladder, base=lost))
    monkeypatch.setattr(experiment, "load", lambda name: elsewhere)
    for flags, message in (
        ([], "lost"),
        (["--optim.lr_peak", "3"], "the rest is the experiment's config"),
        (["--mesh.fdsp", "3"], "did you mean --mesh.fsdp"),
        (["--resources", "cpu=1"], "takes no flags of ray"),
        (["--executor", "ray", "--resources", "x:cpu=1"], "no size 'x'"),
    ):
        assert cli.main(["run", "t", "--out", str(out), *flags]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()
    with launch.held(out):
        assert cli.main(["run", "t", "--out", str(out), "--data.path", ladder.base.data.path]) == 2
    assert "another ladder run is at work there" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == [".lock"]
