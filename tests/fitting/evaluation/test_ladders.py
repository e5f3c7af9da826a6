"""Ladders of a backtest: their runs and tasks where many tables share the settings."""

import pandas as pd
import pytest

from fitting.errors import InputError
from fitting.evaluation.ladders import MeasuredLadder, complete_tasks, ladders_of
from fitting.observations import select
from tests.planted import LADDER, TARGET, planted


@pytest.fixture(scope="module")
def frame():
    return planted(0, 0.0, 0.0)


@pytest.fixture(scope="module")
def tables(frame):
    other = frame.assign(run="b-" + frame["run"], task=frame["task"].replace("t", "u"))
    return {"a": frame, "b": other}


def test_a_pattern_applies_where_it_matches(tables):
    a, b = ladders_of(tables, ["2e*", "b-*", "4*"], ["b-2*", "4e+08-1xC"], ["all"])
    assert (a.name, b.name) == ("a", "b")
    assert a.runs == [f"2e+08-{m}xC" for m in (1, 2, 5, 10)] + [f"4e+08-{m}xC" for m in (2, 5, 10)]
    assert "b-4e+08-1xC" in b.runs
    assert not any(run.startswith("b-2") for run in b.runs)
    assert (a.labels, b.labels) == (["t"], ["u"])


def test_without_patterns_every_run_but_the_targets(tables):
    a, b = ladders_of(tables, tasks=["all"], targets=[TARGET])
    assert a.runs == select.select_runs(tables["a"], LADDER)
    assert a.targets == [TARGET]
    assert len(b.runs) == 17
    assert b.targets == []


def test_a_ladder_has_the_tasks_of_its_table(tables):
    a, b = ladders_of(tables, tasks=["u", "t"])
    assert (a.labels, b.labels) == (["t"], ["u"])


REFUSED = {
    "train": ({"train": ["x*"]}, r"`train` 'x\*' matches no run"),
    "exclude": ({"exclude": ["x*"]}, r"`exclude` 'x\*' matches no run of `train`"),
    "file": ({"train": ["2e*"]}, r"b: no run matches `train`; it has b-2e\+08-1xC, .* 11 more: "
             "leave the table out"),
    "task": ({"tasks": ["t", "v"]}, "`tasks` 'v' is not in any of the tables"),
    "no task": ({"tasks": ["t"]}, "b: has none of `tasks`; it has u: leave the table out"),
    "target": ({"targets": ["40B"]}, "`targets` '40B' is not in any of the tables"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_table_or_one_table_lacks_is_refused(tables, kind):
    settings, message = REFUSED[kind]
    with pytest.raises(InputError, match=message):
        ladders_of(tables, **{"tasks": ["t", "u"]} | settings)


def test_all_tasks_are_those_of_every_run(frame):
    few = frame[(frame["run"] != "2e+08-1xC") | (frame["metric"] != "acc_per_char")]
    text = frame[frame["metric"] == "bpb"].assign(task="text", metric="lm_loss")
    rest = text.assign(task="rest")[lambda rows: rows["run"] != "2e+08-1xC"]
    loss = text.assign(task="loss", metric="task_ce")
    table = pd.concat([few.assign(task="u"), frame, text, rest, loss])
    runs = select.select_runs(table, ["*"])
    assert complete_tasks(table, runs) == ["t", "text"]
    assert complete_tasks(table, runs[1:]) == ["u", "t", "text", "rest"]
    assert MeasuredLadder("x", table).incomplete == ["u", "rest"]
    assert MeasuredLadder("x", table, tasks=["t"]).incomplete == []
