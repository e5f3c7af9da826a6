"""Figures of this experiment that `fitting.report` does not draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fitting.report.plots import task_title

_STEPS = {"step1": "tab:blue", "step2": "tab:orange", "chained": "black"}


def formats(frame: pd.DataFrame) -> Figure:
    """Accuracy in MC format against RC, one dot per evaluation."""
    fig = Figure(figsize=(5.2, 4.8), layout="constrained")
    ax = fig.subplots()
    for (run, task), group in frame.groupby(["run", "task"], sort=False):
        last = group.iloc[-1]
        colour = "tab:red" if run == "7B-4T" else "tab:orange"
        label = run if task == frame["task"].iloc[0] else None
        ax.scatter(
            group["rc"], group["mc"], s=14, alpha=0.6, lw=0, color=colour,
            label=label,
        )  # fmt: skip
        if run == frame["run"].iloc[-1]:
            where = (last["rc"], last["mc"])
            ax.annotate(
                task_title(str(task)), where, (4, 3), textcoords="offset points", fontsize=7
            )
    ax.axline((0.5, 0.5), slope=1, color="0.7", lw=1, zorder=0)
    ax.set(xlabel="accuracy, RC", ylabel="accuracy, MC", title="One test, two formats")
    _percent(ax)
    ax.legend(fontsize=8, frameon=False)
    return fig


def noise_against_error(frame: pd.DataFrame, forecast: Sequence[str]) -> Figure:
    """Checkpoint SD of the loss against errors of step 2 and of both steps, one dot per task."""
    fig = Figure(figsize=(9.2, 4.0), layout="constrained")
    for ax, step in zip(fig.subplots(1, 2), ("step2", "chained"), strict=True):
        for row in frame.to_dict("records"):
            inside = row["task"] in forecast
            where = (row["loss_sd"], abs(row[f"{step}_7B-4T"]))
            ax.scatter(*where, color="tab:blue" if inside else "tab:red", s=24)
            name = task_title(row["task"])
            ax.annotate(name, where, (4, 3), textcoords="offset points", fontsize=7)
        ax.set(
            xlabel="SD of the loss over ten checkpoints, bits per byte",
            ylabel=f"relative error of {step} at 7B-4T",
        )
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.grid(alpha=0.25)
    fig.suptitle("Red: tasks that the paper does not forecast", fontsize=10)
    return fig


def set_size(measured: pd.DataFrame, fewer: pd.DataFrame) -> Figure:
    """SD of accuracy against the number of test items: as measured, and with fewer items."""
    fig = Figure(figsize=(6.4, 4.4), layout="constrained")
    ax = fig.subplots()
    for row in measured.to_dict("records"):
        part = fewer[fewer["task"] == row["task"]]
        (line,) = ax.plot(part["n_examples"], 100 * part["checkpoint_sd"], lw=1, alpha=0.5)
        where = (row["n_examples"], 100 * row["acc_sd"])
        ax.scatter(*where, color=line.get_color(), s=24, zorder=3)
        name = task_title(row["task"])
        ax.annotate(name, where, (4, 3), textcoords="offset points", fontsize=7)
    n = np.geomspace(100, measured["n_examples"].max(), 50)
    ax.plot(n, 100 * 0.5 / np.sqrt(n), "k--", lw=1, label="fresh items at 50 % (binomial)")
    ax.set(xscale="log", yscale="log", xlabel="test items", ylabel="SD of accuracy, points",
           title="From checkpoint to checkpoint, 1.3B-10xC")  # fmt: skip
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8, frameon=False)
    return fig


def compute_vs_error(frame: pd.DataFrame, method: str) -> Figure:
    """Mean error at 7B-4T of ladders cut three ways; faint lines are tasks, chained."""
    fig = Figure(figsize=(11.0, 3.8), layout="constrained")
    titles = {"N": "sizes up to", "xC": "multiples up to", "flops": "FLOPs a run up to"}
    for ax, (vary, title) in zip(fig.subplots(1, 3, sharey=True), titles.items(), strict=True):
        part = frame[(frame["vary"] == vary) & (frame["method"] == method)]
        names = list(part["value"].unique())
        at = [float(name) for name in names] if vary == "flops" else range(len(names))
        for _, task in part.groupby("task", sort=False):
            ax.plot(at, task["chained"], color="0.8", lw=0.8)
        for step, colour in _STEPS.items():
            mean = part.groupby("value", sort=False)[step].mean()
            ax.plot(at, mean, "o-", color=colour, ms=4, label=step)
        too_few = part.groupby("value", sort=False)["n_runs"].first() <= 5
        for where, few in zip(at, too_few, strict=True):
            if few:
                ax.axvline(where, color="tab:red", lw=0.6, ls=":", zorder=0)
        if vary == "flops":
            ax.set_xscale("log")
        else:
            ax.set_xticks(list(at), names)
        ax.set(xlabel=title, ylim=(0, 1))
        ax.grid(alpha=0.25)
    fig.axes[0].set_ylabel("relative error at 7B-4T")
    fig.axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    fig.axes[0].legend(fontsize=8, frameon=False)
    fig.suptitle(f"Cut ladders ({method}); dotted: no more runs than parameters", fontsize=10)
    return fig


def design(frame: pd.DataFrame) -> Figure:
    """Mean error of every choice on held-out runs; each dot is a task."""
    splits, choices = list(frame["split"].unique()), list(frame["choice"].unique())
    fig = Figure(figsize=(9.2, 3.6), layout="constrained")
    for ax, split in zip(fig.subplots(1, len(splits), sharey=True), splits, strict=True):
        part = frame[frame["split"] == split]
        part = part.assign(error=100 * part["error"].abs())
        by_task = part.groupby(["choice", "task"], sort=False)["error"].mean()
        for i, choice in enumerate(choices):
            errors = by_task[choice]
            ax.barh(i, errors.mean(), color="tab:blue", alpha=0.5)
            ax.scatter(errors, [i] * len(errors), s=10, color="black", alpha=0.6)
        ax.set_yticks(range(len(choices)), choices)
        ax.set(xlabel="mean error of accuracy, points", title=split)
        ax.grid(axis="x", alpha=0.25)
    fig.axes[0].invert_yaxis()
    return fig


def _percent(ax: Axes) -> None:
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.grid(alpha=0.25)
