"""From a measurement table to forecasts of runs that were not trained on.

Two steps are fitted for each task, N and D (or C) -> feature and feature -> accuracy, and chained;
or one step straight to accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fitting import points, uncertainty
from fitting.laws import CHINCHILLA, COMPUTE_ONLY, SINGLE_STEP, Law, Link
from fitting.optimise import Fit, fit_law, fit_link, predict
from fitting.points import MAIN_TASKS, PAPER, Protocol, Target
from fitting.table import InputError

PREDICTION_COLUMNS = (
    "task", "target", "method", "level", "pred", "lo", "hi", "actual", "abs_error", "rel_error",
    "pred_loss", "loss_lo", "loss_hi", "actual_loss",
)  # fmt: skip


LAW_OF_INPUTS = {"nd": CHINCHILLA, "c": COMPUTE_ONLY}


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
    runs = points.select_runs(table, train)
    goals = [points.parse_target(table, text) for text in targets]
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
    metric = points.accuracy_metric(needed[(needed["task"] == task) & needed["run"].isin(runs)])
    columns = {"acc": (task, metric)}
    if law is not SINGLE_STEP:
        columns = {"loss": (source, protocol.metric)} | columns
    by_run = {str(run): rows for run, rows in needed.groupby("run", sort=False)}
    finals, curves = [], []
    for run in runs:
        found = points.checkpoints(by_run.get(run), run, columns)
        finals.append(points.final_point(found, run, protocol.final_window))
        if law is not SINGLE_STEP:
            kept = points.smoothed(found, protocol)
            curves.append(kept.assign(run=run, size=found["size"].iloc[-1]))
    final = pd.DataFrame(finals)
    curve = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame()
    measured = pd.DataFrame(
        [points.measured_target(by_run.get(goal.name), goal, columns) for goal in targets]
    )
    x, goals = (
        points.law_inputs(final, law, "--train"),
        points.law_inputs(measured, law, "--target"),
    )
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
