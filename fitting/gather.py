"""What is fitted and forecast for one task, gathered from a measurement table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from fitting import points
from fitting.laws import Law, Link
from fitting.points import Protocol, Target
from fitting.table import InputError

_CURVE = ("run", "size", "loss", "acc")
_TEXT = ("run", "size", "task", "metric")
_READ = (*_TEXT, "multiple", "n_params", "n_tokens", "flops", "value", "n_examples")


@dataclass(frozen=True)
class Points:
    """What an engine fits and forecasts for one task.

    Attributes:
        law: of step 1.
        link: of step 2, or None for a forecast of what the law gives.
        x: law inputs of the R training runs, shape (R, I).
        y: what the law gives, shape (R,).
        run: index of the run of each of M checkpoints, shape (M,).
        feature: shape (M,).
        accuracy: shape (M,).
        goals: law inputs of G targets, shape (G, I).
    """

    law: Law
    link: Link | None
    x: np.ndarray
    y: np.ndarray
    run: np.ndarray
    feature: np.ndarray
    accuracy: np.ndarray
    goals: np.ndarray


@dataclass(frozen=True)
class TaskData:
    """The points of one task, and where they come from.

    Attributes:
        task: label.
        columns: what `loss` and `acc` are, as (task, metric): `loss` alone for a language-model
            loss, `acc` alone for a single step.
        protocol: how the feature was prepared.
        final: a row a training run: run, size, multiple, n_params, n_tokens, flops, n_examples,
            loss, acc.
        curve: a row a checkpoint used by step 2: run, size, loss, acc.
        measured: a row a target: run, n_params, n_tokens, flops, loss, acc (NaN if unmeasured).
        points: what an engine is given.
    """

    task: str
    columns: dict[str, tuple[str, str]]
    protocol: Protocol
    final: pd.DataFrame
    curve: pd.DataFrame
    measured: pd.DataFrame
    points: Points


def gather(
    table: pd.DataFrame,
    task: str,
    runs: Sequence[str],
    targets: Sequence[Target],
    protocol: Protocol,
    law: Law,
) -> TaskData:
    """Gathers one task's points.

    Args:
        table: measurements, in the schema of `fitting.table`.
        task: label.
        runs: names of the training runs.
        targets: to forecast.
        protocol: how the feature is prepared.
        law: of step 1, or straight to accuracy.

    Raises:
        InputError: the task, a run's feature or an input of the law is missing, or is 0.
    """
    if not (table["task"] == task).any():
        raise InputError(f"task {task!r} is not in the table: check the label")
    columns = points.columns_of(table, task, runs, protocol, two_steps=not law.of_accuracy)
    needed = _needed(table, columns)
    by_run = {str(run): rows for run, rows in needed.groupby("run", sort=False)}
    finals, curves = [], []
    for run in runs:
        found = points.checkpoints(by_run.get(run), run, columns)
        finals.append(points.final_point(found, run, protocol))
        if len(columns) == 2:
            kept = points.smoothed(found, protocol)
            curves.append(kept.assign(run=run, size=found["size"].iloc[-1]))
    final = pd.DataFrame(finals)
    curve = pd.concat(curves or [pd.DataFrame(columns=_CURVE)], ignore_index=True)
    goals = pd.DataFrame([asdict(t) for t in targets]).rename(columns={"name": "run"})
    measured = _measure(table, goals, columns)
    fitted = _points(task, columns, protocol, final, curve, measured, law)
    return TaskData(task, columns, protocol, final, curve, measured, fitted)


def _needed(table: pd.DataFrame, columns: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """The rows and cells that are read, in plain types: nullable ones are slow in small pieces."""
    rows = table.loc[table["task"].isin([task for task, _ in columns.values()]), list(_READ)]
    return rows.astype({name: object if name in _TEXT else float for name in _READ})


def under(data: TaskData, law: Law) -> TaskData:
    """The same points under another law; one of accuracy drops the feature."""
    columns = {n: c for n, c in data.columns.items() if n == "acc" or not law.of_accuracy}
    fitted = _points(data.task, columns, data.protocol, data.final, data.curve, data.measured, law)
    return replace(data, columns=columns, points=fitted)


def _points(
    task: str,
    columns: dict[str, tuple[str, str]],
    protocol: Protocol,
    final: pd.DataFrame,
    curve: pd.DataFrame,
    goals: pd.DataFrame,
    law: Law,
) -> Points:
    x = points.law_inputs(final, law, "--train")
    ahead = points.law_inputs(goals, law, "--target")
    y = final[next(iter(columns))]
    if not (y > 0).all():
        zero = final.loc[~(y > 0), "run"].iloc[0]
        raise InputError(f"run {zero!r} has a {y.name} of 0 for {task!r}: leave it out of --train")
    index = {run: i for i, run in enumerate(final["run"])}
    return Points(
        law=law,
        link=protocol.link if len(columns) == 2 else None,
        x=x,
        y=y.to_numpy(),
        run=curve["run"].map(index).to_numpy(int),
        feature=curve["loss"].to_numpy(float),
        accuracy=curve["acc"].to_numpy(float),
        goals=ahead,
    )


def compare(data: TaskData, table: pd.DataFrame) -> pd.DataFrame:
    """`measured` again, as another table has it."""
    return _measure(table, data.measured, data.columns)


def _measure(
    table: pd.DataFrame, goals: pd.DataFrame, columns: dict[str, tuple[str, str]]
) -> pd.DataFrame:
    """The targets beside what the table says of them, where it says anything."""
    needed = _needed(table, columns)
    found = []
    for goal in goals[["run", "n_params", "n_tokens", "flops"]].to_dict("records"):
        rows = needed[needed["run"] == goal["run"]]
        found.append(goal | points.measured_target(rows, goal["n_tokens"], columns))
    return pd.DataFrame(found)
