"""From a measurement table to forecasts of runs that were not trained on.

Two steps are fitted for each task, N and D (or C) -> feature and feature -> accuracy, and chained;
or one step straight to accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from fitting.errors import InputError
from fitting.forecast import distribution
from fitting.forecast.methods import ENGINES, POOLING, Outcome
from fitting.laws import CHINCHILLA, COMPUTE_ONLY, SINGLE_STEP, Law, Link
from fitting.laws.curves import predict
from fitting.observations import select
from fitting.observations.build import TaskData, gather
from fitting.observations.build import compare as measured_again
from fitting.observations.select import MAIN_TASKS, PAPER, POOLED, TEXT_FEATURE, Target
from fitting.posterior.bayes import Posterior
from fitting.solve.fit import Fit

PREDICTION_COLUMNS = (
    "task", "target", "method", "level", "pred", "lo", "hi", "actual", "abs_error", "rel_error",
    "pred_loss", "loss_lo", "loss_hi", "actual_loss",
)  # fmt: skip
_FEWEST = 3  # runs of a method that pools; with so few its priors say most
MEASURED_COLUMNS = ("actual", "abs_error", "rel_error", "actual_loss")  # known afterwards
LAW_OF_INPUTS = {"nd": CHINCHILLA, "c": COMPUTE_ONLY}


@dataclass(frozen=True)
class TaskForecast:
    """Fits and forecasts of one task.

    Attributes:
        data: the points, and where they come from; its parts are properties of the forecast too.
        step1: the law (of accuracy itself when there is a single step).
        step2: the link, or None.
        rows: predictions in the pinned columns, a row a (target, level).
        p: probabilities of `quantiles`, shape (Q,).
        quantiles: of what will be measured of each target, by `loss` and `acc`, shape (G, Q).
        method: which made it, and whether it failed its checks.
        posteriors: of the methods that draw, by feature; all tasks share them.
    """

    data: TaskData
    step1: Fit[Law]
    step2: Fit[Link] | None
    rows: list[dict]
    p: np.ndarray
    quantiles: dict[str, np.ndarray]
    method: str
    posteriors: Mapping[str, Posterior] = field(default_factory=dict)

    @property
    def task(self) -> str:
        return self.data.task

    @property
    def columns(self) -> dict[str, tuple[str, str]]:
        return self.data.columns

    @property
    def final(self) -> pd.DataFrame:
        return self.data.final

    @property
    def curve(self) -> pd.DataFrame:
        return self.data.curve

    @property
    def measured(self) -> pd.DataFrame:
        return self.data.measured

    def accuracy(self, x: np.ndarray) -> np.ndarray:
        """Forecast accuracy at law inputs of shape (..., I)."""
        first = predict(self.step1.curve, self.step1.theta, x)
        return first if self.step2 is None else predict(self.step2.curve, self.step2.theta, first)


def forecast(
    table: pd.DataFrame,
    train: Sequence[str],
    targets: Sequence[str | Target],
    tasks: Sequence[str] = ("main",),
    method: str = "bayes",
    feature: str | None = None,
    inputs: str = "nd",
    steps: str = "two",
    levels: Sequence[float] = (0.95,),
    law: Law | None = None,
    chance: Mapping[str, float] | None = None,
    new_items: bool = False,
) -> list[TaskForecast]:
    """Fits the training runs and forecasts the targets.

    Args:
        table: measurements, in the schema of `fitting.table`.
        train: shell patterns of run names.
        targets: run names of the table, `NAME=N_PARAMS,N_TOKENS[,FLOPS]` for a run that is not in
            it, or `Target`s.
        tasks: labels; `main` stands for the paper's eight.
        method: of `fitting.engines.ENGINES`.
        feature: `bpb` (default), `lm_loss` (C4) or `task_ce`; a single step has none.  The pooling
            methods, given none, mix bpb with C4 loss where every run has it.
        inputs: `nd` for N and D, `c` for FLOPs.
        steps: `two`, or `one` for the single-step law.
        levels: of the predictive intervals.
        law: another than `inputs` and `steps` name.
        chance: accuracies of guessing, by task, where labels do not tell.
        new_items: forecast accuracies on test items drawn afresh (pooling methods alone).

    Raises:
        InputError: one line on what is missing or contradictory.
    """
    if method not in ENGINES:
        raise InputError(f"--method {method}: not known; use {', '.join(ENGINES)}")
    if feature is not None and feature not in PAPER:
        raise InputError(f"--feature {feature}: the paper fits none; use {', '.join(PAPER)}")
    if steps == "one" and (inputs != "nd" or feature is not None):
        raise InputError("--steps one goes from N and D to accuracy: no --inputs c, no --feature")
    for level in levels:
        if not 0 < level < 1:
            raise InputError(f"--level {level}: must lie between 0 and 1")
    law = law or (SINGLE_STEP if steps == "one" else LAW_OF_INPUTS[inputs])
    runs = select.select_runs(table, train)
    asked = dict.fromkeys(targets)
    goals = [t if isinstance(t, Target) else select.parse_target(table, t) for t in asked]
    for goal in goals:
        if goal.name in runs:
            raise InputError(f"--target {goal.name} is also in --train: leave it out of one")
    if not tasks:
        raise InputError("--tasks names none: give labels, or main")
    labels = [t for label in tasks for t in (MAIN_TASKS if label == "main" else (label,))]
    if new_items and method not in POOLING:
        raise InputError(f"--new-items needs --method {' or '.join(POOLING)}")
    known, labels = chance or {}, list(dict.fromkeys(labels))
    features = [feature or "bpb"]
    if feature is None and method in POOLING:
        features = _measured_features(table, runs)
    protocols = POOLED if method in POOLING else PAPER
    parts = []
    for each in features:
        try:
            tasks_data = [
                gather(table, task, runs, goals, protocols[each], law, known.get(task), new_items)
                for task in labels
            ]
        except InputError as e:
            raise InputError(f"{e}{' (or --feature bpb)' if parts else ''}") from None
        parts.append(of_data(tasks_data, method, levels, each))
    return parts[0] if len(parts) == 1 else _pooled(parts, levels)


def _measured_features(table: pd.DataFrame, runs: Sequence[str]) -> list[str]:
    """Bits per byte, and beside it the loss of a text if every run has it."""
    text = POOLED[TEXT_FEATURE]
    rows = table[(table["task"] == text.task) & (table["metric"] == text.metric)]
    return ["bpb", TEXT_FEATURE] if set(runs) <= set(rows["run"]) else ["bpb"]


def _pooled(parts: Sequence[list[TaskForecast]], levels: Sequence[float]) -> list[TaskForecast]:
    """An even mixture of forecasts of accuracy through different features.

    Losses, points and curves are those of the first feature.  Which feature a target will follow is
    not known beforehand; a mixture says so where they disagree.
    """
    pooled = []
    for same in zip(*parts, strict=True):
        first = same[0]
        quantiles = dict(first.quantiles)
        if "acc" in quantiles:
            each = [forecast.quantiles["acc"] for forecast in same]
            quantiles["acc"] = distribution.mixture(first.p, each, [1.0] * len(each))
        posteriors = {name: p for forecast in same for name, p in forecast.posteriors.items()}
        method = max((forecast.method for forecast in same), key=len)  # the longer one complains
        made = replace(first, quantiles=quantiles, posteriors=posteriors, method=method)
        pooled.append(compared(with_levels(made, levels)))
    return pooled


def of_data(
    tasks_data: Sequence[TaskData],
    method: str,
    levels: Sequence[float] = (0.95,),
    feature: str = "bpb",
) -> list[TaskForecast]:
    """Fits and forecasts what was gathered for one feature; see `forecast`."""
    runs, law = tasks_data[0].final, tasks_data[0].points.law
    if method in POOLING:
        if len(runs) < _FEWEST:
            raise InputError(f"{len(runs)} runs: --train needs at least {_FEWEST} of them")
    elif len(runs) <= len(law.params):
        raise InputError(
            f"{len(runs)} runs cannot fit the {len(law.params)} parameters of {law.name} and say "
            f"how well: --train needs at least {len(law.params) + 1}, or --method bayes"
        )
    p = distribution.probabilities(levels)
    outcomes = ENGINES[method]([data.points for data in tasks_data], p)
    for data, outcome in zip(tasks_data, outcomes, strict=True):
        drawn = [q for q in (outcome.first, outcome.second) if q is not None]
        if outcome.posterior is not None and not all(np.isfinite(q).all() for q in drawn):
            raise InputError(f"--method {method} finds no finite forecast of {data.task!r}")
    made = [
        _forecast_of(data, outcome, method, feature, p)
        for data, outcome in zip(tasks_data, outcomes, strict=True)
    ]
    return [compared(with_levels(forecast, levels)) for forecast in made]


def to_frame(forecasts: Sequence[TaskForecast]) -> pd.DataFrame:
    """All predictions in the pinned schema."""
    rows = [row for f in forecasts for row in f.rows]
    return pd.DataFrame(rows, columns=list(PREDICTION_COLUMNS))


def _forecast_of(
    data: TaskData, outcome: Outcome, method: str, feature: str, p: np.ndarray
) -> TaskForecast:
    given = [outcome.first] if outcome.second is None else [outcome.first, outcome.second]
    quantiles = dict(zip(data.columns, given, strict=True))
    if outcome.posterior is None:
        return TaskForecast(data, outcome.step1, outcome.step2, [], p, quantiles, method)
    said = f"{method} (not converged)" if outcome.posterior.problems else method
    return TaskForecast(
        data, outcome.step1, outcome.step2, [], p, quantiles, said, {feature: outcome.posterior}
    )


def with_levels(forecast: TaskForecast, levels: Sequence[float]) -> TaskForecast:
    """The same forecast with a row a (target, level), which `compared` completes."""
    rows = [
        _row(forecast, g, target, level)
        for g, target in enumerate(forecast.measured["run"])
        for level in levels
    ]
    return replace(forecast, rows=rows)


def compare(forecast: TaskForecast, table: pd.DataFrame) -> TaskForecast:
    """The same forecast beside what the table says of its targets, where it says anything."""
    known = replace(forecast.data, measured=measured_again(forecast.data, table))
    return compared(replace(forecast, data=known))


def compared(forecast: TaskForecast) -> TaskForecast:
    """With what was measured of the targets in every row."""
    known = {goal["run"]: goal for goal in forecast.measured.to_dict("records")}
    compared = []
    for row in forecast.rows:
        actual, loss = known[row["target"]]["acc"], known[row["target"]]["loss"]
        loss = loss if "loss" in forecast.columns else math.nan
        compared.append(row | measured_cells(row["pred"], actual, loss))
    return replace(forecast, rows=compared)


def measured_cells(pred: float, actual: float, loss: float) -> dict[str, float]:
    """The measured columns of one prediction."""
    error = abs(pred - actual)
    relative = error / actual if actual != 0 else math.nan
    return dict(zip(MEASURED_COLUMNS, (actual, error, relative, loss), strict=True))


def _row(forecast: TaskForecast, goal: int, target: str, level: float) -> dict:
    """One prediction in the pinned columns; what is not known stays empty."""

    def said(name: str) -> tuple[float, float, float]:
        if name not in forecast.quantiles:
            return math.nan, math.nan, math.nan
        quantiles = forecast.quantiles[name][goal]
        middle = float(np.interp(0.5, forecast.p, quantiles))
        return middle, *distribution.interval(forecast.p, quantiles, level)

    loss, loss_lo, loss_hi = said("loss")
    pred, lo, hi = said("acc")
    known = {
        "task": forecast.task, "target": target, "method": forecast.method, "level": level,
        "pred": pred, "lo": np.maximum(lo, 0.0), "hi": np.minimum(hi, 1.0),
        "pred_loss": loss, "loss_lo": loss_lo, "loss_hi": loss_hi,
    }  # fmt: skip
    return {column: known.get(column, math.nan) for column in PREDICTION_COLUMNS}
