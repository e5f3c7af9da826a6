"""Warnings about forecasts: fits that are poorly determined, and targets far beyond the runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.stats

from fitting.forecast.cautions import CAUTIONS
from fitting.forecast.predict import TaskForecast
from fitting.laws.curves import predict
from fitting.posterior.hierarchy import Step1
from fitting.solve.fit import Fit

_UNINFORMED = 0.7  # warns if posterior SD / prior SD exceeds it
_WORDS = {
    "logit_floor": "the irreducible share of the loss",
    "logit_share": "how the rest of the loss divides between size and tokens",
    "log_exponent_n_params": "the exponent of size",
    "log_exponent_n_tokens": "the exponent of tokens",
    "log_exponent_flops": "the exponent of compute",
    "log_steepness": "the steepness of accuracy in loss",
}
_FAR_OUT = 0.5  # warns if (distance beyond the fitted features) / (their range) exceeds it


def fits(forecasts: Sequence[TaskForecast]) -> pd.DataFrame:
    """One row per (task, step): the curve, its fit error, and how well its parameters are known.

    `fit_error` is the mean relative error over the points; `parameters` and `on_bound` are text.
    """
    rows = []
    for forecast in forecasts:
        data = forecast.data.observations
        steps: list[tuple[Fit, np.ndarray, np.ndarray]] = [(forecast.step1, data.x, data.y)]
        if forecast.step2 is not None:
            steps.append((forecast.step2, data.feature, data.accuracy))
        for step, (fit, x, y) in enumerate(steps, start=1):
            known = zip(fit.curve.names, fit.theta, strict=True)
            rows.append(
                {
                    "task": forecast.task,
                    "step": step,
                    "curve": fit.curve.name,
                    "parameters": " ".join(f"{name}={value:.6g}" for name, value in known),
                    "objective": fit.objective,
                    "fit_error": fit_error(fit, x, y),
                    "n_points": fit.n_points,
                    "dof": fit.dof,
                    "on_bound": " ".join(fit.on_bound),
                    "condition": fit.condition,
                    "converged": fit.converged,
                }
            )
    return pd.DataFrame(rows)


def fit_error(fit: Fit, x: np.ndarray, y: np.ndarray) -> float:
    """Mean relative error of a curve over its positive points; x has the form for `predict`."""
    some = y > 0
    return float(np.mean(np.abs(predict(fit.curve, fit.theta, x[some]) / y[some] - 1)))


def distances(forecasts: Sequence[TaskForecast]) -> pd.DataFrame:
    """Computes how far each forecast extrapolates: one row per (task, target).

    `n_params`, `n_tokens` and `flops` are multiples of the largest fitted values; `feature` is the
    distance of the forecast feature below the lowest fitted one, over the fitted range.
    """
    rows = []
    for forecast in forecasts:
        final, curve = forecast.final, forecast.curve
        features = {row["target"]: row["pred_loss"] for row in forecast.rows}
        for target in forecast.measured.to_dict("records"):
            row = {"task": forecast.task, "target": target["run"]}
            for column in ("n_params", "n_tokens", "flops"):
                row[column] = target[column] / final[column].max()
            row["feature"] = math.nan
            if forecast.step2 is not None:
                low, high = curve["loss"].min(), curve["loss"].max()
                row["feature"] = max(0.0, (low - features[target["run"]]) / (high - low))
            rows.append(row)
    return pd.DataFrame(rows)


def warnings(forecasts: Sequence[TaskForecast]) -> dict[str, list[str]]:
    """Warnings about forecasts: text -> labels of the tasks that it applies to.

    Arguments of a forecast stand in backquotes, as in an `InputError`.
    """
    notes: dict[str, list[str]] = {}
    for forecast in forecasts:
        for text in (*forecast.left_out, *_of_posteriors(forecast)):
            notes.setdefault(text, []).append(forecast.task)
        for text in [t for caution in CAUTIONS for t in caution(forecast)]:
            notes.setdefault(text, []).append(forecast.task)
        for text in _from_priors(forecast):
            notes.setdefault(text, []).append(forecast.task)
        for name, fit in (("step 1", forecast.step1), ("step 2", forecast.step2)):
            if fit is None:
                continue
            found = [f"{name}: {parameter} ended on a bound" for parameter in fit.on_bound]
            if not fit.converged and not forecast.posteriors:
                found.append(f"{name}: the fit stopped before a stationary point")
            if fit.dof <= 2 and not forecast.posteriors:
                found.append(f"{name}: only {fit.dof} more points than parameters")
            if fit.explained < 0.5:
                use = "its interval rests on priors" if forecast.posteriors else "do not use"
                found.append(f"{name}: explains under half of the variance; {use}")
            for text in found:
                notes.setdefault(text, []).append(forecast.task)
        for run in forecast.measured.loc[forecast.measured["stale"], "run"]:
            text = f"{run} was not measured at the tokens forecast, so it is not compared"
            notes.setdefault(text, []).append(forecast.task)
        for run in forecast.measured.loc[forecast.measured["blurred"], "run"]:
            text = (
                f"the measured value of {run} is a mean of evaluations far apart in training: "
                "leave the early ones out of the table"
            )
            notes.setdefault(text, []).append(forecast.task)
    return notes | _reach(forecasts)


def _of_posteriors(forecast: TaskForecast) -> list[str]:
    """What was used in place of a posterior that failed its checks, and why."""
    found = []
    failed = {name: p for name, p in forecast.posteriors.items() if p.problems}
    for name, posterior in forecast.posteriors.items():
        for step, draws in posterior.steps.items():
            if draws.attempts and not draws.stats:
                why = "; ".join(draws.attempts)
                found.append(
                    f"{step} through {name}: Laplace's approximation is used, as chains failed "
                    f"their checks ({why})"
                )
        if name in failed:
            used = (
                f"the {forecast.method} is used"
                if len(failed) == len(forecast.posteriors)
                else "it is left out of the mixture"
            )
            found.append(f"{name}: no posterior was found ({failed[name].problems[0]}); {used}")
    return found


def _from_priors(forecast: TaskForecast) -> list[str]:
    """Warnings about quantities that a pooled forecast takes from its priors, not from the runs."""
    if not forecast.posteriors:
        return []
    found = []
    for column, words in (("n_params", "size"), ("n_tokens", "number of tokens")):
        if column in forecast.step1.curve.inputs and forecast.final[column].nunique() < 2:
            found.append(f"the runs have one {words}: its effect is the prior's, not measured")
    if forecast.data.chance is None and "acc" in forecast.columns:
        found.append("the accuracy of guessing is not known: give `chance` of the task")
    return found


def not_identified(forecasts: Sequence[TaskForecast]) -> list[str]:
    """Sentences on quantities whose posterior is about as wide as their prior."""
    found = []
    for feature, posterior in (forecasts[0].posteriors if forecasts else {}).items():
        models = {"step 1": Step1(posterior.inputs), "step 2": posterior.model2}
        for step, draws in posterior.steps.items():
            populations = models[step].populations
            spread = draws.flat()["mean"].std(axis=0)
            for population, sd in zip(populations, spread, strict=True):
                if sd > _UNINFORMED * population.wide and population.name in _WORDS:
                    found.append(
                        f"Through {feature}, {_WORDS[population.name]} is not identified: its "
                        f"posterior is {sd / population.wide:.0%} as wide as its prior."
                    )
    return found


def _reach(forecasts: Sequence[TaskForecast]) -> dict[str, list[str]]:
    notes: dict[str, list[str]] = {}
    for row in distances(forecasts).to_dict("records"):
        units = {"n_params": "parameters", "n_tokens": "tokens", "flops": "FLOPs"}
        far = [f"{row[c]:.3g}x the {words}" for c, words in units.items() if row[c] > 1]
        if far:
            text = f"{row['target']} has {', '.join(far)} of any run fitted"
            notes.setdefault(text, []).append(row["task"])
        if row["feature"] > _FAR_OUT:
            text = f"{row['target']}: step 2 is extrapolated by {row['feature']:.0%} of its range"
            notes.setdefault(text, []).append(row["task"])
    return notes


def is_control(forecast: TaskForecast) -> bool:
    """Whether the training runs' accuracies differ no more than by chance: nothing to forecast.

    Their range is compared with the 95 % quantile of the studentized range (Tukey): the range
    of as many equally good models, each on test items of its own.
    """
    if "acc" not in forecast.columns or len(forecast.final) < 2:
        return False
    accuracy, n = forecast.final["acc"], forecast.final["n_examples"].min()
    error = math.sqrt(accuracy.mean() * (1 - accuracy.mean()) / n)
    spread = scipy.stats.studentized_range.ppf(0.95, len(accuracy), math.inf)
    return bool(accuracy.max() - accuracy.min() < spread * error)
