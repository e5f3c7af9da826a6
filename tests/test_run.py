"""From text to a forecast: order of scoring and forecasting, locks, controls, the report."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from fitting import table
from fitting.errors import InputError
from fitting.evaluation import lock
from fitting.forecast import ForecastSpec, diagnose, predict
from fitting.laws import CHINCHILLA, COMPUTE_ONLY, SIGMOID
from fitting.laws.curves import predict as curve_value
from fitting.observations.build import Observations, Windows
from fitting.observations.select import TargetRun
from fitting.report import report
from fitting.solve import multistart
from ladder_jax import cli, launch
from ladder_jax.ladder import Ladder, Recipe, Target
from ladder_jax.training import run_directory
from tests.test_train import MODEL, cache, run, text  # noqa: F401 (fixtures)

LAW = np.array([9.3, 0.3, 0.5])  # log A, alpha, E of compute
LINK = np.array([-0.65, 1.2, 6.0, 1.0])
GOAL = TargetRun("large", 8e6, 1.6e8, 7.7e15)


def planted(seed=0, noise=0.002, tasks=("moves", "still")):
    """Nine runs of a planted compute law and link; the second task does not move."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, n in enumerate((1e6, 2e6, 4e6)):
        for multiple in (5, 10, 20):
            for share in (0.25, 0.5, 0.75, 1.0):
                d = n * multiple * share
                c = 6 * n * d
                loss = float(curve_value(COMPUTE_ONLY, LAW, np.array([c])))
                loss *= np.exp(noise * rng.standard_normal())
                acc = float(curve_value(SIGMOID, LINK, loss)) + noise * rng.standard_normal()
                known = {"run": f"{i}-{multiple}", "size": str(i), "multiple": multiple,
                         "seed": 0, "step": int(400 * share), "n_params": int(n),
                         "n_params_total": int(n), "n_tokens": int(d), "flops": c, "lr": 0.0,
                         "lr_peak": 0.1, "n_examples": 1000}  # fmt: skip
                still = 0.25 + 0.01 * rng.standard_normal()
                for task, metric, value in (
                    ("moves", "bpb", loss), ("moves", "acc_per_char", acc),
                    ("still", "bpb", loss), ("still", "acc_per_char", still),
                    ("heldout", "lm_bpb", loss), ("heldout", "lm_loss", 2 * loss),
                ):  # fmt: skip
                    if task in (*tasks, "heldout"):
                        rows.append(known | {"task": task, "metric": metric, "value": value})
    frame = pd.DataFrame(rows, columns=list(table.COLUMNS))
    assert table.validate(frame) == []
    return frame


def truth(goal=GOAL):
    loss = float(curve_value(COMPUTE_ONLY, LAW, np.array([goal.flops])))
    return loss, float(curve_value(SIGMOID, LINK, loss))


def forecasts(frame, **settings):
    settings = {"method": "bootstrap", "inputs": "c", "tasks": ["heldout", "moves"]} | settings
    return predict.forecast(frame, ForecastSpec(["?-*"], [GOAL], **settings))


def test_bootstrap_finds_a_planted_law_and_holds_as_often_as_it_says():
    loss, accuracy = truth()
    hits = np.zeros(2)
    n = 25
    for seed in range(n):
        heldout, moves = forecasts(planted(seed), levels=[0.8])
        (row,) = heldout.rows
        assert row["pred_loss"] == pytest.approx(loss, rel=0.02)
        assert np.isnan([row["pred"], row["lo"], row["hi"]]).all()
        hits[0] += row["loss_lo"] <= loss <= row["loss_hi"]
        (row,) = moves.rows
        assert row["pred"] == pytest.approx(accuracy, abs=0.03)
        hits[1] += row["lo"] <= accuracy <= row["hi"]
    assert (hits >= 0.64 * n).all()  # the mean lies inside at least as often as new values do


def test_bootstrap_repeats_to_the_bit_and_widens_with_level():
    frame = planted()
    first, second = (predict.to_frame(forecasts(frame, levels=[0.5, 0.95])) for _ in range(2))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    narrow, wide = (g.set_index("task") for _, g in first.groupby("level"))
    assert (wide["loss_lo"] < narrow["loss_lo"]).all()
    assert (wide["loss_hi"] > narrow["loss_hi"]).all()


def test_a_run_resampled_to_nothing_leaves_no_trace():
    x = np.geomspace(1e12, 1e15, 9)[:, None]
    y = curve_value(COMPUTE_ONLY, LAW, x)
    y[3] *= 1.5
    none = np.zeros(0)
    data = Observations(
        COMPUTE_ONLY, None, x, y, none, none, none, Windows(*(none,) * 4), (0.25, 0.0)
    )
    weights = np.ones((1, 9))
    weights[0, 3] = 0
    starts = COMPUTE_ONLY.starts(np.log(x), np.log(y))[None]
    found = multistart.laws([data], weights, starts)
    np.testing.assert_allclose(found.theta[0, 0], LAW, rtol=1e-3)


def test_a_task_that_does_not_move_is_a_control():
    spec = ForecastSpec(["*"], [GOAL], ["moves", "still"], "bootstrap", inputs="c")
    moves, still = predict.forecast(planted(), spec)
    assert not diagnose.is_control(moves)
    assert diagnose.is_control(still)


def test_a_lock_covers_the_forecast_and_not_the_measurement(tmp_path):
    frame = planted()
    made = predict.to_frame(forecasts(frame))
    first = lock.make(made, frame, {"runs": {"a": "b"}}, "1")
    lock.hold(first, tmp_path / "predictions.lock")
    measured = made.assign(actual=0.7, abs_error=0.1, rel_error=0.1, actual_loss=1.0)
    lock.hold(lock.make(measured, frame, {"runs": {"a": "b"}}, "1"), tmp_path / "predictions.lock")
    changes = {
        "sha256": (made.assign(hi=made["hi"] + 1e-12), frame, {"runs": {"a": "b"}}, "1"),
        "data_sha256": (made, frame.assign(value=frame["value"] + 1e-12), first["config"], "1"),
        "config": (made, frame, {"runs": {"a": "c"}}, "1"),
        "version": (made, frame, {"runs": {"a": "b"}}, "2"),
    }
    for name, arguments in changes.items():
        other = lock.make(*arguments)
        assert other["sha256"] != first["sha256"]
        with pytest.raises(InputError, match=rf"another forecast \({name} differs\)"):
            lock.hold(other, tmp_path / "predictions.lock")


def test_the_report_names_what_it_was_made_from(tmp_path):
    frame = planted()
    loss, accuracy = truth()
    known = {"run": "large", "n_params": 8e6, "n_tokens": 1.6e8, "n_examples": 1000}
    target = pd.DataFrame(
        [known | {"task": "moves", "metric": m, "value": v} for m, v in
         (("bpb", loss), ("acc_per_char", accuracy))]
    )  # fmt: skip
    both = pd.concat([frame, target])
    *made, still = forecasts(both, tasks=["heldout", "moves", "still"])
    path = report.write(tmp_path, "A <ladder>", made, [still], both, {"hash": "abc123"})
    page = path.read_text()
    assert "A &lt;ladder&gt;" in page
    assert "abc123" in page
    assert f"<td>{100 * accuracy:.1f}</td>" in page
    assert "1 of 1 measured values lie in their 95% intervals" in page
    for name in ("step1", "step2", "chained", "forecast", "curves", "controls"):
        assert f'src="{name}.png"' in page
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


@pytest.fixture
def experiment(run, monkeypatch, cache):  # noqa: F811
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
        "t", sizes, (0.5, 1.0), recipe, base, {r.name: Target(r, r.n_tokens) for r in later}
    )
    module = SimpleNamespace(LADDER=ladder, FORECAST={"method": "bootstrap", "inputs": "c"})
    monkeypatch.setattr(cli.runs, "_experiment", lambda name: module)
    monkeypatch.setenv("LADDER_CACHE", str(cache))
    return module


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


def test_a_law_of_two_inputs_needs_more_runs_than_parameters():
    frame = planted()
    with pytest.raises(InputError, match="3 runs cannot fit the 5 parameters"):
        predict.forecast(frame, ForecastSpec(["0-*"], [GOAL], ["heldout"], "bootstrap"))
    assert len(CHINCHILLA.params) == 5
