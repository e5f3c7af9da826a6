"""Locked forecasts: kept, compared with later measurements, and refused after a change."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from fitting import table
from fitting.evaluation import lock
from fitting.evaluation.score import read_predictions
from ladder_jax import cli
from tests.planted import LADDER, TARGET, planted

TO_COME = "7e+09-40xC"
COMING = f"{TO_COME}=7e9,5.6e12"  # no FLOPs: an unknown number in the lock


def later() -> pd.DataFrame:
    """The ladder and its target, with a text beside the task and noise in every digit."""
    frame = planted(0, 0.004, 0.004)
    text = frame[frame["metric"] == "bpb"].assign(task="text", metric="lm_bpb")
    return pd.concat([frame, text], ignore_index=True)


def predict(folder, *more):
    ask = ["predict", "--measurements", str(folder / "m.csv"), "--train", *LADDER, "--tasks", "t",
           "text", "--method", "least-squares", "--out", str(folder / "p.csv")]  # fmt: skip
    return cli.main([*ask, *(more or ("--target", f"{TARGET}=7e9,4.2e12", COMING)), "--lock"])


def score(folder, *more):
    ask = ["score", "--predictions", str(folder / "p.csv"), "--measurements",
           str(folder / "later.csv"), "--out", str(folder / "scored.csv")]  # fmt: skip
    return cli.main([*ask, *more])


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("locked")
    frame = later()
    table.write(frame[frame["run"] != TARGET], folder / "m.csv")
    assert predict(folder) == 0
    table.write(frame.sample(frac=1, random_state=0), folder / "later.csv")
    return folder


@pytest.fixture
def folder(locked, tmp_path, capsys):
    """A locked forecast, and a later table that has one of its two targets."""
    shutil.copytree(locked, tmp_path / "f")
    capsys.readouterr()
    return tmp_path / "f"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(folder, capsys, before, status):
    """The one line of a refusal that wrote nothing."""
    assert status == 2
    assert contents(folder) == before
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_locked_forecast_is_scored(folder, capsys):
    made = json.loads((folder / "p.lock").read_text())
    assert made["config"]["fitted"] == [n for n in later()["run"].unique() if n != TARGET]
    assert made["config"]["targets"][TO_COME] == {
        "n_params": 7e9, "n_tokens": 5.6e12, "flops": None
    }  # fmt: skip
    assert made["config"]["tasks"]["t"] == {"loss": ["t", "bpb"], "acc": ["t", "acc_per_char"]}
    assert score(folder) == 0
    printed = capsys.readouterr().out
    assert f"p.lock: {made['sha256'][:12]}" in printed
    assert f"{TARGET}: mean error" in printed
    assert (
        f"note: {TO_COME} has no bpb and no acc_per_char in the table: not compared: t\n" in printed
    )
    assert "not in" not in printed  # the fitted rows are as they were, if in another order
    scored = pd.read_csv(folder / "scored.csv")
    blind = pd.read_csv(folder / "p.csv")
    measured = ["actual", "abs_error", "rel_error", "actual_loss"]
    pd.testing.assert_frame_equal(
        scored.drop(columns=measured), blind.drop(columns=measured), check_exact=True
    )
    assert scored.loc[scored["target"] == TO_COME, measured].isna().all(axis=None)

    (folder / "p.csv").rename(folder / "kept.csv")  # what `predict` says of a measured target
    (folder / "p.lock").rename(folder / "kept.lock")
    shutil.copy(folder / "later.csv", folder / "m.csv")
    assert predict(folder, "--target", TARGET) == 0
    assert f"locked after it was measured, so it tests nothing: {TARGET}" in capsys.readouterr().out
    predicted = pd.read_csv(folder / "p.csv")
    ours = scored[scored["target"] == TARGET].reset_index(drop=True)
    pd.testing.assert_frame_equal(ours[measured], predicted[measured], rtol=1e-12)
    assert np.isnan(ours["actual"]).tolist() == [False, True]  # a text has a loss alone
    assert ours["actual_loss"].notna().all()


def test_a_locked_loss_of_a_text_is_scored_alone(tmp_path, capsys):
    frame = later()[lambda rows: rows["task"] == "text"]
    table.write(frame[frame["run"] != TARGET], tmp_path / "m.csv")
    table.write(frame, tmp_path / "later.csv")
    assert predict(tmp_path, "--target", f"{TARGET}=7e9,4.2e12", "--tasks", "text") == 0
    assert json.loads((tmp_path / "p.lock").read_text())["config"]["tasks"] == {
        "text": {"loss": ["text", "lm_bpb"]}
    }
    capsys.readouterr()
    assert score(tmp_path) == 0
    (row,) = pd.read_csv(tmp_path / "scored.csv").to_dict("records")
    actual = frame.loc[frame["run"] == TARGET, "value"].tail(5).mean()
    assert row["actual_loss"] == pytest.approx(actual)
    error = 100 * abs(row["pred_loss"] / actual - 1)
    printed = capsys.readouterr().out
    assert f"{TARGET}: mean error of the loss {error:.2f}% over 1 text\n" in printed
    inside = int(row["loss_lo"] <= actual <= row["loss_hi"])
    assert f"{inside} of 1 measured losses of texts lie in their 95% intervals" in printed
    assert "mean error nan" not in printed


def test_the_same_forecast_is_locked_again_and_another_is_refused(folder, capsys):
    before = contents(folder)
    assert predict(folder) == 0
    assert contents(folder) == before
    capsys.readouterr()
    another = predict(folder, "--target", f"{TARGET}=7e9,4.2e12")
    assert "p.lock: holds another forecast" in refused(folder, capsys, before, another)
    unlocked = cli.main(
        ["predict", "--measurements", str(folder / "m.csv"), "--train", *LADDER, "--target",
         COMING, "--out", str(folder / "p.csv")]
    )  # fmt: skip
    assert "p.lock locks it: add --lock" in refused(folder, capsys, before, unlocked)


@pytest.mark.parametrize("column", ["task", "target", "pred", "hi", "loss_lo", "level"])
def test_a_changed_prediction_is_refused(folder, capsys, column):
    frame = pd.read_csv(folder / "p.csv")
    value = frame.at[0, column]
    frame.loc[0, column] = value + "x" if isinstance(value, str) else np.nextafter(value, 9)
    frame.to_csv(folder / "p.csv", index=False)
    line = refused(folder, capsys, contents(folder), score(folder))
    assert "p.csv: was changed after it was locked" in line


def test_a_row_left_out_is_refused(folder, capsys):
    lines = (folder / "p.csv").read_text().splitlines(keepends=True)
    (folder / "p.csv").write_text("".join(lines[:-1]))
    line = refused(folder, capsys, contents(folder), score(folder))
    assert "p.csv: was changed after it was locked" in line


CHANGES = {
    "config": ({"config": {"tasks": {}}}, "its config was changed after it was locked"),
    "version": ({"version": "0"}, "p.csv: was changed after it was locked, or"),
    "data": ({"data_sha256": "0"}, "p.csv: was changed after it was locked, or"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_changed_lock_is_refused(folder, capsys, kind):
    change, message = CHANGES[kind]
    made = json.loads((folder / "p.lock").read_text())
    (folder / "p.lock").write_text(json.dumps(made | change))
    assert message in refused(folder, capsys, contents(folder), score(folder))


def test_a_missing_or_damaged_lock_is_one_line(folder, capsys):
    (folder / "p.lock").rename(folder / "elsewhere.lock")
    line = refused(folder, capsys, contents(folder), score(folder))
    assert "p.lock: not found: `ladder predict --lock` makes it" in line
    assert score(folder, "--lock", str(folder / "elsewhere.lock")) == 0
    capsys.readouterr()
    for text, message in (("{", "cannot be read as a lock"), ("[]", "is no lock of a forecast"),
                       ('{"config": {}}', "lacks sha256, data_sha256")):  # fmt: skip
        (folder / "p.lock").write_text(text)
        assert message in refused(folder, capsys, contents(folder), score(folder))


def test_a_lock_of_an_earlier_version_is_one_line(folder, capsys):
    rows = table.read(folder / "m.csv")[0]
    old = lock.make(read_predictions(folder / "p.csv"), rows, {"levels": [0.95]}, "1")
    (folder / "p.lock").write_text(json.dumps(old))
    line = refused(folder, capsys, contents(folder), score(folder))
    assert "p.lock: its config lacks targets, tasks, fitted" in line


def test_a_target_at_other_tokens_is_not_compared(folder, capsys):
    frame = later()
    table.write(frame[~((frame["run"] == TARGET) & (frame["step"] > 15))], folder / "later.csv")
    assert score(folder) == 0
    printed = capsys.readouterr().out
    assert (
        f"note: {TARGET} was not measured at the 4,200,000,000,000 tokens forecast, so it is not "
        "compared: all tasks" in printed
    )
    assert pd.read_csv(folder / "scored.csv")[["actual", "actual_loss"]].isna().all(axis=None)


def test_changed_measurements_are_noted(folder, capsys):
    frame = later()
    for change, noted in ((0.0, False), (1e-12, True)):
        table.write(frame.assign(value=frame["value"] * (1 - change)), folder / "later.csv")
        assert score(folder) == 0
        assert ("the fitted runs are not in" in capsys.readouterr().out) == noted
    table.write(frame[frame["run"] == TARGET], folder / "later.csv")
    assert score(folder) == 0
    assert "the fitted runs are not in" not in capsys.readouterr().out


def test_measurements_hash_the_same_from_memory_and_file(tmp_path):
    frame = later()[lambda f: f["run"] == "2e+08-1xC"]
    frame = frame.assign(flops=frame["flops"].astype(int).astype(object), seed=np.nan)
    table.write(frame, tmp_path / "m.csv")
    assert lock.data_sha256(table.read(tmp_path / "m.csv")[0]) == lock.data_sha256(frame)


def test_inputs_are_not_overwritten(folder, capsys):
    before = contents(folder)
    shutil.copy(folder / "p.lock", folder / "lock.csv")
    before["lock.csv"] = before["p.lock"]
    given = ("--lock", str(folder / "lock.csv"))
    for name, words in (("p", "predictions"), ("later", "measurements"), ("lock", "lock")):
        status = score(folder, *given, "--out", str(folder / f"{name}.csv"))
        line = refused(folder, capsys, before, status)
        assert line.endswith(f"--out is the {words}: name another file")


def test_a_bad_cell_names_row_and_field(folder, capsys):
    lines = (folder / "p.csv").read_text().splitlines()
    cells = lines[2].split(",")
    cells[4] = "5O%"
    (folder / "p.csv").write_text("\n".join([*lines[:2], ",".join(cells), *lines[3:], ""]))
    line = refused(folder, capsys, contents(folder), score(folder))
    assert "p.csv: row 3: pred is '5O%': restore the number" in line
