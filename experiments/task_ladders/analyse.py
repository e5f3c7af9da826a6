"""Every analysis of the paper: a function each, from `PublishedRuns` to a table and its figures.

Command:  python -m experiments.task_ladders [NAME ...]
Expected numbers and times: README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.task_ladders import figures
from experiments.task_ladders.config import CHANCE
from experiments.task_ladders.study import GRID, VARIANT_WORDS, VARIANTS, PublishedRuns
from fitting.errors import InputError
from fitting.forecast import diagnose, predict
from fitting.laws.curves import predict as value_of
from fitting.observations import noise
from fitting.observations.preparation import MAIN_TASKS, PAPER
from fitting.report import plots
from fitting.solve import subsets


@dataclass(frozen=True)
class Result:
    """What an analysis found.

    Attributes:
        tables: file stem -> table.
        figures: file stem -> figure.
        lines: what to print.
    """

    tables: dict[str, pd.DataFrame]
    figures: dict[str, Figure] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def step1(study: PublishedRuns) -> Result:
    """L(N, D) -> bits per byte, C4 loss and task CE, and accuracy straight from N and D."""
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
    return Result({"step1": frame}, drawn, _mean_errors(frame, "rel_error", ["feature", "method"]))


def step2(study: PublishedRuns) -> Result:
    """Feature -> accuracy, the targets' true features put in."""
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
                for goal in forecast.measured.to_dict("records"):
                    pred = float(value_of(fit.curve, fit.theta, goal["loss"]))
                    rows.append(
                        {"feature": feature, "method": method, "task": forecast.task}
                        | {"target": goal["run"], "pred": pred, "actual": goal["acc"]}
                        | {"rel_error": pred / goal["acc"] - 1}
                        | about
                    )
        title = f"Step 2: accuracy from {VARIANT_WORDS[feature]} ({study.methods[-1]})"
        last = study.forecasts(feature, study.methods[-1])
        drawn[f"step2_{feature}"] = plots.figure(last, plots.plot_step2, title)
    frame = pd.DataFrame(rows)
    return Result({"step2": frame}, drawn, _mean_errors(frame, "rel_error", ["feature", "method"]))


def chained(study: PublishedRuns) -> Result:
    """Accuracy of 7B-4T and 13B-5T through both steps, with bits per byte, C4 loss and task CE."""
    return _forecast(study, "chained", ("bpb", "c4", "task_ce"))


def compute_only(study: PublishedRuns) -> Result:
    """The same with a law of compute alone in place of N and D."""
    result = _forecast(study, "compute_only", ("compute",))
    title = f"Step 1: bits per byte from FLOPs ({study.methods[-1]})"
    last = study.forecasts("compute", study.methods[-1])
    result.figures["compute_only_step1"] = plots.figure(last, plots.plot_step1, title)
    return result


def single_step(study: PublishedRuns) -> Result:
    """Accuracy straight from N and D, seven parameters on sixteen runs."""
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
    lines = _mean_errors(frame, "abs_error", ["variant", "method"])
    reach = [
        diagnose.distances(study.forecasts(variant, study.methods[-1])).assign(variant=variant)
        for variant in variants
    ]
    tables = {name: frame, f"{name}_fits": pd.concat(fitted)}
    tables[f"{name}_distances"] = pd.concat(reach)
    return Result(tables, drawn, lines)


def multiple_choice(study: PublishedRuns) -> Result:
    """MC format (the choices listed, a letter scored) beside RC, for runs that have both."""
    table, rows = study.table[study.table["metric"].isin(["acc", "acc_per_char"])], []
    both_scored = table.loc[table["task"].str.contains("_mc_"), "run"].unique()
    for task in CHANCE:
        other = task.replace("_rc_", "_mc_")
        for run in both_scored:
            ours = table[table["run"] == run]
            sides = [ours[ours["task"] == t].set_index("n_tokens")["value"] for t in (task, other)]
            both = pd.concat(sides, axis=1, keys=["rc", "mc"]).dropna()
            rows.append(both.reset_index().assign(run=run, task=task))
    if not rows:
        raise InputError("no run has a task in MC format (`..._mc_5shot`): nothing to show")
    frame = pd.concat(rows, ignore_index=True)
    frame = frame[["task", "run", "n_tokens", "rc", "mc"]]
    last = frame.groupby(["run", "task"], sort=False).tail(5).groupby("run", sort=False)
    lines = [
        f"{run}: mean over {group['task'].nunique()} tasks: RC {100 * group['rc'].mean():.1f} %, "
        f"MC {100 * group['mc'].mean():.1f} %"
        for run, group in last
    ]
    lines.append("no ladder run was published in MC format: nothing can be fitted")
    return Result({"multiple_choice": frame}, {"multiple_choice": figures.formats(frame)}, lines)


def variance(study: PublishedRuns) -> Result:
    """SD over the last ten checkpoints of 1.3B-10xC, and whether it tells of forecast errors."""
    tasks = tuple(CHANCE)
    frame = noise.checkpoint_noise(study.table, GRID[-1], tasks, PAPER["bpb"])
    for forecast in study.forecasts("bpb", "paper", tasks):
        at = frame["task"] == forecast.task
        fit = study.link(forecast, "paper")
        for row, goal in zip(forecast.rows, forecast.measured.to_dict("records"), strict=True):
            through = float(value_of(fit.curve, fit.theta, goal["loss"]))
            errors = (row["pred_loss"] / goal["loss"], through / goal["acc"])
            errors = (*errors, row["pred"] / goal["acc"])
            for step, ratio in zip(("step1", "step2", "chained"), errors, strict=True):
                frame.loc[at, f"{step}_{goal['run']}"] = ratio - 1
    groups = {
        "the eight forecast": frame["task"].isin(MAIN_TASKS),
        "all ten": pd.Series(True, index=frame.index),
    }
    errors = [str(c) for c in frame if str(c).startswith(("step1_", "step2_", "chained_"))]
    found = noise.correlations(frame, ["loss_sd", "acc_sd"], errors, groups)
    lines = [
        f"r(loss SD, {row['error']} of paper) over {row['tasks']}: {row['r']:.2f} "
        f"(p = {row['p']:.3g})"
        for row in found.to_dict("records")
        if row["noise"] == "loss_sd" and row["error"] in ("step2_7B-4T", "chained_7B-4T")
    ]
    tables = {"variance": frame, "variance_correlations": found}
    return Result(tables, {"variance": figures.noise_against_error(frame, MAIN_TASKS)}, lines)


def set_size(study: PublishedRuns) -> Result:
    """The SD that each task's accuracy would have with fewer test items."""
    groups = [t for t in study.table["task"].unique() if t.startswith("mmlu_")]
    known = [t for t in groups if t.endswith("_test_rc_5shot") and "avg" not in t]
    frame = noise.checkpoint_noise(study.table, GRID[-1], [*CHANCE, *known], PAPER["bpb"])
    fewer = noise.with_fewer_items(frame, (100, 200, 500, 1000, 2000, 5000))
    parts = frame[~frame["task"].str.startswith("mmlu_avg")]  # MMLU by its four groups
    slope = np.polyfit(np.log(parts["n_examples"]), np.log(parts["acc_sd"]), 1)[0]
    share = parts["acc_sd"] / parts["binomial_sd"]
    lines = [
        f"over {len(parts)} tasks checkpoint SD falls as items to the power {slope:.2f} "
        "(independent items: -0.5)",
        f"checkpoint SD is {share.min():.2f} to {share.max():.2f} of the binomial SD of fresh "
        f"items, median {share.median():.2f}",
    ]
    tables = {"set_size": fewer, "set_size_measured": frame}
    return Result(tables, {"set_size": figures.set_size(frame, fewer)}, lines)


def compute_vs_error(study: PublishedRuns) -> Result:
    """Error at 7B-4T of ladders cut by size, by token multiple and by FLOPs of a run."""
    data = study.data("bpb")
    labels, chosen = cuts(data[0].final)
    goals = [d.measured[d.measured["run"] == "7B-4T"].iloc[0] for d in data]
    x = np.array([[[goal["n_params"], goal["n_tokens"]]] for goal in goals])
    loss = np.array([[goal["loss"]] for goal in goals])
    rows = []
    method = study.methods[-1]
    fits = subsets.fit([d.observations for d in data], chosen, method)
    found = subsets.forecast(fits, [d.observations for d in data], x, loss)
    assert fits.second_objective is not None
    for b, (vary, value) in enumerate(labels):
        for t, goal in enumerate(goals):
            rows.append(
                {
                    "vary": vary,
                    "value": value,
                    "n_runs": int(chosen[b].sum()),
                    "task": data[t].task,
                    "method": method,
                    "step1": abs(found.first[b, t, 0] / goal["loss"] - 1),
                    "step2": abs(found.through[b, t, 0] / goal["acc"] - 1),
                    "chained": abs(found.second[b, t, 0] / goal["acc"] - 1),
                    "pred": found.second[b, t, 0],
                    "pred_loss": found.first[b, t, 0],
                    "objective1": fits.first_objective[b, t],
                    "objective2": fits.second_objective[b, t],
                }
            )
    frame = pd.DataFrame(rows)
    by = frame.groupby(["vary", "value", "n_runs"], sort=False)["chained"].mean().reset_index()
    lines = [
        f"{method}, {row['vary']} up to {row['value']} ({row['n_runs']} runs): "
        f"mean chained error {100 * row['chained']:.1f} %"
        for row in by.to_dict("records")
        if row["vary"] != "flops"
    ]
    drawn = {"compute_vs_error": figures.compute_vs_error(frame, study.methods[-1])}
    return Result({"compute_vs_error": frame}, drawn, lines)


def cuts(final: pd.DataFrame) -> tuple[list[tuple[str, Any]], np.ndarray]:
    """Subsets of the runs: (what is cut, up to where), and booleans of shape (B, R)."""
    sizes = dict.fromkeys(final.sort_values("n_params")["size"])
    up_to = {size: final.loc[final["size"] == size, "n_params"].iloc[0] for size in sizes}
    cuts = [(("N", size), final["n_params"] <= n) for size, n in up_to.items()]
    for multiple in sorted(final["multiple"].unique()):
        cuts.append((("xC", f"{multiple:g}"), final["multiple"] <= multiple))
    nominal = final["multiple"] * final["n_params"] * final["flops"] / final["n_tokens"] * 20
    for flops in sorted(nominal):
        cuts.append((("flops", f"{flops:.4g}"), nominal <= flops))
    return [label for label, _ in cuts], np.array([mask.to_numpy() for _, mask in cuts])


SPLITS = {
    "190M and 370M -> 760M and 1.3B": {"190M", "370M"},
    "up to 760M -> 1.3B": {"190M", "370M", "760M"},
}


def design(study: PublishedRuns) -> Result:
    """Every design choice by its errors on held-out runs of the ladder; no target takes part."""
    rows = []
    for variant in VARIANTS:
        data = study.data(variant)
        final = data[0].final
        chosen = np.array([final["size"].isin(sizes) for sizes in SPLITS.values()])
        side = next(iter(data[0].columns))
        fits = subsets.fit([d.observations for d in data], chosen, "least-squares")
        x = np.array([d.observations.x for d in data])
        y = np.array([d.observations.y for d in data])
        found = subsets.forecast(fits, [d.observations for d in data], x, y)
        for b, split in enumerate(SPLITS):
            for t, d in enumerate(data):
                for g in np.flatnonzero(~chosen[b]):
                    pred = (found.first if side == "acc" else found.second)[b, t, g]
                    loss = np.nan if side == "acc" else found.first[b, t, g] / y[t, g] - 1
                    rows.append(
                        {"split": split, "choice": VARIANT_WORDS[variant], "task": d.task}
                        | {"run": d.final["run"].iloc[g], "loss_error": loss}
                        | {"error": pred - d.final["acc"].iloc[g]}
                    )
    frame = pd.DataFrame(rows)
    sizes = frame.assign(error=frame["error"].abs(), loss_error=frame["loss_error"].abs())
    by = sizes.groupby(["split", "choice"], sort=False)[["error", "loss_error"]].mean()
    lines = [
        f"{row['split']}: {row['choice']}, least-squares: {100 * row['error']:.2f} points"
        + (f", loss {100 * row['loss_error']:.2f} %" if row["loss_error"] >= 0 else "")
        for row in by.reset_index().to_dict("records")
    ]
    return Result({"design": frame}, {"design": figures.design(frame)}, lines)


def _mean_errors(frame: pd.DataFrame, column: str, by: list[str]) -> list[str]:
    unit = " points" if column == "abs_error" else " %"
    lines = []
    for key, group in frame.groupby(by, sort=False):
        errors = [
            f"{target} {100 * rows[column].abs().mean():.2f}{unit}"
            for target, rows in group.groupby("target", sort=False)
        ]
        words = [VARIANT_WORDS.get(str(k), str(k)) for k in key]
        lines.append(f"{', '.join(words)}: mean error " + ", ".join(errors))
    return lines


ANALYSES: dict[str, Callable[[PublishedRuns], Result]] = {
    "step1": step1,
    "step2": step2,
    "chained": chained,
    "compute-only": compute_only,
    "single-step": single_step,
    "multiple-choice": multiple_choice,
    "variance": variance,
    "set-size": set_size,
    "compute-vs-error": compute_vs_error,
    "design": design,
}
