"""The command line: help with examples, exit status, nothing half-written."""

import pytest

from ladder_jax import cli
from ladder_jax.measurements import olmo_ladder
from tests.olmo_ladder_files import line, write

COMMANDS = ("plan", "run", "status", "train", "download", "measure", "predict", "score",
            "backtest", "next", "compile", "data build")  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"example:\n  ladder {command} " in shown


def test_measure_reports_and_strict_fails(tmp_path, capsys, monkeypatch):
    runs, out = tmp_path / "runs", tmp_path / "m.csv"
    runs.mkdir()
    write(runs, lines=[line(200), line(400).replace("0.31", "1.31")])
    monkeypatch.setattr(olmo_ladder, "PUBLISHED", set())
    ask = ["measure", "--from", "olmo-ladder", "--runs", str(runs), "--out", str(out)]
    assert cli.main([*ask, "--strict"]) == 2
    assert not out.exists()
    assert "190M-1xC.csv: row 3: " in capsys.readouterr().err
    assert cli.main(ask) == 0
    assert "1 problem (above)" in capsys.readouterr().err
    assert out.exists()


def test_predict_writes_all_or_nothing(tmp_path, capsys, public_table):
    from fitting import table

    measured, out = tmp_path / "m.parquet", tmp_path / "p.csv"
    table.write(public_table, measured)
    ask = ["predict", "--measurements", str(measured), "--train", "190M-*", "370M-*",
           "--target", "7B-4T", "--tasks", "piqa_val_rc_5shot", "--method", "paper", "--out",
           str(out)]  # fmt: skip
    assert cli.main([*ask, "--target", "70B"]) == 2
    assert list(tmp_path.iterdir()) == [measured]
    assert cli.main([*ask, "--level", "0.5", "0.95", "--figures", str(tmp_path / "f")]) == 0
    header, *rows = out.read_text().splitlines()
    assert header == (
        "task,target,method,level,pred,lo,hi,actual,abs_error,rel_error,"
        "pred_loss,loss_lo,loss_hi,actual_loss"
    )
    assert len(rows) == 2
    assert {p.name for p in (tmp_path / "f").iterdir()} == {
        "step1.png",
        "step2.png",
        "chained.png",
        "forecast.png",
        "distributions.png",
    }
    assert "7B-4T: mean error" in capsys.readouterr().out


def test_an_unwritable_directory_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    runs = tmp_path / "runs"
    runs.mkdir()
    write(runs)
    ask = ["measure", "--from", "olmo-ladder", "--runs", str(runs), "--out"]
    (tmp_path / "folder.csv").mkdir()
    for name in ("file/m.csv", "folder.csv"):
        assert cli.main([*ask, str(tmp_path / name)]) == 2
        assert "cannot be written" in capsys.readouterr().err
    assert cli.main(["measure", "--from", "olmo-ladder", "--runs", "", "--out", "m.csv"]) == 2
    assert "--runs is empty" in capsys.readouterr().err


def test_predictions_do_not_overwrite_measurements(tmp_path, capsys):
    path = tmp_path / "m.csv"
    path.write_text("precious")
    ask = ["predict", "--measurements", str(path), "--train", "a", "--target", "b", "--out"]
    assert cli.main([*ask, str(path)]) == 2
    assert "--out is the measurements" in capsys.readouterr().err
    assert cli.main([*ask, str(tmp_path / "p.parquet")]) == 2
    assert "must end in .csv" in capsys.readouterr().err
    assert path.read_text() == "precious"


def test_a_wrong_flag_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["predict", "--level", "abc"])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_fits_never_overwrite_what_is_read_or_written(tmp_path, capsys):
    measurements = tmp_path / "m.csv"
    measurements.write_text("kept")
    ask = ["predict", "--measurements", str(measurements), "--train", "a", "--target", "b"]
    for fits, message in (
        (str(measurements), "the measurements"),
        (str(tmp_path / "p.csv"), "--out"),
    ):
        assert cli.main([*ask, "--out", str(tmp_path / "p.csv"), "--fits", fits]) == 2
        assert f"--fits is {message}: name another file" in capsys.readouterr().err
    assert measurements.read_text() == "kept"


def test_what_a_method_would_ignore_is_refused(tmp_path, capsys):
    ask = ["predict", "--measurements", "none.csv", "--train", "a", "--target", "b", "--out",
           str(tmp_path / "p.csv")]  # fmt: skip
    for more, message in (
        (["--chance", "boolq"], "write TASK=P"),
        (["--chance", "x=1.5", "--tasks", "x"], "write TASK=P"),
        (["--chance", "y=.5", "--tasks", "x"], "'y' is not among --tasks"),
        (["--chance", "x=.5", "--tasks", "x", "--method", "paper"], "--method paper does not"),
        (["--draws", "d.csv"], "must end in .nc"),
        (["--draws", "d.nc", "--method", "paper"], "needs bayes or laplace"),
    ):
        assert cli.main([*ask, *more]) == 2
        error = capsys.readouterr().err
        assert message in error, error
        assert error.count("\n") == 1
