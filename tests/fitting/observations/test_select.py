"""The choice of runs: patterns, runs left out, and names that are taken literally."""

import json

import pandas as pd
import pytest

from fitting import table
from fitting.errors import InputError
from fitting.observations import select
from ladder_jax import cli
from tests.planted import LADDER, TARGET, planted

NAMES = ["a-1", "a-2", "b[1]", "b*", "b?", "c1", "c2", "c3"]


@pytest.fixture(scope="module")
def named():
    return pd.DataFrame({"run": [name for name in NAMES for _ in range(2)]})


def test_excluded_runs_are_left_out(named):
    assert select.select_runs(named, ["*"]) == NAMES
    assert select.select_runs(named, ["a*", "c*"], ["c2", "a-[1]"]) == ["a-2", "c1", "c3"]


def test_an_exclusion_that_does_nothing_is_refused(named):
    with pytest.raises(InputError, match=r"`exclude` 'b\*' matches no run of `train`, which has a"):
        select.select_runs(named, ["a*"], ["a-1", "b*"])
    with pytest.raises(InputError, match=r"leaves no run of `train`; the table has a-1, .* 2 more"):
        select.select_runs(named, ["a*"], ["a-1", "a-2"])


def test_literal_patterns_match_their_names_alone(named):
    assert select.select_runs(named, select.literal(NAMES[2:5])) == NAMES[2:5]
    assert select.train_patterns(named, ["a*"]) == ["a*"]
    kept = select.train_patterns(named, ["*"], ["c*"])
    assert select.select_runs(named, kept) == NAMES[:5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("excluded")
    table.write(planted(0, 0.004, 0.004), folder / "m.csv")
    return folder


def command(folder, name, *more):
    ask = [name, "--measurements", str(folder / "m.csv"), "--train", *LADDER, "--tasks", "t",
           "--out", str(folder / f"{name}.csv")]  # fmt: skip
    return cli.main([*ask, *more])


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("predict", ("--target", TARGET, "--method", "least-squares")),
        ("backtest", ("--methods", "least-squares")),
        ("next", ("--target", TARGET, "--flops", "1e20")),
    ],
)
def test_every_command_with_runs_to_train_can_exclude_some(folder, capsys, name, more):
    assert command(folder, name, *more, "--exclude", "3*") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ladder {name}: --exclude '3*' matches no run of --train, which has 2e")
    assert not (folder / f"{name}.csv").exists()


def test_an_excluded_run_is_neither_fitted_nor_held_out(folder):
    more = ("--methods", "least-squares", "--exclude", "1e+09-10xC", "2e+08-1xC")
    assert command(folder, "backtest", *more) == 0
    held_out = pd.read_csv(folder / "backtest.csv")["target"]
    assert "1e+09-5xC" in set(held_out)
    assert "1e+09-10xC" not in set(held_out)


def test_a_lock_keeps_the_patterns_or_names_the_runs_that_were_left(folder):
    for more, expected in (((), LADDER), (("--exclude", "2e+08-*"), None)):
        (folder / "predict.lock").unlink(missing_ok=True)
        status = command(
            folder, "predict", "--target", TARGET, "--method", "least-squares", "--lock", *more
        )
        assert status == 0
        config = json.loads((folder / "predict.lock").read_text())["config"]
        assert config["train"] == (expected or config["fitted"])
        assert ("2e+08-1xC" in config["fitted"]) == (not more)
