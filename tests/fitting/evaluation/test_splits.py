"""Splits by size: what is fitted and held out, sizes without a label, and their number."""

import numpy as np
import pandas as pd
import pytest

from fitting.errors import InputError
from fitting.evaluation.splits import splits
from fitting.observations import select
from fitting.observations.sizes import sizes_of
from tests.planted import TARGET, planted


def test_no_held_out_run_trains_and_all_are_larger():
    frame = planted(0, 0.0, 0.0).sample(frac=1, random_state=1)
    runs = [run for run in frame["run"].unique() if run != TARGET]
    found = splits(frame, runs)
    assert list(found) == ["up to 4e+08", "up to 8e+08"]
    n_params = frame.groupby("run")["n_params"].max()
    for below, above in found.values():
        assert sorted([*below, *above]) == sorted(runs)
        assert n_params[below].max() < n_params[above].min()
    assert [len(below) for below, _ in found.values()] == [8, 12]
    unnamed = splits(frame.assign(size=""), runs)  # as an empty cell is read
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


def runs_of(sizes, labels=""):
    names = [f"r{i}" for i in range(len(sizes))]
    return pd.DataFrame({"run": names, "size": labels, "n_params": sizes}), names


def test_runs_without_a_label_are_one_size_within_5_percent():
    table, names = runs_of([1.09e8, 2e8, 1.0e8, 1.045e8, 1.15e8, 2.2e8])
    found = sizes_of(table.sample(frac=1, random_state=0), names)
    assert found.index.tolist() == names
    assert found["size"].tolist() == [
        "1.09e+08", "2e+08", "1.09e+08", "1.09e+08", "1.15e+08", "2.2e+08"
    ]  # fmt: skip
    labelled, names = runs_of([1e8, 1.01e8, 1.02e8, 1.03e8], ["a", "b", "", None])
    assert sizes_of(labelled, names)["size"].tolist() == ["a", "b", "1.03e+08", "1.03e+08"]
    with pytest.raises(InputError, match="runs 'r0', 'r2' have no n_params: fill it in"):
        sizes_of(*runs_of([np.nan, 1e8, np.nan]))


@pytest.mark.parametrize(
    ("n_sizes", "at_most", "expected"),
    [(5, None, [2, 3]), (6, None, [2, 3, 4]), (22, None, [12, 15, 18, 20]),
     (22, 1, [20]), (22, 3, [13, 17, 20]), (5, 2, [2, 3]), (4, 9, [1, 2])],
)  # fmt: skip
def test_the_number_of_splits(n_sizes, at_most, expected):
    labels = [f"{i:02}" for i in range(n_sizes)]
    table, names = runs_of([1e8 * 2.0**i for i in range(n_sizes)], labels)
    found = splits(table, names, at_most)
    assert list(found) == [f"up to {i:02}" for i in expected]
    last = list(found.values())[-1]
    assert last.held_out == names[-1:]
