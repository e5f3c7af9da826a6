"""Analyses of the measurements themselves: formats of tasks, noise, and number of test items."""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments.task_ladders import figures
from experiments.task_ladders.config import CHANCE
from experiments.task_ladders.result import Result
from experiments.task_ladders.study import GRID, PublishedRuns
from fitting.errors import InputError
from fitting.laws.curves import predict as value_of
from fitting.observations import noise
from fitting.observations.preparation import MAIN_TASKS, PAPER


def multiple_choice(study: PublishedRuns) -> Result:
    """Accuracy in MC format (choices listed, a letter scored) and RC format, for runs with both."""
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
    """SD over the last ten checkpoints of 1.3B-10xC, and its correlation with forecast errors."""
    tasks = tuple(CHANCE)
    frame = noise.checkpoint_noise(study.table, GRID[-1], tasks, PAPER["bpb"])
    for forecast in study.forecasts("bpb", "paper", tasks):
        at = frame["task"] == forecast.task
        fit = study.link(forecast, "paper")
        for row, target in zip(forecast.rows, forecast.measured.to_dict("records"), strict=True):
            through = float(value_of(fit.curve, fit.theta, target["loss"]))
            errors = (row["pred_loss"] / target["loss"], through / target["acc"])
            errors = (*errors, row["pred"] / target["acc"])
            for step, ratio in zip(("step1", "step2", "chained"), errors, strict=True):
                frame.loc[at, f"{step}_{target['run']}"] = ratio - 1
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
