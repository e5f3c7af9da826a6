"""Forecasts in words: the table and the mean errors that the command line prints."""

from __future__ import annotations

import pandas as pd


def prediction_cells(predictions: pd.DataFrame) -> list[list[str]]:
    """A header and a row of text for each prediction, in percent and points."""
    rows = [["task", "target", "level", "pred %", "interval %", "measured %", "error, points"]]
    for row in predictions.to_dict("records"):
        known = row["actual"] == row["actual"]
        rows.append(
            [
                row["task"],
                row["target"],
                f"{row['level']:g}",
                f"{100 * row['pred']:.1f}",
                f"{100 * row['lo']:.1f} .. {100 * row['hi']:.1f}",
                f"{100 * row['actual']:.1f}" if known else "",
                f"{100 * row['abs_error']:.2f}" if known else "",
            ]
        )
    return rows


def summary(predictions: pd.DataFrame) -> list[str]:
    """For each measured target its mean error over tasks; for each level hits and mean width."""
    measured = predictions.dropna(subset=["actual"])
    lines = []
    for target, group in measured.drop_duplicates(["task", "target"]).groupby("target", sort=False):
        error, relative = 100 * group["abs_error"].mean(), group["rel_error"].mean()
        tasks = f"over {len(group)} task{'s' if len(group) > 1 else ''}"
        lines.append(f"{target}: mean error {error:.2f} points ({relative:.1%}) {tasks}")
    for level, group in measured.groupby("level"):
        hits = int(((group["lo"] <= group["actual"]) & (group["actual"] <= group["hi"])).sum())
        width = 100 * (group["hi"] - group["lo"]).mean()
        lines.append(
            f"{hits} of {len(group)} measured values lie in their {level:.0%} intervals, "
            f"of mean width {width:.1f} points"
        )
    return lines
