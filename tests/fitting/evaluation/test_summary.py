"""Mean scores of a backtest, by hand."""

import numpy as np
import pandas as pd
import pytest

from fitting.evaluation import summary
from fitting.evaluation.backtest import CELL_COLUMNS
from fitting.report import charts

ROWS = [  # ladder, split, method, pred, actual, half width, interval score, failed
    ("a", "s1", "x", 0.50, 0.54, 0.05, 0.10, False),
    ("a", "s1", "x", 0.60, 0.70, 0.05, 0.30, False),
    ("a", "s2", "x", 0.60, 0.62, 0.01, 0.50, True),
    ("a", "s1", "y", 0.50, 0.54, 0.10, 0.20, False),
    ("a", "s1", "y", 0.60, 0.70, 0.10, 0.20, False),
    ("a", "s2", "y", np.nan, 0.62, np.nan, np.nan, True),
    ("b", "s1", "x", 0.50, 0.52, 0.05, 0.50, False),
    ("b", "s1", "y", 0.50, 0.52, 0.05, 0.10, False),
]


@pytest.fixture
def cells():
    made = []
    for ladder, split, method, pred, actual, half, score, failed in ROWS:
        row = {"ladder": ladder, "split": split, "method": method, "kind": "acc", "task": "t",
               "target": f"{actual}", "pred": pred, "actual": actual,
               "abs_error": abs(pred - actual), "crps": abs(pred - actual) / 2,
               "interval_score": score, "failed_checks": failed}  # fmt: skip
        for level, share in ((0.5, 0.25), (0.8, 0.5), (0.95, 1.0)):
            row |= {f"lo_{level:g}": pred - share * half, f"hi_{level:g}": pred + share * half}
        made.append(row)
    return pd.DataFrame(made, columns=list(CELL_COLUMNS))


def test_means_by_ladder_and_over_all(cells):
    rows = summary.summary(cells).set_index(["ladder", "method"])
    assert list(rows.index) == [(g, m) for g in ("a", "b", "all ladders") for m in "xy"]
    x, y = rows.loc["a", "x"], rows.loc["a", "y"]
    assert (x["n"], x["failed"], x["splits"]) == (3, 1, 2)
    assert (y["n"], y["failed"], y["splits"]) == (2, 1, 2)
    assert x["mae"] == pytest.approx(100 * (0.04 + 0.10 + 0.02) / 3)
    assert y["mae"] == pytest.approx(7.0)
    assert x["interval_score"] == pytest.approx(30.0)
    assert x["width_0.95"] == pytest.approx(100 * (0.1 + 0.1 + 0.02) / 3)
    assert x["cover_0.95"] == pytest.approx(1 / 3)
    assert y["cover_0.95"] == 1.0
    assert (x["ratio"], y["ratio"]) == (pytest.approx(1.5), 1.0)
    whole = rows.loc["all ladders"]
    assert whole["n"].tolist() == [4, 3]
    assert whole["failed"].tolist() == [1, 1]
    assert whole.loc["x", "mae"] == pytest.approx(100 * (0.04 + 0.10 + 0.02 + 0.02) / 4)
    assert whole.loc["x", "ratio"] == pytest.approx((1.5 + 5.0) / 2)  # each ladder counts once
    assert whole.loc["y", "ratio"] == 1.0


def test_by_split_and_one_group_has_no_row_over_all(cells):
    one = cells[cells["ladder"] == "a"]
    rows = summary.summary(one, "split").set_index(["split", "method"])
    assert list(dict.fromkeys(rows.index.get_level_values(0))) == ["s1", "s2", "all splits"]
    assert rows.loc[("s2", "y"), "n"] == 0
    assert np.isnan(rows.loc[("all splits", "y"), "ratio"])  # it has none in one split
    assert set(summary.summary(one)["ladder"]) == {"a"}


def test_losses_are_apart_and_in_percent(cells):
    losses = cells.assign(kind="loss", abs_error=0.01)
    losses["hi_0.95"], losses["lo_0.95"] = 3 * np.e, 3.0
    rows = summary.summary(pd.concat([cells, losses]))
    (row,) = rows[(rows["kind"] == "loss") & (rows["ladder"] == "b") & (rows["method"] == "x")].to_dict("records")  # fmt: skip # noqa: E501
    assert row["mae"] == pytest.approx(1.0)
    assert row["width_0.95"] == pytest.approx(100.0)
    assert list(summary.tables(rows)) == ["accuracies, in points", "losses, in percent"]


def test_tables_of_text(cells):
    (rows,) = summary.tables(summary.summary(cells)).values()
    assert rows[0][:8] == [
        "ladder", "method", "n", "failed", "MAE", "CRPS", "interval score 95", "ratio"
    ]  # fmt: skip
    assert rows[1][:8] == ["a", "x", "3", "1 of 2", "5.33", "2.67", "30.00", "1.50"]
    assert rows[1][-1] == "33% (7.3)"
    (unmade,) = [row for row in summary.table_cells(summary.summary(cells, "split"))
                 if row[:3] == ["s2", "y", "0"]]  # fmt: skip
    assert unmade[4:] == [""] * 7
    errors = summary.by_task(cells)
    assert summary.task_cells(errors) == [
        ["ladder", "task", "x", "y"], ["a", "t", "5.33", "7.00"], ["b", "t", "2.00", "2.00"]
    ]  # fmt: skip
    assert summary.by_task(cells, "loss").empty


def test_the_figure_has_a_row_for_each_ladder(cells):
    figure = charts.backtest(summary.summary(cells))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[::2] == [f"Held-out runs, {name}" for name in ("a", "b", "all ladders")]
    assert "points of accuracy" in figure.axes[-1].get_xlabel()
    losses = charts.backtest(summary.summary(cells.assign(kind="loss")[cells["ladder"] == "b"]))
    assert "percent of the loss" in losses.axes[0].get_xlabel()
    assert len(losses.axes) == 2
