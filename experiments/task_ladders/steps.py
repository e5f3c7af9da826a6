"""Forecasts of 7B-4T and 13B-5T: each step alone, both steps, compute alone, a single step."""

from __future__ import annotations

import pandas as pd

from experiments.task_ladders.result import Result, mean_errors
from experiments.task_ladders.study import VARIANT_WORDS, PublishedRuns
from fitting.forecast import diagnose, predict
from fitting.laws.curves import predict as value_of
from fitting.report import plots


def step1(study: PublishedRuns) -> Result:
    """Step 1: bits per byte, C4 loss, task CE and accuracy itself, each from N and D."""
    rows, drawn = [], {}
    for feature in ("bpb", "c4", "task_ce", "accuracy"):
        side = "acc" if feature == "accuracy" else "loss"
        for method in study.methods:
            forecasts = study.forecasts(feature, method)
            if feature == "c4":
                forecasts = forecasts[:1]  # one loss for all tasks
            for forecast in forecasts:
                points = forecast.data.observations
                known = dict(zip(forecast.step1.curve.names, forecast.step1.theta, strict=True))
                about = {
                    "fit_error": diagnose.fit_error(forecast.step1, points.x, points.y),
                    "objective": forecast.step1.objective,
                    "on_bound": " ".join(forecast.step1.on_bound),
                    "condition": forecast.step1.condition,
                }
                for row in forecast.rows:
                    pred, actual = (
                        (row["pred"], row["actual"])
                        if side == "acc"
                        else (row["pred_loss"], row["actual_loss"])
                    )
                    task = "c4_en_val" if feature == "c4" else row["task"]
                    rows.append(
                        {"feature": feature, "method": method, "task": task}
                        | {"target": row["target"], "pred": pred, "actual": actual}
                        | {"rel_error": pred / actual - 1}
                        | about
                        | known
                    )
        last = study.forecasts(feature, study.methods[-1])
        draw = plots.plot_chained if side == "acc" else plots.plot_step1
        some = last[:1] if feature == "c4" else last
        title = f"Step 1: {VARIANT_WORDS[feature]} from N and D ({study.methods[-1]})"
        drawn[f"step1_{feature}"] = plots.figure(some, draw, title)
    frame = pd.DataFrame(rows)
    return Result({"step1": frame}, drawn, mean_errors(frame, "rel_error", ["feature", "method"]))


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
