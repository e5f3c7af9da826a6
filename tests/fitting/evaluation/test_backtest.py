"""Backtests: plans, cells, failures that stay in their method's row, and the command."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from fitting import table
from fitting.errors import InputError
from fitting.evaluation import backtest, summary
from fitting.evaluation.ladders import MeasuredLadder
from fitting.forecast import ForecastSpec, predict
from ladder_jax import cli
from tests.planted import LADDER, TARGET, planted

METHODS = {name: ForecastSpec(method=name) for name in ("laplace", "least-squares")}
FEW = ["2e+08-1xC", "2e+08-2xC", "4e+08-1xC", "4e+08-5xC", "8e+08-1xC", "8e+08-2xC"]
LOSSES = {"lm_loss": "text", "lm_bpb": "bits"}


@pytest.fixture(scope="module")
def frame():
    return planted(0, 0.004, 0.004)


@pytest.fixture(scope="module")
def texts(frame):
    """A table of losses alone."""
    losses = frame[frame["metric"] == "bpb"]
    return pd.concat([losses.assign(task=t, metric=m) for m, t in LOSSES.items()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, frame, texts):
    folder = tmp_path_factory.mktemp("backtest")
    table.write(frame, folder / "m.csv")
    table.write(texts.assign(size=""), folder / "texts.csv")
    return folder


def command(folder, *more, train=("--train", *LADDER), files=("m",)):
    ask = ["backtest", "--measurements", *(str(folder / f"{name}.csv") for name in files), *train,
           "--tasks", "t", "--methods", "paper", "least-squares",
           "--out", str(folder / "b.csv")]  # fmt: skip
    return cli.main([*ask, *more])


def test_targets_are_scored_apart(folder, capsys):
    assert command(folder, "--target", TARGET, "--figures", str(folder / "f")) == 0
    before, after = capsys.readouterr().out.split(
        f"scored once, from all training runs: {TARGET}\n"
    )
    cells = pd.read_csv(folder / "b.csv")
    assert list(cells.columns) == list(backtest.CELL_COLUMNS)
    assert set(cells["ladder"]) == {"m"}
    accuracies = cells[cells["kind"] == "acc"]
    counts = accuracies.groupby(["split", "method"]).size().unstack()
    assert counts.loc["up to 4e+08"].tolist() == [8, 8]
    assert counts.loc["up to 8e+08"].tolist() == [4, 4]
    assert counts.loc["targets"].tolist() == [1, 1]
    assert set(cells.loc[cells["split"] == "targets", "target"]) == {TARGET}
    assert len(cells[cells["kind"] == "loss"]) == len(accuracies)
    assert "targets" not in before
    assert "all splits" in before
    assert "all splits" not in after
    assert "accuracies, in points" in before
    assert "losses, in percent" in before
    assert (folder / "f" / "backtest.png").is_file()


def test_many_tables_are_one_table_of_results(folder, capsys):
    status = command(folder, "--tasks", "all", "--target", TARGET, train=(), files=("m", "texts"))
    assert status == 0
    cells = pd.read_csv(folder / "b.csv")
    assert cells.groupby(["ladder", "kind"]).size().to_dict() == {
        ("m", "acc"): 26, ("m", "loss"): 26, ("texts", "loss"): 52
    }  # fmt: skip
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    losses = lines[lines.index(["losses,", "in", "percent"]) + 1 :]
    assert [line[0] for line in losses[1:7]] == ["m", "m", "texts", "texts", "all", "all"]


def test_one_target_of_many_tables(folder):
    assert command(folder, "--tasks", "all", train=(), files=("m", "texts")) == 0
    held_in = pd.read_csv(folder / "b.csv")
    assert TARGET in set(held_in["target"])
    assert "targets" not in set(held_in["split"])


def test_errors_of_losses_are_of_their_logarithms(texts):
    ladder = MeasuredLadder("x", texts, LADDER)
    cells, failed, _ = backtest.run(
        backtest.plan([ladder], {"ls": METHODS["least-squares"]}), progress=False
    )
    assert failed == []
    assert set(cells["kind"]) == {"loss"}
    assert set(cells["task"]) == set(LOSSES.values())
    for level in (0.5, 0.95):
        assert (cells[f"lo_{level}"] < cells["pred"]).all()
        assert (cells["pred"] < cells[f"hi_{level}"]).all()
    np.testing.assert_allclose(cells["abs_error"], abs(np.log(cells["pred"] / cells["actual"])))
    low, high, actual = (np.log(cells[c]) for c in ("lo_0.95", "hi_0.95", "actual"))
    miss = np.maximum(low - actual, 0) + np.maximum(actual - high, 0)
    np.testing.assert_allclose(cells["interval_score"], high - low + 40 * miss)


def test_a_loss_that_tasks_share_counts_once(frame, texts):
    c4 = texts[texts["metric"] == "lm_loss"].assign(task="c4_en_val")
    both = pd.concat([frame, frame.assign(task="u"), c4])
    spec = ForecastSpec(method="least-squares", feature="lm_loss")
    trials = backtest.plan(
        [MeasuredLadder("x", both, LADDER, ["t", "u", "c4_en_val"])], {"ls": spec}, 1
    )
    cells = backtest.run(trials, progress=False).cells
    assert cells.groupby(["kind", "task"]).size().to_dict() == {
        ("acc", "t"): 4, ("acc", "u"): 4, ("loss", "c4_en_val"): 4
    }  # fmt: skip


def test_a_forecast_that_cannot_be_made_is_counted(frame):
    trials = backtest.plan([MeasuredLadder("x", frame, FEW, ["t"])], METHODS)
    cells, failed, _ = backtest.run(trials, progress=False)
    (message,) = failed
    assert message.startswith("x, up to 4e+08, least-squares: 4 runs cannot fit the 5 parameters")
    of = cells.groupby("method")["failed_checks"].all()
    assert of.to_dict() == {"laplace": False, "least-squares": True}
    unmade = cells[cells["failed_checks"]]
    assert unmade[["pred", "crps", "lo_0.95"]].isna().all(axis=None)
    assert unmade[["task", "target", "actual"]].notna().all(axis=None)
    with pytest.raises(InputError, match="4 runs cannot fit"):
        backtest.run([trial for trial in trials if trial.method == "least-squares"], progress=False)


def test_a_split_that_failed_its_checks_stays_in_its_methods_row(frame, monkeypatch):
    real = predict.forecast

    def doubtful(measurements, spec):
        made = real(measurements, spec)
        if spec.method != "laplace" or len(spec.train) > 8:
            return made

        class Posterior:
            problems = ("step 1: r_hat 1.2 above 1.01",)
            steps: ClassVar = {}

        return [
            replace(one, method="laplace (odd)", posteriors={"bpb": Posterior()}) for one in made
        ]

    monkeypatch.setattr(predict, "forecast", doubtful)
    ladder = MeasuredLadder("x", frame, LADDER, ["t"])
    cells, failed, _ = backtest.run(backtest.plan([ladder], METHODS), progress=False)
    assert failed == ["x, up to 4e+08, laplace: step 1: r_hat 1.2 above 1.01"]
    assert cells.groupby(["method", "split"])["failed_checks"].all().to_dict() == {
        ("laplace", "up to 4e+08"): True, ("laplace", "up to 8e+08"): False,
        ("least-squares", "up to 4e+08"): False, ("least-squares", "up to 8e+08"): False,
    }  # fmt: skip
    rows = summary.summary(cells)
    row = rows[(rows["method"] == "laplace") & (rows["kind"] == "acc")].iloc[0]
    assert (row["failed"], row["splits"], row["n"]) == (1, 2, 12)


def test_everything_is_checked_before_the_first_fit(frame, texts, monkeypatch):
    def fit(*_):
        raise AssertionError("fitted")

    monkeypatch.setattr(predict, "forecast", fit)
    late = frame[(frame["run"] != "8e+08-1xC") | (frame["metric"] != "bpb")]
    blank = frame[~frame["run"].str.startswith("1e") | (frame["n_tokens"] > 1e30)]
    zero = texts.copy()
    zero.loc[zero["run"] == "1e+09-1xC", "value"] = 0.0
    good = MeasuredLadder("a", frame, LADDER, ["t"])
    no_loss = frame[frame["metric"] != "bpb"]
    for ladders, message in (
        ([good, MeasuredLadder("b", late, LADDER, ["t"])], "b: run '8e+08-1xC' has no bpb of 't'"),
        ([good, MeasuredLadder("b", no_loss, LADDER, ["t"])], "b: no task has bits per byte, and"),
        (
            [good, MeasuredLadder("b", frame, ["2e*"], ["t"])],
            "b: the runs of `train` have 1 size: a",
        ),
        ([good, replace(good, table=late)], "two ladders are named 'a'"),
        ([MeasuredLadder("b", frame, LADDER, ["v"])], "task 'v' is not in the table"),
        (
            [MeasuredLadder("b", zero, LADDER, ["text"])],
            "run '1e+09-1xC' has a loss of 0 for 'text'",
        ),
        ([replace(good, targets=["2e+08-1xC"])], "`targets` 2e+08-1xC is also in `train`"),
        ([replace(good, table=blank, train=["2e*", "4e*", "8e*"], targets=["9"])], "'9' is not in"),
    ):
        with pytest.raises(InputError) as caught:
            backtest.plan(ladders, METHODS)
        assert message in str(caught.value)


def test_targets_come_after_every_split(frame):
    ladders = [MeasuredLadder(n, frame, LADDER, ["t"], targets=[TARGET]) for n in "ab"]
    trials = backtest.plan(ladders, METHODS, 1)
    assert [trial.split == "targets" for trial in trials] == [False] * 4 + [True] * 4
    assert [trial.ladder for trial in trials] == ["a", "a", "b", "b"] * 2


def test_held_out_runs_must_have_been_measured(frame):
    other = frame["task"].where(~frame["run"].str.startswith("1e"), "u")
    with pytest.raises(InputError, match="up to 8e\\+08: nothing that is forecast of the held-out"):
        backtest.plan([MeasuredLadder("x", frame.assign(task=other), LADDER, ["t"])], METHODS)


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 61.0, 62.0, 200.0, 201.0])
    monkeypatch.setattr(backtest.time, "monotonic", lambda: next(clock))
    assert list(backtest._with_progress(range(5))) == list(range(5))
    assert capsys.readouterr().err.splitlines() == [
        "backtest: 1 of 5 fits, about 4 min left", "backtest: 3 of 5 fits, about 2 min left"
    ]  # fmt: skip


REFUSED = {
    "sizes": (("--train", "2e*", "4e*"), (), "have 2 sizes: a backtest needs three"),
    "task": (("--train", *LADDER), ("--tasks", "u"), "--tasks 'u' is not in the table"),
    "unknown": (("--train", *LADDER), ("--target", "40B"), "--target '40B' is not in the table"),
    "trained": (("--train", *LADDER), ("--target", "2e+08-1xC"),
                "--target 2e+08-1xC is also in --train"),
    "suffix": (("--train", *LADDER), ("--out", "b.parquet"), "--out 'b.parquet' must end in .csv"),
    "twice": ((), ("--measurements", "m.csv", "n/m.csv"),
              "--measurements: two files are named m: rename one"),
    "chance": ((), ("--chance", "u=.5"), "--chance 'u=.5': 'u' is not among --tasks"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_input_is_one_line(folder, tmp_path, capsys, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.csv").write_bytes((folder / "m.csv").read_bytes())
    train, more, message = REFUSED[kind]
    assert command(tmp_path, *more, train=train) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ladder backtest: ")
    assert message in line
