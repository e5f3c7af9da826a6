"""Backtests: the training runs of a split, separate scores of targets, bad input."""

import pandas as pd
import pytest

from fitting import table
from fitting.errors import InputError
from fitting.evaluation import backtest
from fitting.forecast import ForecastSpec
from fitting.observations import select
from ladder_jax import cli
from tests.planted import LADDER, TARGET, planted

METHODS = {name: ForecastSpec(tasks=["t"], method=name) for name in ("laplace", "least-squares")}


def test_no_held_out_run_trains_and_all_are_larger():
    frame = planted(0, 0.0, 0.0).sample(frac=1, random_state=1)
    runs = [run for run in frame["run"].unique() if run != TARGET]
    found = backtest.splits(frame, runs)
    assert list(found) == ["up to 4e+08", "up to 8e+08"]
    n_params = frame.groupby("run")["n_params"].max()
    for below, above in found.values():
        assert sorted([*below, *above]) == sorted(runs)
        assert n_params[below].max() < n_params[above].min()
    assert [len(below) for below, _ in found.values()] == [8, 12]
    unnamed = backtest.splits(frame.assign(size=""), runs)  # as an empty cell is read
    assert list(unnamed.values()) == list(found.values())


def test_a_held_out_run_is_measured_at_its_end():
    frame = planted(0, 0.0, 0.0)
    run = frame["run"].iloc[0]
    kept = select.without_early_evaluations(frame, [run])
    tokens = frame.loc[frame["run"] == run, "n_tokens"]
    expected = tokens[tokens >= 0.85 * tokens.max()]
    assert kept.loc[kept["run"] == run, "n_tokens"].tolist() == expected.tolist()
    assert 0 < len(expected) < len(tokens)
    assert (kept["run"] != run).sum() == (frame["run"] != run).sum()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backtest")
    table.write(planted(0, 0.004, 0.004), folder / "m.csv")
    return folder


def command(folder, *more, train=LADDER):
    ask = ["backtest", "--measurements", str(folder / "m.csv"), "--train", *train, "--tasks", "t",
           "--methods", "paper", "least-squares", "--out", str(folder / "b.csv")]  # fmt: skip
    return cli.main([*ask, *more])


def test_targets_are_scored_apart(folder, capsys):
    assert command(folder, "--target", TARGET, "--figures", str(folder / "f")) == 0
    before, after = capsys.readouterr().out.split(
        f"scored once, from all training runs: {TARGET}\n"
    )
    cells = pd.read_csv(folder / "b.csv")
    assert list(cells.columns) == list(backtest.CELL_COLUMNS)
    counts = cells.groupby(["split", "method"]).size().unstack()
    assert counts.loc["up to 4e+08"].tolist() == [8, 8]
    assert counts.loc["up to 8e+08"].tolist() == [4, 4]
    assert counts.loc["targets"].tolist() == [1, 1]
    assert set(cells.loc[cells["split"] == "targets", "target"]) == {TARGET}
    summary = backtest.summary(cells).set_index(["split", "method"])
    assert summary["n"]["all splits", "paper"] == 12
    kept = cells[(cells["split"] != "targets") & (cells["method"] == "paper")]
    assert summary["mae"]["all splits", "paper"] == pytest.approx(100 * kept["abs_error"].mean())
    inside = (kept["lo_0.8"] <= kept["actual"]) & (kept["actual"] <= kept["hi_0.8"])
    assert summary["cover_0.8"]["all splits", "paper"] == pytest.approx(inside.mean())
    assert "targets" not in before
    assert "all splits" not in after
    assert (folder / "f" / "backtest.png").is_file()


def test_a_method_that_cannot_fit_is_noted():
    frame = planted(0, 0.004, 0.004)
    few = ["2e+08-1xC", "2e+08-2xC", "4e+08-1xC", "4e+08-5xC", "8e+08-1xC", "8e+08-2xC"]
    cells, failed = backtest.run(frame, few, METHODS, progress=False)
    assert set(cells["method"]) == {"laplace"}
    (message,) = failed
    assert message.startswith("up to 4e+08, least-squares: 4 runs cannot fit the 5 parameters")
    with pytest.raises(InputError, match="4 runs cannot fit"):
        backtest.run(frame, few, {"ls": METHODS["least-squares"]}, progress=False)


REFUSED = {
    "sizes": (["2e*", "4e*"], (), "have 2 sizes: a backtest needs three"),
    "task": (LADDER, ("--tasks", "u"), "task 'u' is not in the table"),
    "unknown": (LADDER, ("--target", "40B"), "--target '40B' is not in the table"),
    "trained": (LADDER, ("--target", "2e+08-1xC"), "--target 2e+08-1xC is also in --train"),
    "suffix": (LADDER, ("--out", "b.parquet"), "--out 'b.parquet' must end in .csv"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_input_is_one_line(folder, tmp_path, capsys, kind):
    (tmp_path / "m.csv").write_bytes((folder / "m.csv").read_bytes())
    train, more, message = REFUSED[kind]
    assert command(tmp_path, *more, train=train) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "backtest: " in line]
    (line,) = [line for line in lines if line.startswith("ladder backtest: ")]
    assert message in line
