"""Makes the arrays of one task from a measurement table, for fitting and for forecasting."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from fitting.errors import InputError
from fitting.laws import Law
from fitting.laws.base import POOLED
from fitting.observations import chance as chances
from fitting.observations import preparation as prepare
from fitting.observations import select
from fitting.observations.arrays import Observations, Targets
from fitting.observations.distance import distance
from fitting.observations.preparation import Preparation
from fitting.observations.select import TargetRun

_CURVE = ("run", "size", "loss", "acc")
_TARGET = ("run", "n_params", "n_tokens", "flops", "unique_tokens")
_MEASURED = (*_TARGET, "loss", "acc", "stale", "blurred")
_TEXT = ("run", "size", "task", "metric")
_READ = (
    *_TEXT, "multiple", "n_params", "n_tokens", "flops", "value", "n_examples", "unique_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class TaskData:
    """One task's part of a measurement table, prepared.

    Attributes:
        task: label.
        columns: the (task, metric) of `loss` and of `acc`; only `loss` for a language-model loss,
            only `acc` for a single step.
        preparation: how the feature was prepared.
        law: law of step 1, or of accuracy in a single step.
        final: one row per training run: run, size, multiple, n_params, n_tokens, flops, n_examples,
            unique_tokens (NaN if unknown), loss, acc.
        curve: one row per checkpoint used by step 2: run, size, loss, acc.
        chance: accuracy of guessing, None if unknown.
        measured: one row per target: run, n_params, n_tokens, flops, unique_tokens, loss, acc (NaN
            if unmeasured), stale, blurred (see `select.measured_target`).
        items: number of test items, see `Targets`.
    """

    task: str
    columns: dict[str, tuple[str, str]]
    preparation: Preparation
    law: Law
    final: pd.DataFrame
    curve: pd.DataFrame
    chance: float | None
    measured: pd.DataFrame
    items: float = math.inf

    @functools.cached_property
    def observations(self) -> Observations:
        """The arrays to fit.

        Raises:
            InputError: an input of the law is missing, or the loss of a run is 0 (or its accuracy,
                for a law of accuracy): laws are fitted to logarithms.
        """
        final, curve = self.final, self.curve
        x = law_inputs(final, self.law, "train")
        y = final[next(iter(self.columns))]
        if y.name == "loss" or set(self.law.methods) - set(POOLED):
            what = f"{'an accuracy' if y.name == 'acc' else 'a loss'} of 0 for {self.task!r}"
            zero = final.loc[~(y > 0), "run"].tolist()
            select.refuse({what: zero}, "its logarithm is fitted: leave out with `exclude`")
        index = {run: i for i, run in enumerate(final["run"])}
        return Observations(
            law=self.law,
            link=self.preparation.link if len(self.columns) == 2 else None,
            x=x,
            y=y.to_numpy(),
            run=curve["run"].map(index).to_numpy(int),
            feature=curve["loss"].to_numpy(float),
            accuracy=curve["acc"].to_numpy(float),
            final_accuracy=final.reindex(columns=["acc"])["acc"].to_numpy(float),
            chance=chances.UNKNOWN if self.chance is None else (self.chance, 0.0),
            choices=bool(self.chance),
        )

    @functools.cached_property
    def targets(self) -> Targets:
        """The arrays of the targets.

        Raises:
            InputError: an input of the law is missing.
        """
        return Targets(
            inputs=law_inputs(self.measured, self.law, "targets"),
            extrapolation=_extrapolation(self.final, self.measured),
            items=self.items,
        )


def observe(
    table: pd.DataFrame,
    task: str,
    runs: Sequence[str],
    preparation: Preparation,
    law: Law,
    chance: float | None = None,
) -> TaskData:
    """Prepares the data of one task for fitting, without targets.

    Args:
        table: measurements, in the schema of `fitting.table`.
        task: label.
        runs: names of the training runs.
        preparation: how the feature is prepared.
        law: of step 1, or straight to accuracy.
        chance: accuracy of guessing; needed only where `fitting.observations.chance` does not know
            the label.

    Raises:
        InputError: the task, or measurements of runs or inputs of the law are missing or 0; one
            line names all these runs.
    """
    if not (table["task"] == task).any():
        raise InputError(f"task {task!r} is not in the table: check the label")
    columns = select.columns_of(table, task, runs, preparation, two_steps=not law.of_accuracy)
    needed = _needed(table, columns)
    by_run = {str(run): rows for run, rows in needed.groupby("run", sort=False)}
    finals, curves = [], []
    lacking: dict[str, list[str]] = {}
    for run in runs:
        try:
            found = select.checkpoints(by_run.get(run), run, columns)
        except select.MissingError as e:
            lacking.setdefault(e.what, []).append(run)
            continue
        unique_tokens = found["unique_tokens"].iloc[-1]
        final = prepare.final_observation(found, run, preparation)
        finals.append(final | {"unique_tokens": unique_tokens})
        if len(columns) == 2:
            kept = prepare.smoothed(found, preparation)
            curves.append(kept.assign(run=run, size=found["size"].iloc[-1]))
    if finals:
        lacking |= _lacking(pd.DataFrame(finals), law.inputs)
    select.refuse(lacking, "fill it in, or leave out the task or, with `exclude`, the runs")
    data = TaskData(
        task=task,
        columns=columns,
        preparation=preparation,
        law=law,
        final=pd.DataFrame(finals),
        curve=pd.concat(curves or [pd.DataFrame(columns=_CURVE)], ignore_index=True),
        chance=chances.of_label(task) if chance is None else chance,
        measured=pd.DataFrame(columns=_MEASURED),
    )
    _ = data.observations  # raises now if anything is missing
    return data


def observe_tasks(
    table: pd.DataFrame,
    tasks: Sequence[str],
    runs: Sequence[str],
    preparation: Preparation,
    law: Law,
    chance: Mapping[str, float] | None = None,
) -> list[TaskData]:
    """Prepares the data of several tasks for fitting; see `observe`.

    Args:
        table: measurements, in the schema of `fitting.table`.
        tasks: labels.
        runs: names of the training runs.
        preparation: how the feature is prepared.
        law: of step 1, or straight to accuracy.
        chance: task -> accuracy of guessing.
    """
    known = chance or {}
    return [observe(table, task, runs, preparation, law, known.get(task)) for task in tasks]


def with_targets(
    data: TaskData, table: pd.DataFrame, runs: Sequence[TargetRun], new_items: bool = False
) -> TaskData:
    """Replaces the targets in a task's data.

    Args:
        data: data of the task.
        table: measurements, which may include measured values of the targets.
        runs: runs to forecast.
        new_items: forecast the accuracy on as many newly drawn test items, not on the same items.

    Raises:
        InputError: an input of the law, or the number of items, is missing.
    """
    frame = pd.DataFrame([asdict(run) for run in runs]).rename(columns={"name": "run"})
    items = _n_items(data.final, data.task) if new_items else math.inf
    made = replace(data, measured=_measure(table, frame, data.columns), items=items)
    _ = made.targets  # raises now if anything is missing
    return made


def under_law(data: TaskData, law: Law) -> TaskData:
    """Replaces the law in a task's data; a law of accuracy needs no feature."""
    columns = {n: c for n, c in data.columns.items() if n == "acc" or not law.of_accuracy}
    return replace(data, columns=columns, law=law)


def measured_in(data: TaskData, table: pd.DataFrame) -> TaskData:
    """Reads the measured values of a task's targets from another table."""
    return replace(data, measured=_measure(table, data.measured, data.columns))


def law_inputs(frame: pd.DataFrame, law: Law, argument: str) -> np.ndarray:
    """Law inputs of M runs, shape (M, I).

    Args:
        frame: one row per run, with its name and the columns that the law needs.
        law: the law that takes the inputs.
        argument: name of the argument that gave the runs, for messages.

    Raises:
        InputError: an input is missing, or not above 0.
    """
    select.refuse(_lacking(frame, law.inputs), f"fill it in (`{argument}`)")
    return frame[list(law.inputs)].to_numpy(float)


def _lacking(frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, list[str]]:
    """What runs lack in the columns -> their names; a number must be above 0."""
    found = {f"no {c}": frame.loc[~(frame[c] > 0), "run"].tolist() for c in columns}
    return {what: names for what, names in found.items() if names}


def _needed(table: pd.DataFrame, columns: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """The needed rows and cells, in plain types: nullable types are slow for small frames."""
    rows = table.loc[table["task"].isin([task for task, _ in columns.values()])]
    rows = rows.reindex(columns=list(_READ))  # optional columns that the table lacks are NaN
    return rows.astype({name: object if name in _TEXT else float for name in _READ})


def _n_items(final: pd.DataFrame, task: str) -> float:
    lacking = final.loc[~(final["n_examples"] > 0), "run"].tolist()
    select.refuse({f"no n_examples of {task!r}": lacking}, "fill it in, or leave out `new_items`")
    return float(final["n_examples"].min())


def _extrapolation(final: pd.DataFrame, targets: pd.DataFrame) -> np.ndarray:
    """Distances of targets from the training runs; compute is FLOPs if all are known, else N D."""
    known = all((frame["flops"] > 0).all() for frame in (final, targets))
    trained, ahead = (
        np.log(
            np.column_stack([
                frame["flops"] if known else frame["n_params"] * frame["n_tokens"],
                frame["n_tokens"] / frame["n_params"],
            ]).astype(float)
        )
        for frame in (final, targets)
    )  # fmt: skip
    return distance(trained, ahead)


def _measure(
    table: pd.DataFrame, targets: pd.DataFrame, columns: dict[str, tuple[str, str]]
) -> pd.DataFrame:
    """The targets with their measured values, where the table has them."""
    needed = _needed(table, columns)
    found = []
    for target in targets[list(_TARGET)].to_dict("records"):
        rows = needed[needed["run"] == target["run"]]
        found.append(target | select.measured_target(rows, target["n_tokens"], columns))
    return pd.DataFrame(found)
