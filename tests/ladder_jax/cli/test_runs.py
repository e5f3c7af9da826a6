"""`ladder run`: order of scoring and forecasting, and checks before anything is written."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from ladder_jax import cli, launch
from ladder_jax.ladder import Ladder, Recipe
from ladder_jax.ladder import Target as LadderTarget
from ladder_jax.training import run_directory
from tests.helpers import MODEL


@pytest.fixture
def experiment(run, monkeypatch, cache):
    """Four tiny runs and a target on made-up text, held-out loss alone.

    On one device and of few layers, which is what compiling them takes.
    """
    monkeypatch.setenv("XLA_FLAGS", "")  # of the workers
    recipe = Recipe(batch_seqs_ref=8, batch_exponent=0.0, batch_granularity=8, lr_ref=1e-3,
                    extra_steps=0, tokens_per_param=0.1)  # fmt: skip
    base = replace(run, eval=replace(run.eval, n_checkpoints=2))
    small = replace(MODEL, n_layers=1)
    sizes = {"a": replace(small, d_model=16, d_ff=32), "b": small}
    later = Ladder("t", {"c": MODEL}, (1.0,), recipe, base).runs()
    ladder = Ladder(
        "t", sizes, (0.5, 1.0), recipe, base, {r.name: LadderTarget(r, r.n_tokens) for r in later}
    )
    module = SimpleNamespace(LADDER=ladder, FORECAST={"method": "bootstrap", "inputs": "c"})
    monkeypatch.setattr(cli.runs, "_experiment", lambda name: module)
    monkeypatch.setenv("LADDER_CACHE", str(cache))
    return module


@pytest.mark.slow
def test_the_target_is_scored_after_the_forecast_and_a_kill_changes_nothing(
    experiment, tmp_path, monkeypatch, capsys
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
    assert run_directory.is_done(experiment.LADDER.targets["c-1xC"].run, cut / "runs" / "c-1xC")

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
    experiment, tmp_path, monkeypatch, capsys
):
    out, ladder = tmp_path / "out", experiment.LADDER
    lost = replace(ladder.base, data=replace(ladder.base.data, path=str(tmp_path / "lost")))
    monkeypatch.setattr(experiment, "LADDER", replace(ladder, base=lost))
    for flags, complaint in (
        ([], "lost"),
        (["--optim.lr_peak", "3"], "the rest is the experiment's config"),
        (["--mesh.fdsp", "3"], "did you mean --mesh.fsdp"),
        (["--resources", "cpu=1"], "takes no flags of ray"),
        (["--executor", "ray", "--resources", "x:cpu=1"], "no size 'x'"),
    ):
        assert cli.main(["run", "t", "--out", str(out), *flags]) == 2
        assert complaint in capsys.readouterr().err
        assert not out.exists()
    with launch.held(out):
        assert cli.main(["run", "t", "--out", str(out), "--data.path", ladder.base.data.path]) == 2
    assert "another ladder run is at work there" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == [".lock"]
