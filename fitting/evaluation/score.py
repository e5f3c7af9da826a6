"""Comparison of a locked forecast with later measurements."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from fitting.errors import InputError
from fitting.evaluation import lock
from fitting.forecast.predict import PREDICTION_COLUMNS, measured_cells
from fitting.observations import select
from fitting.table import read_rows

_TEXT = ("task", "target", "method")
_NEEDED = ("targets", "tasks", "fitted")  # of a lock's config


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Reads predictions in the pinned columns, with exactly the numbers that were written.

    Raises:
        InputError: the file is unreadable, cut off or not a table of predictions; the message
            names file, row and field.
    """
    raw, problems = read_rows(Path(path), PREDICTION_COLUMNS)
    if problems:
        raise InputError(str(problems[0]))
    frame = raw[list(PREDICTION_COLUMNS)].astype(object)
    for column in PREDICTION_COLUMNS:
        if column not in _TEXT:
            frame[column] = [
                _number(cell, f"{path}: row {row}: {column}") for row, cell in raw[column].items()
            ]
    return frame.reset_index(drop=True)


def check_config(predictions: pd.DataFrame, config: dict[str, Any], source: str | Path) -> None:
    """Checks that a lock's config has the task and the target of each prediction.

    Raises:
        InputError: one is missing, since an earlier version made the lock or it was edited.
    """
    lacking = [key for key in _NEEDED if key not in config]
    if lacking:
        raise InputError(
            f"{source}: its config lacks {', '.join(lacking)}: an earlier version locked it, "
            "before its forecasts could be scored"
        )
    for column, key in (("task", "tasks"), ("target", "targets")):
        unknown = set(predictions[column]) - set(config[key])
        if unknown:
            raise InputError(f"{source}: its config lacks {column} {min(unknown)!r}: restore it")


def compare(
    predictions: pd.DataFrame, measurements: pd.DataFrame, config: dict[str, Any]
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Fills measured values and errors into predictions.

    Args:
        predictions: in the pinned columns.
        measurements: in the schema of `fitting.table`.
        config: config of the lock; a target is compared only at the tokens that were forecast.

    Returns:
        The predictions with new measured columns, empty where nothing was measured; and notes:
        text -> the tasks that it applies to.
    """
    measurements = measurements.astype({"n_tokens": float, "value": float})
    by_run = {str(run): rows for run, rows in measurements.groupby("run", sort=False)}
    known: dict[tuple[str, str], tuple[float, float]] = {}
    notes: dict[str, list[str]] = {}
    for task, target in predictions[["task", "target"]].drop_duplicates().to_numpy():
        columns = {name: tuple(column) for name, column in config["tasks"][task].items()}
        n_tokens = config["targets"][target]["n_tokens"]
        rows = by_run.get(target, measurements.iloc[:0])
        found = select.measured_target(rows, n_tokens, columns)
        known[task, target] = found["acc"], found["loss"]
        for text in _remarks(target, n_tokens, columns, found):
            notes.setdefault(text, []).append(task)
    filled = [
        row | measured_cells(row["pred"], *known[row["task"], row["target"]])
        for row in predictions.to_dict("records")
    ]
    return pd.DataFrame(filled, columns=list(PREDICTION_COLUMNS)), notes


def data_changed(measurements: pd.DataFrame, made: dict[str, Any]) -> bool:
    """Whether a table has the fitted runs, but with other measurements than the locked ones."""
    rows = measurements[measurements["run"].isin(made["config"]["fitted"])]
    return not rows.empty and lock.data_sha256(rows) != made["data_sha256"]


def _remarks(
    target: str, n_tokens: float, columns: dict[str, Any], found: dict[str, Any]
) -> list[str]:
    """Notes on what prevents a comparison, or makes the measured value inexact."""
    notes = []
    lacking = [metric for name, (_, metric) in columns.items() if math.isnan(found[name])]
    if found["stale"]:
        notes.append(
            f"{target} was not measured at the {n_tokens:,.0f} tokens forecast, so it is not "
            "compared"
        )
    elif lacking:
        notes.append(f"{target} has no {' and no '.join(lacking)} in the table: not compared")
    if found["blurred"]:
        notes.append(
            f"the measured value of {target} is a mean of evaluations far apart in training: "
            "leave the early ones out of the table"
        )
    return notes


def _number(cell: str, where: str) -> float:
    try:
        return float(cell) if cell else math.nan
    except ValueError:
        raise InputError(f"{where} is {cell!r}: restore the number") from None
