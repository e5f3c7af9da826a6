"""From a measurement table to forecasts of runs that were not trained on.

Two steps are fitted for each task, N and D (or C) -> feature and feature -> accuracy, and chained;
or one step straight to accuracy.  `PAPER` holds how arXiv 2412.04403 prepares each feature.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fitting import uncertainty
from fitting.laws import CHINCHILLA, COMPUTE_ONLY, LOG_SIGMOID, SIGMOID, SINGLE_STEP, Law, Link
from fitting.optimise import Fit, fit_law, fit_link, predict
from fitting.table import InputError

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

PREDICTION_COLUMNS = (
    "task", "target", "method", "level", "pred", "lo", "hi", "actual", "abs_error", "rel_error",
    "pred_loss", "loss_lo", "loss_hi", "actual_loss",
)  # fmt: skip

ACTUAL_WINDOW = 5  # a target's measured value is the mean of its last five evaluations


@dataclass(frozen=True)
class Protocol:
    """How a feature is prepared (arXiv 2412.04403, Sections 2 and 4, and its code).

    Attributes:
        metric: the feature.
        task: whose feature it is; None means the forecast task's own.
        final_window: last checkpoints averaged into a run's point of step 1.
        skip: share of a run's first checkpoints left out of step 2.
        smooth: trailing checkpoints averaged into a point of step 2.
        link: curve of step 2.
    """

    metric: str
    task: str | None
    final_window: int
    skip: float
    smooth: int
    link: Link


PAPER = {
    "bpb": Protocol("bpb", None, 5, 0.1, 5, SIGMOID),
    "lm_loss": Protocol("lm_loss", "c4_en_val", 5, 0.1, 5, SIGMOID),
    "task_ce": Protocol("task_ce", None, 1, 0.5, 1, LOG_SIGMOID),
}
LAW_OF_INPUTS = {"nd": CHINCHILLA, "c": COMPUTE_ONLY}


@dataclass(frozen=True)
class Target:
    """A run to forecast: inputs of the laws, and what was measured of it, if anything was."""

    name: str
    n_params: float
    n_tokens: float
    flops: float


@dataclass(frozen=True)
class TaskForecast:
    """Fits and forecasts of one task.

    Attributes:
        task: label.
        metric: the accuracy that is forecast.
        protocol: how the feature was prepared.
        final: a row a training run: run, size, multiple, n_params, n_tokens, flops, loss, acc.
        curve: a row a checkpoint used by step 2: run, size, loss, acc.
        measured: a row a target: run, n_params, n_tokens, flops, loss, acc (NaN if unmeasured).
        step1: the law (of accuracy itself when there is a single step).
        step2: the link, or None.
        rows: predictions in the pinned columns, a row a (target, level).
    """

    task: str
    metric: str
    protocol: Protocol
    final: pd.DataFrame
    curve: pd.DataFrame
    measured: pd.DataFrame
    step1: Fit[Law]
    step2: Fit[Link] | None
    rows: list[dict]

    def accuracy(self, x: np.ndarray) -> np.ndarray:
        """Forecast accuracy at law inputs of shape (..., I)."""
        first = predict(self.step1.curve, self.step1.theta, x)
        return first if self.step2 is None else predict(self.step2.curve, self.step2.theta, first)


def forecast(
    table: pd.DataFrame,
    train: Sequence[str],
    targets: Sequence[str],
    tasks: Sequence[str] = ("main",),
    method: str = "paper",
    feature: str | None = None,
    inputs: str = "nd",
    steps: str = "two",
    levels: Sequence[float] = (0.95,),
) -> list[TaskForecast]:
    """Fits the training runs and forecasts the targets.

    Args:
        table: measurements, in the schema of `fitting.table`.
        train: shell patterns of run names.
        targets: run names of the table, or `NAME=N_PARAMS,N_TOKENS[,FLOPS]` for a run that is
            not in it.
        tasks: labels; `main` stands for the paper's eight.
        method: `paper`.
        feature: `bpb` (default), `lm_loss` (C4) or `task_ce`; a single step has none.
        inputs: `nd` for N and D, `c` for FLOPs.
        steps: `two`, or `one` for the single-step law.
        levels: of the predictive intervals.

    Raises:
        InputError: one line on what is missing or contradictory.
    """
    if method != "paper":
        raise InputError(f"--method {method}: not known; use paper")
    if feature is not None and feature not in PAPER:
        raise InputError(f"--feature {feature}: the paper fits none; use {', '.join(PAPER)}")
    if steps == "one" and (inputs != "nd" or feature is not None):
        raise InputError("--steps one goes from N and D to accuracy: no --inputs c, no --feature")
    for level in levels:
        if not 0 < level < 1:
            raise InputError(f"--level {level}: must lie between 0 and 1")
    law = SINGLE_STEP if steps == "one" else LAW_OF_INPUTS[inputs]
    runs = select_runs(table, train)
    goals = [parse_target(table, text) for text in targets]
    for goal in goals:
        if goal.name in runs:
            raise InputError(f"--target {goal.name} is also in --train: leave it out of one")
    labels = [t for label in tasks for t in (MAIN_TASKS if label == "main" else (label,))]
    return [
        forecast_task(table, task, runs, goals, PAPER[feature or "bpb"], law, method, levels)
        for task in dict.fromkeys(labels)
    ]


def to_frame(forecasts: Sequence[TaskForecast]) -> pd.DataFrame:
    """All predictions in the pinned schema."""
    rows = [row for f in forecasts for row in f.rows]
    return pd.DataFrame(rows, columns=list(PREDICTION_COLUMNS))


def warnings(forecasts: Sequence[TaskForecast]) -> dict[str, list[str]]:
    """What a reader should know before trusting forecasts: plain words -> tasks it is true of."""
    notes: dict[str, list[str]] = {}
    for forecast in forecasts:
        for name, fit in (("step 1", forecast.step1), ("step 2", forecast.step2)):
            if fit is None:
                continue
            said = [f"{name}: {parameter} ended on a bound" for parameter in fit.on_bound]
            if not fit.converged:
                said.append(f"{name}: the fit stopped before a stationary point")
            if fit.dof <= 2:
                said.append(f"{name}: only {fit.dof} more points than parameters")
            if fit.explained < 0.5:
                said.append(f"{name}: explains under half of the variance; do not use")
            for text in said:
                notes.setdefault(text, []).append(forecast.task)
        for run in forecast.measured.loc[forecast.measured["stale"], "run"]:
            text = f"{run} was not measured at the tokens forecast, so it is not compared"
            notes.setdefault(text, []).append(forecast.task)
    return notes


def select_runs(table: pd.DataFrame, patterns: Sequence[str]) -> list[str]:
    """Run names that match any of the patterns, in the table's order."""
    names = list(dict.fromkeys(table["run"]))
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
        return Target(text, *(_number(last[c]) for c in ("n_params", "n_tokens", "flops")))
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


def forecast_task(
    table: pd.DataFrame,
    task: str,
    runs: Sequence[str],
    targets: Sequence[Target],
    protocol: Protocol,
    law: Law,
    method: str,
    levels: Sequence[float],
) -> TaskForecast:
    """Fits and forecasts one task; see `forecast`."""
    if not (table["task"] == task).any():
        raise InputError(f"task {task!r} is not in the table: check the label")
    source = protocol.task or task
    needed = table[table["task"].isin([task, source])]
    metric = accuracy_metric(needed[(needed["task"] == task) & needed["run"].isin(runs)])
    columns = {"acc": (task, metric)}
    if law is not SINGLE_STEP:
        columns = {"loss": (source, protocol.metric)} | columns
    by_run = {str(run): rows for run, rows in needed.groupby("run", sort=False)}
    finals, curves = [], []
    for run in runs:
        points = checkpoints(by_run.get(run), run, columns)
        finals.append(_final(points, run, protocol.final_window))
        if law is not SINGLE_STEP:
            kept = _smoothed(points, protocol)
            curves.append(kept.assign(run=run, size=points["size"].iloc[-1]))
    final = pd.DataFrame(finals)
    curve = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame()
    measured = pd.DataFrame([_measured(by_run.get(goal.name), goal, columns) for goal in targets])
    x, goals = _inputs(final, law, "--train"), _inputs(measured, law, "--target")
    if len(final) <= len(law.params):
        raise InputError(
            f"{len(final)} runs cannot fit the {len(law.params)} parameters of {law.name} and say "
            f"how well: --train needs at least {len(law.params) + 1}"
        )
    y = final["acc" if law is SINGLE_STEP else "loss"]
    if not (y > 0).all():
        zero = final.loc[~(y > 0), "run"].iloc[0]
        raise InputError(f"run {zero!r} has a {y.name} of 0 for {task!r}: leave it out of --train")
    step1, step2 = fit_law(law, x, y.to_numpy()), None
    if law is not SINGLE_STEP:
        step2 = fit_link(protocol.link, curve["loss"].to_numpy(), curve["acc"].to_numpy())
    rows = [
        _row(task, method, level, step1, step2, at, was)
        for at, was in zip(goals, measured.to_dict("records"), strict=True)
        for level in levels
    ]
    return TaskForecast(task, metric, protocol, final, curve, measured, step1, step2, rows)


def accuracy_metric(rows: pd.DataFrame) -> str:
    """`acc_per_char` where a task has it (the paper's accuracy), else `acc`."""
    return "acc_per_char" if (rows["metric"] == "acc_per_char").any() else "acc"


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
        both[name] = side["value"]
    both = both.dropna(subset=list(sides))
    if both.empty:
        said = " and ".join(f"{metric} of {task!r}" for task, metric in columns.values())
        raise InputError(f"run {run!r}: {said} share no checkpoint")
    return both


def _select(rows: pd.DataFrame | None, task: str, metric: str) -> pd.DataFrame:
    if rows is None:
        return pd.DataFrame(columns=["n_tokens", "value"])
    return rows[(rows["task"] == task) & (rows["metric"] == metric)]


def trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of each value and the `window` - 1 before it; of what exists at the start."""
    return pd.Series(values).rolling(window, min_periods=1).mean().to_numpy()


def _final(points: pd.DataFrame, run: str, window: int) -> dict:
    last = points.iloc[-1]
    return {
        "run": run,
        "size": last["size"],
        "multiple": _number(last["multiple"]),
        "n_params": _number(last["n_params"]),
        "n_tokens": _number(last["n_tokens"]),
        "flops": _number(last["flops"]),
    } | {name: points[name].iloc[-window:].mean() for name in ("loss", "acc") if name in points}


def _smoothed(points: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    kept = points.iloc[math.ceil(protocol.skip * len(points)) :]
    if kept.empty:
        kept = points.iloc[-1:]
    return pd.DataFrame(
        {name: trailing_mean(kept[name].to_numpy(), protocol.smooth) for name in ("loss", "acc")}
    )


def _measured(
    rows: pd.DataFrame | None, goal: Target, columns: dict[str, tuple[str, str]]
) -> dict[str, Any]:
    """A target's inputs, and what was measured of it at its last tokens.

    `stale` says that there are measurements, but none at the tokens that are forecast: they are
    not compared.
    """
    known = {
        "run": goal.name,
        "n_params": goal.n_params,
        "n_tokens": goal.n_tokens,
        "flops": goal.flops,
        "loss": math.nan,
        "acc": math.nan,
        "stale": False,
    }
    for name, (task, metric) in columns.items():
        side = _select(rows, task, metric).sort_values("n_tokens", kind="stable")
        if side.empty:
            continue
        if side["n_tokens"].isna().any() or side["n_tokens"].iloc[-1] != goal.n_tokens:
            known["stale"] = True
        else:
            known[name] = side["value"].iloc[-ACTUAL_WINDOW:].mean()
    return known


def _inputs(frame: pd.DataFrame, law: Law, flag: str) -> np.ndarray:
    """Law inputs, shape (M, I)."""
    for column in law.inputs:
        lacking = frame.loc[~(frame[column] > 0), "run"]
        if len(lacking):
            raise InputError(f"{flag}: run {lacking.iloc[0]!r} has no {column}: fill it in")
    return frame[list(law.inputs)].to_numpy(float)


def _row(
    task: str,
    method: str,
    level: float,
    step1: Fit[Law],
    step2: Fit[Link] | None,
    x: np.ndarray,
    was: dict,
) -> dict:
    """One prediction in the pinned columns."""
    first = float(predict(step1.curve, step1.theta, x))
    factor = math.exp(uncertainty.law_spread(step1, x).half_width(level))
    if step2 is None:
        pred, lo, hi = first, first / factor, first * factor
        loss = loss_lo = loss_hi = actual_loss = math.nan
    else:
        pred = float(predict(step2.curve, step2.theta, first))
        half = uncertainty.chained_spread(step1, step2, x).half_width(level)
        lo, hi = pred - half, pred + half
        loss, loss_lo, loss_hi, actual_loss = first, first / factor, first * factor, was["loss"]
    error = abs(pred - was["acc"])
    relative = error / was["acc"] if was["acc"] != 0 else math.nan
    values = (
        task, was["run"], method, level, pred, max(lo, 0.0), min(hi, 1.0), was["acc"], error,
        relative, loss, loss_lo, loss_hi, actual_loss,
    )  # fmt: skip
    return dict(zip(PREDICTION_COLUMNS, values, strict=True))


def _number(cell) -> float:
    return math.nan if pd.isna(cell) else float(cell)
