"""Mean scores of a backtest: tables by ladder or split and method, and by task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fitting.evaluation.backtest import LEVELS

KINDS = {"acc": "accuracies, in points", "loss": "losses, in percent"}


def summary(cells: pd.DataFrame, by: str = "ladder") -> pd.DataFrame:
    """A row per (kind, ladder or split, method), and one over all of them.

    Args:
        cells: of a backtest, without targets.
        by: `ladder` or `split`.

    Returns:
        Columns `kind`, `by`, `method`; `n`, number of forecasts made; `failed`, number of splits
        whose fit failed its checks or could not be made, of `splits`; the means `mae`, `crps` and
        `interval_score` (of the widest interval), in points of accuracy or, of losses, percent;
        `ratio`, the interval score over the best method's, over all ladders the mean of theirs;
        `cover_L` and `width_L` of each level.
    """
    rows = []
    for kind in KINDS:
        part = cells[cells["kind"] == kind]
        groups = list(part[by].unique())
        found = [row for name in groups for row in _rows(part[part[by] == name], kind, by, name)]
        rows += found
        if len(groups) > 1:
            ratios = pd.DataFrame(found).groupby("method")["ratio"].agg(_mean_of_all)
            whole = _rows(part, kind, by, all_of(by))
            rows += [row | {"ratio": ratios[row["method"]]} for row in whole]
    return pd.DataFrame(rows)


def all_of(by: str) -> str:
    """Label of the rows over all ladders, or over all splits."""
    return f"all {by}s"


def _mean_of_all(values: pd.Series) -> float:
    """NaN if a method made no forecast in one of the groups."""
    return float(values.mean(skipna=False))


def _rows(cells: pd.DataFrame, kind: str, by: str, name: str) -> list[dict[str, Any]]:
    rows = []
    for method, group in cells.groupby("method", sort=False):
        of_split = group.groupby(["ladder", "split"])["failed_checks"].any()
        made = group.dropna(subset=["pred"])
        row: dict[str, Any] = {
            "kind": kind, by: name, "method": method, "n": len(made),
            "failed": int(of_split.sum()), "splits": len(of_split),
        }  # fmt: skip
        row["mae"] = 100 * made["abs_error"].mean()
        for column in ("crps", "interval_score"):
            row[column] = 100 * made[column].mean()
        for level in LEVELS:
            low, high = made[f"lo_{level:g}"], made[f"hi_{level:g}"]
            inside = (low <= made["actual"]) & (made["actual"] <= high)
            width = np.log(high) - np.log(low) if kind == "loss" else high - low
            row |= {f"cover_{level:g}": inside.mean(), f"width_{level:g}": 100 * width.mean()}
        rows.append(row)
    best = min((row["interval_score"] for row in rows if row["n"]), default=np.nan)
    return [row | {"ratio": row["interval_score"] / best} for row in rows]


def by_task(cells: pd.DataFrame, kind: str = "acc") -> pd.DataFrame:
    """Mean absolute error in points (losses: percent): `ladder`, `task`, a column per method."""
    part = cells[cells["kind"] == kind].assign(error=lambda part: 100 * part["abs_error"])
    errors = part.pivot_table("error", ["ladder", "task"], "method", sort=False, dropna=False)
    return errors.dropna(how="all").reset_index()


def task_cells(errors: pd.DataFrame) -> list[list[str]]:
    """The result of `by_task` as text: a header and rows of cells."""
    first = ["ladder", "task"] if errors["ladder"].nunique() > 1 else ["task"]
    names = [name for name in errors.columns if name not in ("ladder", "task")]
    rows = [
        [*(row[c] for c in first), *(_number(row[n]) for n in names)]
        for row in errors.to_dict("records")
    ]
    return [[*first, *names], *rows]


def table_cells(summary: pd.DataFrame) -> list[list[str]]:
    """Rows of one kind of a `summary` as text: a header and rows of cells."""
    by = "ladder" if "ladder" in summary else "split"
    header = [by, "method", "n", "failed", "MAE", "CRPS", "interval score 95", "ratio"]
    header += [f"in {level:.0%} (width)" for level in LEVELS]
    rows = [header]
    for row in summary.to_dict("records"):
        cells = [row[by], row["method"], str(row["n"]), f"{row['failed']} of {row['splits']}"]
        cells += [_number(row[name]) for name in ("mae", "crps", "interval_score", "ratio")]
        for level in LEVELS:
            cover, width = row[f"cover_{level:g}"], row[f"width_{level:g}"]
            cells.append(f"{cover:.0%} ({width:.1f})" if row["n"] else "")
        rows.append(cells)
    return rows


def tables(summary: pd.DataFrame) -> dict[str, list[list[str]]]:
    """`table_cells` of each kind that a `summary` has, by a title that says the units."""
    kinds = {words: summary[summary["kind"] == kind] for kind, words in KINDS.items()}
    return {words: table_cells(part) for words, part in kinds.items() if len(part)}


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else ""
