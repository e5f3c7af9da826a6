"""From a measurement table to the points that are fitted: which runs and checkpoints, smoothed how.

`PAPER` holds how arXiv 2412.04403 prepares each feature.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from fitting.errors import InputError
from fitting.laws import HILL, LOG_SIGMOID, SIGMOID, Law, Link

MAIN_TASKS = (
    "mmlu_avg_test_rc_5shot",
    "hellaswag_val_rc_5shot",
    "arc_challenge_test_rc_5shot",
    "arc_easy_test_rc_5shot",
    "piqa_val_rc_5shot",
    "csqa_val_rc_5shot",
    "socialiqa_val_rc_5shot",
    "openbookqa_test_rc_5shot",
)  # the paper's eight, in its order


_REACH = 0.15
ACTUAL_WINDOW = 5  # a target's measured value is the mean of its last five evaluations


@dataclass(frozen=True)
class Protocol:
    """How a feature is prepared (arXiv 2412.04403, Sections 2 and 4, and its code).

    Attributes:
        metric: the feature.
        task: whose feature it is; None means the forecast task's own.
        final_window: last checkpoints averaged into a run's point of step 1, as far as they lie
            in the last `reach` of its tokens.
        skip: share of a run's first checkpoints left out of step 2.
        smooth: trailing checkpoints averaged into a point of step 2, within the same reach.
        link: curve of step 2.
        reach: share of a run's tokens that an average may span.  The paper's runs, with some 36
            checkpoints and more, never get that far; a run with six would be blurred.
    """

    metric: str
    task: str | None
    final_window: int
    skip: float
    smooth: int
    link: Link
    reach: float = _REACH


PAPER = {
    "bpb": Protocol("bpb", None, 5, 0.1, 5, SIGMOID),
    "lm_loss": Protocol("lm_loss", "c4_en_val", 5, 0.1, 5, SIGMOID),
    "task_ce": Protocol("task_ce", None, 1, 0.5, 1, LOG_SIGMOID),
}

POOLED = {
    name: replace(protocol, final_window=5, skip=0.1, smooth=5, link=HILL)
    for name, protocol in PAPER.items()
}  # of the methods that pool tasks: one preparation for every feature
TEXT_FEATURE = "lm_loss"  # of a text, the same for all tasks
N_WINDOWS = 5  # before a run's last one


@dataclass(frozen=True)
class Target:
    """A run to forecast: inputs of the laws, and how its learning rate ends."""

    name: str
    n_params: float
    n_tokens: float
    flops: float
    rate: float = math.nan  # learning rate at its end over the peak; unknown: as the runs end


def select_runs(table: pd.DataFrame, patterns: Sequence[str]) -> list[str]:
    """Run names that match any of the patterns, in the table's order."""
    names = [str(name) for name in table["run"].unique()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            some = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
            raise InputError(f"--train {pattern!r} matches no run; the table has {some}")
    return [n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns)]


def parse_target(table: pd.DataFrame, text: str) -> Target:
    """A target named in the table, or given as `NAME=N_PARAMS,N_TOKENS[,FLOPS]`."""
    rows = table[table["run"] == text]
    if not rows.empty:
        last = rows.iloc[int(np.argmax(rows["n_tokens"].astype(float).fillna(0)))]
        n_params, n_tokens, flops = (_number(last[c]) for c in ("n_params", "n_tokens", "flops"))
        peak = _number(last["lr_peak"])
        rate = _number(last["lr"]) / peak if peak > 0 else math.nan
        return Target(text, n_params, n_tokens, flops, rate)
    name, given, numbers = text.partition("=")
    if not given:
        raise InputError(
            f"--target {text!r} is not in the table: measure it, or give {text}=N_PARAMS,N_TOKENS"
        )
    if (table["run"] == name).any():
        raise InputError(f"--target {text!r}: the table has a run {name!r}; give another name")
    try:
        values = [float(v) for v in numbers.split(",")]
    except ValueError:
        values = []
    if not name or len(values) not in (2, 3) or not all(0 < v < math.inf for v in values):
        raise InputError(f"--target {text!r}: write NAME=N_PARAMS,N_TOKENS[,FLOPS]")
    return Target(name, values[0], values[1], values[2] if len(values) == 3 else math.nan)


def columns_of(
    table: pd.DataFrame, task: str, runs: Sequence[str], protocol: Protocol, two_steps: bool
) -> dict[str, tuple[str, str]]:
    """What is read for a task: `loss`, `acc` or both -> (task, metric).

    Accuracy is `acc_per_char` where the task has it (the paper's), else `acc`.  A task without
    accuracies is a text: its language-model loss is forecast, in bits per byte where known.
    """
    metrics = set(table.loc[(table["task"] == task) & table["run"].isin(runs), "metric"])
    accuracy = "acc_per_char" if "acc_per_char" in metrics else "acc"
    if not metrics & {"acc_per_char", "acc"} and metrics & {"lm_bpb", "lm_loss"}:
        if not two_steps:
            raise InputError(f"task {task!r} has no accuracy for a single step: leave it out")
        return {"loss": (task, "lm_bpb" if "lm_bpb" in metrics else "lm_loss")}
    first = {"loss": (protocol.task or task, protocol.metric)} if two_steps else {}
    return first | {"acc": (task, accuracy)}


def checkpoints(
    rows: pd.DataFrame | None, run: str, columns: dict[str, tuple[str, str]]
) -> pd.DataFrame:
    """A run's checkpoints that have every column, oldest first, indexed by tokens.

    Args:
        rows: the run's measurements, or None.
        run: its name, for messages.
        columns: name of each column -> (task, metric) it holds.

    Raises:
        InputError: the run lacks a measurement, or tokens, or has two at the same tokens.
    """
    sides = {}
    for name, (task, metric) in columns.items():
        side = _select(rows, task, metric)
        if side.empty:
            raise InputError(f"run {run!r} has no {metric} of {task!r}: measure it or leave it out")
        if side["n_tokens"].isna().any():
            raise InputError(f"run {run!r} has no n_tokens: fill in the column or leave it out")
        if side["n_tokens"].duplicated().any():
            raise InputError(f"run {run!r} has {metric} of {task!r} twice at the same n_tokens")
        sides[name] = side.set_index("n_tokens", drop=False)
    both = next(iter(sides.values())).sort_index()
    for name, side in sides.items():
        both[name], both["n_examples"] = side["value"], side["n_examples"]  # accuracy comes last
    both = both.dropna(subset=list(sides))
    if both.empty:
        said = " and ".join(f"{metric} of {task!r}" for task, metric in columns.values())
        raise InputError(f"run {run!r}: {said} share no checkpoint")
    return both


def _select(rows: pd.DataFrame | None, task: str, metric: str) -> pd.DataFrame:
    if rows is None:
        return pd.DataFrame(columns=["n_tokens", "value"])
    return rows[(rows["task"] == task) & (rows["metric"] == metric)]


def trailing_mean(values: np.ndarray, at: np.ndarray, window: int, reach: float) -> np.ndarray:
    """Mean of each value and those before it: at most `window`, none further back than `reach`.

    Args:
        values: shape (M,).
        at: where they lie, rising, shape (M,).
        window: values averaged, at most.
        reach: in the units of `at`.
    """
    own = np.arange(len(values))
    first = np.maximum(own + 1 - window, np.searchsorted(at, at - reach))
    total = np.zeros(len(values))
    for back in range(window - 1, -1, -1):  # oldest first, as a plain mean adds them
        total += np.where(own - back >= first, values[np.maximum(own - back, 0)], 0.0)
    return total / (own + 1 - first)


def final_point(points: pd.DataFrame, run: str, protocol: Protocol) -> dict:
    """A run's point of step 1: its last inputs, and its columns averaged over the window."""
    last = points.iloc[-1]
    at = points["n_tokens"].to_numpy(float)
    return {
        "run": run,
        "size": last["size"],
        "multiple": _number(last["multiple"]),
        "n_params": _number(last["n_params"]),
        "n_tokens": _number(last["n_tokens"]),
        "flops": _number(last["flops"]),
        "n_examples": _number(last["n_examples"]),
    } | {
        name: trailing_mean(
            points[name].to_numpy(float), at, protocol.final_window, protocol.reach * at[-1]
        )[-1]
        for name in ("loss", "acc")
        if name in points
    }


def smoothed(points: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """A run's points of step 2: first checkpoints skipped, the rest averaged over trailing ones."""
    kept = points.iloc[math.ceil(protocol.skip * len(points)) :]
    if kept.empty:
        kept = points.iloc[-1:]
    at = kept["n_tokens"].to_numpy(float)
    return pd.DataFrame(
        {
            name: trailing_mean(
                kept[name].to_numpy(float), at, protocol.smooth, protocol.reach * at[-1]
            )
            for name in ("loss", "acc")
        }
    )


def windows(points: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Means of a run's checkpoints over stretches that do not overlap: loss, acc and rate.

    The last stretch is the one behind the run's point of step 1; what lies between it and the
    first checkpoints, which are skipped, is cut into five of equal length, as far as it goes.
    """
    at = points["n_tokens"].to_numpy(float)
    near = int(np.sum(at >= at[-1] - protocol.reach * at[-1]))
    last = len(at) - min(protocol.final_window, near)
    before = np.arange(min(math.ceil(protocol.skip * len(at)), last), last)
    stretches = np.array_split(before, max(1, min(N_WINDOWS, len(before))))
    rate = (points["lr"] / points["lr_peak"].where(points["lr_peak"] > 0)).to_numpy(float)
    known = {"loss": points["loss"], "acc": points["acc"], "rate": rate}
    rows = [s for s in (*stretches, np.arange(last, len(at))) if len(s)]
    return pd.DataFrame(
        {name: [np.mean(np.asarray(v, float)[s]) for s in rows] for name, v in known.items()}
    )


def measured_target(
    rows: pd.DataFrame, n_tokens: float, columns: dict[str, tuple[str, str]]
) -> dict[str, Any]:
    """What was measured of a target at its last tokens: `loss` and `acc`, NaN if unmeasured.

    `stale` says that there are measurements, but none at the tokens that are forecast: they are
    not compared.  `blurred` says that the evaluations averaged lie far apart in training.
    """
    known: dict[str, Any] = {"loss": math.nan, "acc": math.nan, "stale": False, "blurred": False}
    for name, (task, metric) in columns.items():
        side = _select(rows, task, metric).sort_values("n_tokens", kind="stable")
        if side.empty:
            continue
        if side["n_tokens"].isna().any() or side["n_tokens"].iloc[-1] != n_tokens:
            known["stale"] = True
        else:
            side = side.iloc[-ACTUAL_WINDOW:]
            known[name] = side["value"].mean()
            known["blurred"] |= bool(side["n_tokens"].iloc[0] < (1 - _REACH) * n_tokens)
    return known


def as_ended(table: pd.DataFrame, runs: Sequence[str]) -> pd.DataFrame:
    """A table without the early evaluations of some runs, whose measured values they would blur."""
    tokens = table["n_tokens"].astype(float)
    early = tokens < (1 - _REACH) * tokens.groupby(table["run"]).transform("max")
    return table[~(early & table["run"].isin(list(runs)))]


def law_inputs(frame: pd.DataFrame, law: Law, flag: str) -> np.ndarray:
    """Law inputs, shape (M, I)."""
    for column in law.inputs:
        lacking = frame.loc[~(frame[column] > 0), "run"]
        if len(lacking):
            raise InputError(f"{flag}: run {lacking.iloc[0]!r} has no {column}: fill it in")
    return frame[list(law.inputs)].to_numpy(float)


def _number(cell) -> float:
    return math.nan if pd.isna(cell) else float(cell)
