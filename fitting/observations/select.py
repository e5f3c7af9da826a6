"""Selects runs, targets and tasks from a measurement table, and reads their checkpoints."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fitting.errors import InputError
from fitting.observations.preparation import MAIN_TASKS, REACH, Preparation, as_float

ACTUAL_WINDOW = 5  # a target's measured value is the mean of its last five evaluations
_SHOWN = 6  # names in a message


class MissingError(InputError):
    """A run lacks a measurement.

    Attributes:
        what: what the run has or lacks, to follow "has": "no bpb of 'boolq'".
    """

    def __init__(self, run: str, what: str) -> None:
        super().__init__(f"run {run!r} has {what}: fill it in or leave the run out")
        self.what = what


@dataclass(frozen=True)
class TargetRun:
    """A run to forecast.

    Attributes:
        name: name of the run.
        n_params: parameters, counted as in the column of the measurement table.
        n_tokens: training tokens at the end.
        flops: training FLOPs; NaN if unknown.
        unique_tokens: tokens of the text that it reads, NaN if unknown; with more tokens than these
            it reads some of the text again.
    """

    name: str
    n_params: float
    n_tokens: float
    flops: float
    unique_tokens: float = math.nan


def select_runs(
    table: pd.DataFrame, patterns: Sequence[str], exclude: Sequence[str] = ()
) -> list[str]:
    """Names of the runs that match any of the patterns, in the table's order.

    Args:
        table: measurements.
        patterns: shell patterns of the runs' names.
        exclude: shell patterns of the runs that are then left out.

    Raises:
        InputError: a pattern matches no run, excludes none, or no run is left.
    """
    names = [str(name) for name in table["run"].unique()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise InputError(
                f"`train` {pattern!r} matches no run; the table has {shortened(names)}"
            )
    found = matching(names, patterns)
    for pattern in exclude:
        if not fnmatch.filter(found, pattern):
            raise InputError(
                f"`exclude` {pattern!r} matches no run of `train`, which has {shortened(found)}"
            )
    out = set(matching(found, exclude))
    kept = [name for name in found if name not in out]
    if found and not kept:
        raise InputError(
            f"`exclude` leaves no run of `train`; the table has {shortened(names)}: keep some"
        )
    return kept


def matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that match any of the shell patterns, in their order."""
    return [name for name in names if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def literal(names: Sequence[str]) -> list[str]:
    """Shell patterns that match these names alone."""
    return ["".join(f"[{c}]" if c in "*?[" else c for c in name) for name in names]


def train_patterns(
    table: pd.DataFrame, train: Sequence[str], exclude: Sequence[str] = ()
) -> list[str]:
    """Patterns for `ForecastSpec.train` that leave out the excluded runs.

    Args:
        table: measurements.
        train: shell patterns of the training runs.
        exclude: shell patterns of the runs to leave out.

    Returns:
        `train` itself if nothing is excluded, else a pattern for each run that is left.

    Raises:
        InputError: see `select_runs`.
    """
    return literal(select_runs(table, train, exclude)) if exclude else list(train)


def refuse(lacking: Mapping[str, Sequence[str]], advice: str) -> None:
    """Refuses runs that lack something, all of them in one line.

    Args:
        lacking: what the runs have or lack, to follow "have" -> their names, maybe none.
        advice: what the user can do.

    Raises:
        InputError: there are such runs.
    """
    found = []
    for what, names in ((what, names) for what, names in lacking.items() if names):
        several, quoted = len(names) > 1, shortened([repr(str(name)) for name in names])
        found.append(f"run{'s' if several else ''} {quoted} {'have' if several else 'has'} {what}")
    if found:
        raise InputError(f"{'; '.join(found)}: {advice}")


def shortened(names: Sequence[str]) -> str:
    """Names for a message: the first six, and the number of the others."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def task_labels(tasks: Iterable[str]) -> list[str]:
    """Labels without duplicates; `main` is replaced by the paper's eight tasks.

    Raises:
        InputError: there is no label.
    """
    labels = [t for label in tasks for t in (MAIN_TASKS if label == "main" else (label,))]
    if not labels:
        raise InputError("`tasks` names none: give labels, or main")
    return list(dict.fromkeys(labels))


def target_runs(
    table: pd.DataFrame,
    given: Iterable[str | TargetRun],
    train: Sequence[str],
    argument: str = "targets",
) -> list[TargetRun]:
    """The runs to forecast, each given as a name, a description or a record.

    Args:
        table: measurements.
        given: texts for `parse_target`, or records.
        train: names of the training runs, which cannot be forecast.
        argument: name of the argument that gave `given`, for messages.

    Raises:
        InputError: a run is unknown, its text is malformed, or it is a training run.
    """
    found = []
    for one in dict.fromkeys(given):
        name = one if isinstance(one, str) else one.name
        run = parse_target(table, one, argument) if isinstance(one, str) else one
        if run.name in train:
            raise InputError(f"`{argument}` {name} is also in `train`: leave it out of one")
        found.append(run)
    return found


def parse_target(table: pd.DataFrame, text: str, argument: str = "targets") -> TargetRun:
    """Reads a target: a run of the table, or a description `NAME=N_PARAMS,N_TOKENS[,FLOPS]`.

    Args:
        table: measurements.
        text: the name or description.
        argument: name of the argument that gave the text, for messages.

    Raises:
        InputError: the run is unknown, or the text is malformed.
    """
    rows = table[table["run"] == text]
    if not rows.empty:
        last = rows.iloc[int(np.argmax(rows["n_tokens"].astype(float).fillna(0)))]
        n_params, n_tokens, flops = (as_float(last[c]) for c in ("n_params", "n_tokens", "flops"))
        unique_tokens = as_float(last.get("unique_tokens"))
        return TargetRun(text, n_params, n_tokens, flops, unique_tokens)
    name, given, numbers = text.partition("=")
    if not given:
        raise InputError(
            f"`{argument}` {text!r} is not in the table: measure it, or give "
            f"{text}=N_PARAMS,N_TOKENS"
        )
    if (table["run"] == name).any():
        raise InputError(f"`{argument}` {text!r}: the table has a run {name!r}; give another name")
    try:
        values = [float(v) for v in numbers.split(",")]
    except ValueError:
        values = []
    if not name or len(values) not in (2, 3) or not all(0 < v < math.inf for v in values):
        raise InputError(f"`{argument}` {text!r}: write NAME=N_PARAMS,N_TOKENS[,FLOPS]")
    return TargetRun(name, values[0], values[1], values[2] if len(values) == 3 else math.nan)


def columns_of(
    table: pd.DataFrame, task: str, runs: Sequence[str], preparation: Preparation, two_steps: bool
) -> dict[str, tuple[str, str]]:
    """The measurements to read for a task: `loss`, `acc` or both -> (task, metric).

    Accuracy is `acc_per_char` if the task has it (as in the paper), else `acc`.  A task without
    accuracies is a text: its language-model loss is forecast, in bits per byte if known.

    Raises:
        InputError: the task has no accuracy, and a single step needs one.
    """
    metrics = set(table.loc[(table["task"] == task) & table["run"].isin(runs), "metric"])
    accuracy = "acc_per_char" if "acc_per_char" in metrics else "acc"
    if not metrics & {"acc_per_char", "acc"} and metrics & {"lm_bpb", "lm_loss"}:
        if not two_steps:
            raise InputError(f"task {task!r} has no accuracy for a single step: leave it out")
        return {"loss": (task, "lm_bpb" if "lm_bpb" in metrics else "lm_loss")}
    first = {"loss": (preparation.task or task, preparation.metric)} if two_steps else {}
    return first | {"acc": (task, accuracy)}


def checkpoints(
    rows: pd.DataFrame | None, run: str, columns: dict[str, tuple[str, str]]
) -> pd.DataFrame:
    """The checkpoints of a run that have every column, oldest first, indexed by tokens.

    Args:
        rows: the run's measurements, or None.
        run: name of the run, for messages.
        columns: name of each column -> its (task, metric).

    Raises:
        MissingError: the run lacks a measurement or tokens, or has two measurements at the same
            tokens.
    """
    sides = {}
    for name, (task, metric) in columns.items():
        side = _rows_of(rows, task, metric)
        if side.empty:
            raise MissingError(run, f"no {metric} of {task!r}")
        if side["n_tokens"].isna().any():
            raise MissingError(run, "no n_tokens")
        if side["n_tokens"].duplicated().any():
            raise MissingError(run, f"{metric} of {task!r} twice at the same n_tokens")
        sides[name] = side.set_index("n_tokens", drop=False)
    both = next(iter(sides.values())).sort_index()
    for name, side in sides.items():
        both[name], both["n_examples"] = side["value"], side["n_examples"]  # accuracy comes last
    both = both.dropna(subset=list(sides))
    if both.empty:
        names = " and ".join(f"{metric} of {task!r}" for task, metric in columns.values())
        raise MissingError(run, f"no checkpoint with {names}")
    return both


def _rows_of(rows: pd.DataFrame | None, task: str, metric: str) -> pd.DataFrame:
    if rows is None:
        return pd.DataFrame(columns=["n_tokens", "value"])
    return rows[(rows["task"] == task) & (rows["metric"] == metric)]


def measured_target(
    rows: pd.DataFrame, n_tokens: float, columns: dict[str, tuple[str, str]]
) -> dict[str, Any]:
    """Measured `loss` and `acc` of a target at its last tokens, NaN if not measured.

    Two further cells are booleans.  `stale`: the measurements are not at the tokens of the
    forecast, so they are not compared.  `blurred`: the averaged evaluations lie far apart in
    training.

    Args:
        rows: the target's measurements.
        n_tokens: tokens of the forecast.
        columns: the result of `columns_of`.
    """
    known: dict[str, Any] = {"loss": math.nan, "acc": math.nan, "stale": False, "blurred": False}
    for name, (task, metric) in columns.items():
        side = _rows_of(rows, task, metric).sort_values("n_tokens", kind="stable")
        if side.empty:
            continue
        if side["n_tokens"].isna().any() or side["n_tokens"].iloc[-1] != n_tokens:
            known["stale"] = True
        else:
            side = side.iloc[-ACTUAL_WINDOW:]
            known[name] = side["value"].mean()
            known["blurred"] |= bool(side["n_tokens"].iloc[0] < (1 - REACH) * n_tokens)
    return known


def without_early_evaluations(table: pd.DataFrame, runs: Sequence[str]) -> pd.DataFrame:
    """Removes early evaluations of some runs, which would make their measured values inexact.

    Args:
        table: measurements.
        runs: names of the held-out runs.
    """
    tokens = table["n_tokens"].astype(float)
    early = tokens < (1 - REACH) * tokens.groupby(table["run"]).transform("max")
    return table[~(early & table["run"].isin(list(runs)))]
