"""Forecasts of 7B-4T and 13B-5T: each step alone, both steps, compute alone, a single step."""

from __future__ import annotations

from typing import Any

import pandas as pd

from experiments.task_ladders.result import Result, mean_errors
from experiments.task_ladders.study import VARIANT_WORDS, PublishedRuns
from fitting.forecast import diagnose, predict
from fitting.forecast.predict import TaskForecast
from fitting.laws.curves import predict as value_of
from fitting.report import plots


def step1(study: PublishedRuns) -> Result:
    """Step 1: bits per byte, C4 loss, task CE and accuracy itself, each from N and D."""
    rows, drawn = [], {}
    for feature in ("bpb", "c4", "task_ce", "accuracy"):
        n_fits = 1 if feature == "c4" else None  # C4 has one loss for all tasks
        for method in study.methods:
            for forecast in study.forecasts(feature, method)[:n_fits]:
                rows += _step1_rows(forecast, feature, method)
        some = study.forecasts(feature, study.methods[-1])[:n_fits]
        draw = plots.plot_chained if feature == "accuracy" else plots.plot_step1
        title = f"Step 1: {VARIANT_WORDS[feature]} from N and D ({study.methods[-1]})"
        drawn[f"step1_{feature}"] = plots.figure(some, draw, title)
    frame = pd.DataFrame(rows)
    return Result({"step1": frame}, drawn, mean_errors(frame, "rel_error", ["feature", "method"]))


def _step1_rows(forecast: TaskForecast, feature: str, method: str) -> list[dict[str, Any]]:
    """One row per target: the forecast of step 1, its error, and facts about the fit."""
    fit, points = forecast.step1, forecast.data.observations
    about = {
        "fit_error": diagnose.fit_error(fit, points.x, points.y),
        "objective": fit.objective,
        "on_bound": " ".join(fit.on_bound),
        "condition": fit.condition,
    } | dict(zip(fit.curve.names, fit.theta, strict=True))
    suffix = "" if feature == "accuracy" else "_loss"
    rows = []
    for row in forecast.rows:
        pred, actual = row[f"pred{suffix}"], row[f"actual{suffix}"]
        rows.append(
            {"feature": feature, "method": method}
            | {"task": "c4_en_val" if feature == "c4" else row["task"]}
            | {"target": row["target"], "pred": pred, "actual": actual}
            | {"rel_error": pred / actual - 1}
            | about
        )
    return rows


def step2(study: PublishedRuns) -> Result:
    """Step 2: accuracy from the measured features of the targets."""
    rows, drawn = [], {}
    for feature in ("bpb", "c4", "task_ce"):
        for method in study.methods:
            for forecast in study.forecasts(feature, method):
                fit, points = study.link(forecast, method), forecast.data.observations
                about = {
                    "fit_error": diagnose.fit_error(fit, points.feature, points.accuracy),
                    "objective": fit.objective,
                    "on_bound": " ".join(fit.on_bound),
                    "condition": fit.condition,
                } | dict(zip(fit.curve.names, fit.theta, strict=True))
                for target in forecast.measured.to_dict("records"):
                    pred = float(value_of(fit.curve, fit.theta, target["loss"]))
                    rows.append(
                        {"feature": feature, "method": method, "task": forecast.task}
                        | {"target": target["run"], "pred": pred, "actual": target["acc"]}
                        | {"rel_error": pred / target["acc"] - 1}
                        | about
                    )
        title = f"Step 2: accuracy from {VARIANT_WORDS[feature]} ({study.methods[-1]})"
        last = study.forecasts(feature, study.methods[-1])
        drawn[f"step2_{feature}"] = plots.figure(last, plots.plot_step2, title)
    frame = pd.DataFrame(rows)
    return Result({"step2": frame}, drawn, mean_errors(frame, "rel_error", ["feature", "method"]))


def chained(study: PublishedRuns) -> Result:
    """Accuracy of 7B-4T and 13B-5T through both steps, with bits per byte, C4 loss and task CE."""
    return _forecast(study, "chained", ("bpb", "c4", "task_ce"))


def compute_only(study: PublishedRuns) -> Result:
    """Accuracy of the targets through both steps, with a law of compute alone in step 1."""
    result = _forecast(study, "compute_only", ("compute",))
    title = f"Step 1: bits per byte from FLOPs ({study.methods[-1]})"
    last = study.forecasts("compute", study.methods[-1])
    result.figures["compute_only_step1"] = plots.figure(last, plots.plot_step1, title)
    return result


def single_step(study: PublishedRuns) -> Result:
    """Accuracy of the targets in one step from N and D, by a law of seven parameters."""
    return _forecast(study, "single_step", ("single",))


def _forecast(study: PublishedRuns, name: str, variants: tuple[str, ...]) -> Result:
    frames, drawn, fitted = [], {}, []
    for variant in variants:
        for method in study.methods:
            forecasts = study.forecasts(variant, method)
            frames.append(predict.to_frame(forecasts).assign(variant=variant))
            fitted.append(diagnose.fits(forecasts).assign(variant=variant, method=method))
        stem = name if len(variants) == 1 else f"{name}_{variant}"
        title = f"Accuracy through {VARIANT_WORDS[variant]} ({study.methods[-1]})"
        drawn[stem] = plots.figure(forecasts, plots.plot_chained, title)
    frame = pd.concat(frames, ignore_index=True)
    lines = mean_errors(frame, "abs_error", ["variant", "method"])
    distances = [
        diagnose.distances(study.forecasts(variant, study.methods[-1])).assign(variant=variant)
        for variant in variants
    ]
    tables = {name: frame, f"{name}_fits": pd.concat(fitted)}
    tables[f"{name}_distances"] = pd.concat(distances)
    return Result(tables, drawn, lines)
