"""What is fitted and forecast for one task, gathered from a measurement table."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from fitting.errors import InputError
from fitting.laws import Law, Link
from fitting.observations import select
from fitting.observations.chance import UNKNOWN, of_label
from fitting.observations.select import Protocol, Target

_CURVE = ("run", "size", "loss", "acc")
_TEXT = ("run", "size", "task", "metric")
_READ = (
    *_TEXT, "multiple", "n_params", "n_tokens", "flops", "lr", "lr_peak", "value", "n_examples",
)  # fmt: skip
_WINDOW = ("run", "loss", "acc", "rate")


class Windows(NamedTuple):
    """Means over stretches of training, each of shape (M,); `rate` is NaN where unknown."""

    run: np.ndarray
    feature: np.ndarray
    accuracy: np.ndarray
    rate: np.ndarray


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
        windows: checkpoints averaged over stretches that do not overlap.
        beyond: ln of each target's compute over the largest run's, at least 0, shape (G,).
        rate: learning rate at each target's end over its peak, shape (G,).
        chance: accuracy of guessing, and the standard deviation of what is known of it.
        items: test items drawn afresh; infinite when the measured items are meant.
    """

    law: Law
    link: Link | None
    x: np.ndarray
    y: np.ndarray
    run: np.ndarray
    feature: np.ndarray
    accuracy: np.ndarray
    goals: np.ndarray
    windows: Windows
    beyond: np.ndarray
    rate: np.ndarray
    chance: tuple[float, float]
    items: float


@dataclass(frozen=True)
class TaskData:
    """The points of one task, and where they come from.

    Attributes:
        task: label.
        columns: what `loss` and `acc` are, as (task, metric): `loss` alone for a language-model
            loss, `acc` alone for a single step.
        protocol: how the feature was prepared.
        law: of step 1, or straight to accuracy.
        final: a row a training run: run, size, multiple, n_params, n_tokens, flops, n_examples,
            loss, acc.
        curve: a row a checkpoint used by step 2: run, size, loss, acc.
        windows: a row a stretch of training: run, loss, acc, rate.
        chance: accuracy of guessing, None if unknown.
        measured: a row a target: run, n_params, n_tokens, flops, rate, loss, acc (NaN if
            unmeasured).
        items: see `Points`.
    """

    task: str
    columns: dict[str, tuple[str, str]]
    protocol: Protocol
    law: Law
    final: pd.DataFrame
    curve: pd.DataFrame
    windows: pd.DataFrame
    measured: pd.DataFrame
    chance: float | None
    items: float

    @functools.cached_property
    def points(self) -> Points:
        """What an engine is given.

        Raises:
            InputError: an input of the law is missing, or what it gives is 0 for a run.
        """
        final, curve, windows, goals = self.final, self.curve, self.windows, self.measured
        x = select.law_inputs(final, self.law, "--train")
        ahead = select.law_inputs(goals, self.law, "--target")
        y = final[next(iter(self.columns))]
        if not (y > 0).all():
            zero = final.loc[~(y > 0), "run"].iloc[0]
            raise InputError(
                f"run {zero!r} has a {y.name} of 0 for {self.task!r}: leave it out of --train"
            )
        index = {run: i for i, run in enumerate(final["run"])}
        return Points(
            law=self.law,
            link=self.protocol.link if len(self.columns) == 2 else None,
            x=x,
            y=y.to_numpy(),
            run=curve["run"].map(index).to_numpy(int),
            feature=curve["loss"].to_numpy(float),
            accuracy=curve["acc"].to_numpy(float),
            goals=ahead,
            windows=Windows(
                windows["run"].map(index).to_numpy(int),
                *(windows[name].to_numpy(float) for name in _WINDOW[1:]),
            ),
            beyond=_beyond(final, goals),
            rate=goals["rate"].to_numpy(float),
            chance=UNKNOWN if self.chance is None else (self.chance, 0.0),
            items=self.items,
        )


def gather(
    table: pd.DataFrame,
    task: str,
    runs: Sequence[str],
    targets: Sequence[Target],
    protocol: Protocol,
    law: Law,
    chance: float | None = None,
    new_items: bool = False,
) -> TaskData:
    """Gathers one task's points.

    Args:
        table: measurements, in the schema of `fitting.table`.
        task: label.
        runs: names of the training runs.
        targets: to forecast.
        protocol: how the feature is prepared.
        law: of step 1, or straight to accuracy.
        chance: accuracy of guessing, where the label does not tell it.
        new_items: forecast an accuracy on test items of the same kind, not on the same items.

    Raises:
        InputError: the task, a run's feature or an input of the law is missing, or is 0.
    """
    if not (table["task"] == task).any():
        raise InputError(f"task {task!r} is not in the table: check the label")
    columns = select.columns_of(table, task, runs, protocol, two_steps=not law.of_accuracy)
    needed = _needed(table, columns)
    by_run = {str(run): rows for run, rows in needed.groupby("run", sort=False)}
    finals, curves, stretches = [], [], []
    for run in runs:
        found = select.checkpoints(by_run.get(run), run, columns)
        finals.append(select.final_point(found, run, protocol))
        if len(columns) == 2:
            kept = select.smoothed(found, protocol)
            curves.append(kept.assign(run=run, size=found["size"].iloc[-1]))
            stretches.append(select.windows(found, protocol).assign(run=run))
    final = pd.DataFrame(finals)
    curve = pd.concat(curves or [pd.DataFrame(columns=_CURVE)], ignore_index=True)
    goals = pd.DataFrame([asdict(t) for t in targets]).rename(columns={"name": "run"})
    windows = pd.concat(stretches or [pd.DataFrame(columns=_WINDOW)], ignore_index=True)
    data = TaskData(
        task, columns, protocol, law, final, curve, windows, _measure(table, goals, columns),
        of_label(task) if chance is None else chance,
        _items(final, task) if new_items else math.inf,
    )  # fmt: skip
    _ = data.points  # complains now of what it lacks
    return data


def _needed(table: pd.DataFrame, columns: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """The rows and cells that are read, in plain types: nullable ones are slow in small pieces."""
    rows = table.loc[table["task"].isin([task for task, _ in columns.values()]), list(_READ)]
    return rows.astype({name: object if name in _TEXT else float for name in _READ})


def under(data: TaskData, law: Law) -> TaskData:
    """The same points under another law; one of accuracy drops the feature."""
    columns = {n: c for n, c in data.columns.items() if n == "acc" or not law.of_accuracy}
    return replace(data, columns=columns, law=law)


def _items(final: pd.DataFrame, task: str) -> float:
    lacking = final.loc[~(final["n_examples"] > 0), "run"]
    if len(lacking):
        raise InputError(f"--new-items: run {lacking.iloc[0]!r} has no n_examples of {task!r}")
    return float(final["n_examples"].min())


def _beyond(final: pd.DataFrame, goals: pd.DataFrame) -> np.ndarray:
    """ln of compute over the largest run's, by FLOPs where all are known, else by N D."""
    known = all((frame["flops"] > 0).all() for frame in (final, goals))
    largest, ahead = (
        (frame["flops"] if known else frame["n_params"] * frame["n_tokens"]).to_numpy(float)
        for frame in (final, goals)
    )
    return np.maximum(0.0, np.log(ahead / largest.max()))


def compare(data: TaskData, table: pd.DataFrame) -> pd.DataFrame:
    """`measured` again, as another table has it."""
    return _measure(table, data.measured, data.columns)


def _measure(
    table: pd.DataFrame, goals: pd.DataFrame, columns: dict[str, tuple[str, str]]
) -> pd.DataFrame:
    """The targets beside what the table says of them, where it says anything."""
    needed = _needed(table, columns)
    found = []
    for goal in goals[["run", "n_params", "n_tokens", "flops", "rate"]].to_dict("records"):
        rows = needed[needed["run"] == goal["run"]]
        found.append(goal | select.measured_target(rows, goal["n_tokens"], columns))
    return pd.DataFrame(found)
