"""Forecasts runs from a measurement table.

For each task two steps are fitted and chained: N and D (or C) -> feature, and feature -> accuracy.
Alternatively one step gives the accuracy directly.  `fitting.forecast.parts` says which.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from fitting.errors import InputError
from fitting.forecast.distribution import interval, mixture, probabilities
from fitting.forecast.fitted import FittedModel, FittedTask, Prediction
from fitting.forecast.methods import METHODS
from fitting.forecast.parts import left_out, prepare
from fitting.forecast.spec import ForecastSpec
from fitting.laws import Law, Link
from fitting.laws.curves import predict
from fitting.observations import build, select
from fitting.observations.build import TaskData
from fitting.posterior.bayes import Posterior
from fitting.solve.fit import Fit

PREDICTION_COLUMNS = (
    "task", "target", "method", "level", "pred", "lo", "hi", "actual", "abs_error", "rel_error",
    "pred_loss", "loss_lo", "loss_hi", "actual_loss",
)  # fmt: skip
MEASURED_COLUMNS = ("actual", "abs_error", "rel_error", "actual_loss")  # empty until measured


@dataclass(frozen=True)
class TaskForecast:
    """Fits and forecasts of one task.

    Attributes:
        data: the task's part of the table; some of its fields are also properties here.
        step1: the law (a law of accuracy if there is a single step).
        step2: the link, or None.
        rows: predictions in the pinned columns, a row per (target, level).
        p: probabilities of `quantiles`, shape (Q,).
        quantiles: predictive quantiles of each target, by `loss` and `acc`, shape (G, Q).
        method: name of the method; bootstrap where all posteriors failed their checks.
        posteriors: by what lies between the steps (see `parts.Part`), shared by the tasks that were
            fitted together; empty for methods without one.
        left_out: sentences on ways that were not taken, as some runs lack a measurement.
    """

    data: TaskData
    step1: Fit[Law]
    step2: Fit[Link] | None
    rows: list[dict]
    p: np.ndarray
    quantiles: dict[str, np.ndarray]
    method: str
    posteriors: Mapping[str, Posterior] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """Its label."""
        return self.data.task

    @property
    def columns(self) -> dict[str, tuple[str, str]]:
        """See `TaskData`."""
        return self.data.columns

    @property
    def final(self) -> pd.DataFrame:
        """See `TaskData`."""
        return self.data.final

    @property
    def curve(self) -> pd.DataFrame:
        """See `TaskData`."""
        return self.data.curve

    @property
    def measured(self) -> pd.DataFrame:
        """See `TaskData`."""
        return self.data.measured

    @property
    def sound(self) -> bool:
        """Whether all posteriors passed their checks."""
        return not any(posterior.problems for posterior in self.posteriors.values())

    def accuracy(self, x: np.ndarray) -> np.ndarray:
        """Forecast accuracy at law inputs of shape (..., I)."""
        first = predict(self.step1.curve, self.step1.theta, x)
        return first if self.step2 is None else predict(self.step2.curve, self.step2.theta, first)


def forecast(measurements: pd.DataFrame, spec: ForecastSpec) -> list[TaskForecast]:
    """Fits the training runs and forecasts the targets.

    Args:
        measurements: in the schema of `fitting.table`.
        spec: runs, targets, tasks and method.

    Returns:
        One forecast a task, in the order of `spec.tasks`.

    Raises:
        InputError: something is missing; the message is one line.
    """
    parts = prepare(measurements, spec)
    made = [of_tasks(part.data, spec.method, spec.levels, part.feature) for part in parts]
    of_task: dict[str, list[TaskForecast]] = {t: [] for t in select.task_labels(spec.tasks)}
    for one in [one for part in made for one in part]:
        of_task[one.task].append(one)
    unused, mixed = left_out(measurements, spec), []
    for task, each in of_task.items():
        sound = [one for one in each if one.sound] or _resampled(measurements, spec, task)
        posteriors = {name: p for one in each for name, p in one.posteriors.items()}
        one = replace(_mixed(sound, spec.levels), posteriors=posteriors)
        mixed.append(replace(one, left_out=tuple(unused.get(task, ()))))
    return mixed


def _resampled(measurements: pd.DataFrame, spec: ForecastSpec, task: str) -> list[TaskForecast]:
    """The bootstrap's forecast of a task, in place of posteriors that failed.

    Raises:
        InputError: the bootstrap cannot make it either.
    """
    try:
        again = replace(spec, method="bootstrap", tasks=[task], new_items=False)
        return forecast(measurements, again)
    except InputError as e:
        raise InputError(
            f"no posterior of {task!r} was found, and the bootstrap cannot take its place ({e}): "
            "add runs to `train`"
        ) from None


def of_tasks(
    data: Sequence[TaskData],
    method: str,
    levels: Sequence[float] = (0.95,),
    feature: str = "bpb",
) -> list[TaskForecast]:
    """Fits and forecasts tasks that were prepared for one feature, with targets.

    Args:
        data: data of the tasks, which share runs, law and targets.
        method: a name in `METHODS`.
        levels: of the predictive intervals.
        feature: its name, for `TaskForecast.posteriors`.

    Raises:
        InputError: the method cannot fit the law, there are too few runs, or a forecast is not
            finite.
    """
    model = METHODS[method].fit([task.observations for task in data])
    return of_model(model, data, method, levels, feature)


def of_model(
    model: FittedModel,
    data: Sequence[TaskData],
    method: str,
    levels: Sequence[float] = (0.95,),
    feature: str = "bpb",
) -> list[TaskForecast]:
    """Forecasts the targets of tasks from a model that was fitted to these tasks.

    Args:
        model: fitted to the tasks' observations.
        data: data of the tasks, with targets; see `build.with_targets`.
        method: name of the method, for the predictions.
        levels: of the predictive intervals.
        feature: its name, for `TaskForecast.posteriors`.

    Raises:
        InputError: a forecast is not finite.
    """
    p = probabilities(levels)
    predictions = model.predict([task.targets for task in data], p)
    made = []
    for task, fitted, prediction in zip(data, model.tasks, predictions, strict=True):
        one = _forecast_of(task, fitted, prediction, p, method)
        if model.posterior is not None:
            if not all(np.isfinite(q).all() for q in one.quantiles.values()):
                raise InputError(f"`method` {method} finds no finite forecast of {task.task!r}")
            one = replace(one, posteriors={feature: model.posterior})
        made.append(with_measured(with_levels(one, levels)))
    return made


def to_frame(forecasts: Sequence[TaskForecast]) -> pd.DataFrame:
    """All predictions as one table in the pinned columns."""
    rows = [row for f in forecasts for row in f.rows]
    return pd.DataFrame(rows, columns=list(PREDICTION_COLUMNS))


def with_levels(forecast: TaskForecast, levels: Sequence[float]) -> TaskForecast:
    """Replaces the rows by one per (target, level); `with_measured` fills the measured columns."""
    rows = [
        _row(forecast, g, target, level)
        for g, target in enumerate(forecast.measured["run"])
        for level in levels
    ]
    return replace(forecast, rows=rows)


def compare(forecast: TaskForecast, measurements: pd.DataFrame) -> TaskForecast:
    """Fills in the measured values of the targets from another table."""
    data = build.measured_in(forecast.data, measurements)
    return with_measured(replace(forecast, data=data))


def with_measured(forecast: TaskForecast) -> TaskForecast:
    """Fills the measured values of the targets into every row of a forecast."""
    known = {target["run"]: target for target in forecast.measured.to_dict("records")}
    rows = []
    for row in forecast.rows:
        actual, loss = known[row["target"]]["acc"], known[row["target"]]["loss"]
        loss = loss if "loss" in forecast.columns else math.nan
        rows.append(row | measured_cells(row["pred"], actual, loss))
    return replace(forecast, rows=rows)


def measured_cells(pred: float, actual: float, loss: float) -> dict[str, float]:
    """The measured columns of one prediction."""
    error = abs(pred - actual)
    relative = error / actual if actual != 0 else math.nan
    return dict(zip(MEASURED_COLUMNS, (actual, error, relative, loss), strict=True))


def _mixed(forecasts: Sequence[TaskForecast], levels: Sequence[float]) -> TaskForecast:
    """Mixes forecasts of one task's accuracy along different ways, with equal weights.

    Losses, observations and curves are those of the first.  It is not known beforehand which way
    a target will follow; where the forecasts differ, their mixture is wide.
    """
    first = forecasts[0]
    if len(forecasts) == 1:
        return first
    each = [forecast.quantiles["acc"] for forecast in forecasts]
    quantiles = {**first.quantiles, "acc": mixture(first.p, each, [1.0] * len(each))}
    return with_measured(with_levels(replace(first, quantiles=quantiles), levels))


def _forecast_of(
    data: TaskData, fitted: FittedTask, prediction: Prediction, p: np.ndarray, method: str
) -> TaskForecast:
    sides = {"loss": prediction.loss, "acc": prediction.accuracy}
    quantiles = {name: values for name, values in sides.items() if values is not None}
    return TaskForecast(data, fitted.step1, fitted.step2, [], p, quantiles, method)


def _row(forecast: TaskForecast, g: int, target: str, level: float) -> dict:
    """One prediction in the pinned columns; unknown cells stay empty."""

    def middle_and_ends(name: str) -> tuple[float, float, float]:
        if name not in forecast.quantiles:
            return math.nan, math.nan, math.nan
        quantiles = forecast.quantiles[name][g]
        middle = float(np.interp(0.5, forecast.p, quantiles))
        return middle, *interval(forecast.p, quantiles, level)

    loss, loss_lo, loss_hi = middle_and_ends("loss")
    pred, lo, hi = middle_and_ends("acc")
    known = {
        "task": forecast.task, "target": target, "method": forecast.method, "level": level,
        "pred": pred, "lo": np.maximum(lo, 0.0), "hi": np.minimum(hi, 1.0),
        "pred_loss": loss, "loss_lo": loss_lo, "loss_hi": loss_hi,
    }  # fmt: skip
    return {column: known.get(column, math.nan) for column in PREDICTION_COLUMNS}
