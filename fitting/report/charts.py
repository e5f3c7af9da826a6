"""Figures of forecasts as distributions, of backtests, and of candidate runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from fitting.evaluation.backtest import LEVELS
from fitting.evaluation.summary import KINDS
from fitting.forecast import distribution
from fitting.forecast.predict import TaskForecast
from fitting.report import plots
from fitting.report.plots import task_title


def plot_distribution(ax: Axes, forecast: TaskForecast) -> Axes:
    """The predictive density of each target's accuracy on a task, and the measured values."""
    quantiles = forecast.quantiles["acc"]
    for g, (target, values) in enumerate(zip(forecast.measured["run"], quantiles, strict=True)):
        at, density = distribution.density(forecast.p, np.clip(values, 0.0, 1.0))
        colour = f"C{g}"
        ax.fill_between(at, density, color=colour, alpha=0.25, lw=0)
        ax.plot(at, density, color=colour, lw=1.2, label=f"{target}, forecast")
        low, high = distribution.interval(forecast.p, values, 0.95)
        ax.plot([max(low, 0), min(high, 1)], [-0.04 * (g + 1)] * 2, color=colour, lw=3,
                transform=ax.get_xaxis_transform(), clip_on=False)  # fmt: skip
        actual = forecast.measured["acc"].iloc[g]
        if np.isfinite(actual):
            ax.axvline(actual, color=colour, ls="--", lw=1.4, label=f"{target}, measured")
    ax.set(title=task_title(forecast.task), yticks=[])
    ax.tick_params(axis="x", pad=4 + 6 * len(quantiles))
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for side in ("left", "top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def of_forecasts(
    forecasts: Sequence[TaskForecast], controls: Sequence[TaskForecast] = ()
) -> dict[str, Figure]:
    """All figures of forecasts by file stem: `plots.figures`, and distributions of accuracies."""
    drawn = plots.figures(forecasts, controls)
    if any("acc" in forecast.quantiles for forecast in forecasts):
        drawn["distributions"] = distributions(forecasts)
    return drawn


def distributions(forecasts: Sequence[TaskForecast]) -> Figure:
    """Predictive densities, one panel per task; the bar under a density is the 95 % interval."""
    some = [f for f in forecasts if "acc" in f.quantiles]
    n_columns = min(4, len(some))
    n_rows = -(-len(some) // n_columns)
    width, height = max(3.0 * n_columns, 6.0), 2.3 * n_rows + 1.0
    fig = Figure(figsize=(width, height))
    axes = fig.subplots(n_rows, n_columns, squeeze=False)
    for ax in axes.flat[len(some) :]:
        ax.set_visible(False)
    for ax, forecast in zip(axes.flat, some, strict=False):
        plot_distribution(ax, forecast)
        ax.title.set(fontsize=10, fontweight="bold")
        ax.tick_params(labelsize=8)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="lower center", ncols=4, fontsize=8, frameon=False)
    fig.subplots_adjust(
        left=0.3 / width, right=1 - 0.3 / width, top=1 - 0.35 / height, bottom=0.85 / height,
        hspace=0.75, wspace=0.15,
    )  # fmt: skip
    return fig


def plot_errors(ax: Axes, rows: pd.DataFrame) -> Axes:
    """Mean error and CRPS of each method, as bars; `rows` are of one ladder or split."""
    at = np.arange(len(rows))
    for i, (column, words) in enumerate((("mae", "mean error"), ("crps", "CRPS"))):
        ax.barh(at + 0.4 * i - 0.2, rows[column], 0.38, color=("0.35", "0.7")[i], label=words)
    ax.set_yticks(at, list(rows["method"]))
    ax.invert_yaxis()
    most = rows[["mae", "crps"]].max().max()
    ax.set_xlim(0, 1.4 * most if most > 0 else 1.0)  # room for the legend
    return ax


def plot_coverage(ax: Axes, rows: pd.DataFrame, colours: Mapping[str, str]) -> Axes:
    """Share of measured values inside intervals against mean width, one line per method.

    Args:
        ax: where to draw.
        rows: of one ladder or split, a row per method.
        colours: method -> colour, the same in all panels.
    """
    for row in rows.to_dict("records"):
        widths = [row[f"width_{level:g}"] for level in LEVELS]
        covers = [row[f"cover_{level:g}"] for level in LEVELS]
        ax.plot(widths, covers, "o-", color=colours[row["method"]], ms=5, lw=1.2,
                label=row["method"])  # fmt: skip
    for level in LEVELS:
        ax.axhline(level, color="0.6", lw=0.8, ls=":")
    ax.set(ylabel="measured values inside")
    ax.set_ylim(0, 1.04)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return ax


def backtest(summary: pd.DataFrame) -> Figure:
    """Errors of each method, and coverage against width; dotted lines are the nominal levels.

    Args:
        summary: of `fitting.evaluation.summary`; a row of panels for each of its ladders or
            splits.  Losses are drawn only if it has no accuracies.
    """
    by = "ladder" if "ladder" in summary else "split"
    kind = next(kind for kind in KINDS if (summary["kind"] == kind).any())
    drawn = summary[summary["kind"] == kind]
    groups = list(drawn[by].unique())
    fig = Figure(figsize=(10, 0.4 + 3.4 * len(groups)), layout="constrained")
    axes = fig.subplots(len(groups), 2, squeeze=False)
    colours = {method: f"C{i}" for i, method in enumerate(drawn["method"].unique())}
    for (left, right), name in zip(axes, groups, strict=True):
        plot_errors(left, drawn[drawn[by] == name])
        plot_coverage(right, drawn[drawn[by] == name], colours)
        left.set_title(f"Held-out runs, {name}")
        right.set_title("Coverage")
    unit = "points of accuracy" if kind == "acc" else "percent of the loss"
    axes[-1, 0].set(xlabel=f"{unit} (less is better)")
    axes[-1, 1].set(xlabel=f"mean width, {unit}")
    axes[0, 0].legend(fontsize=8, frameon=False, loc="center right")
    axes[0, 1].legend(fontsize=8, frameon=False)
    return fig


def plot_candidates(ax: Axes, advice: pd.DataFrame, chosen: Sequence[str]) -> Axes:
    """Shrinkage of the mean interval against FLOPs; filled: the best set within the budget.

    One line per size; its last run is labelled in full, the others by the end of their names.
    """
    for i, (_, group) in enumerate(advice.groupby("n_params")):
        rows = group.sort_values("flops")
        colour = f"C{i % 10}"
        ax.plot(rows["flops"], rows["shrinkage"], "-", color=colour, lw=1, alpha=0.5)
        for row in rows.to_dict("records"):
            at, marked = (row["flops"], row["shrinkage"]), row["run"] in chosen
            ax.plot(*at, "o", ms=7, color=colour, mfc=colour if marked else "white")
            last = row["run"] == rows["run"].iloc[-1]
            _, dash, rest = row["run"].rpartition("-")
            place = (6, 3) if last else (0, -12 if i % 2 else 6)  # sizes above and below in turn
            ax.annotate(row["run"] if last or not dash else rest, at, fontsize=7, color=colour,
                        xytext=place, textcoords="offset points",
                        ha="left" if last else "center",
                        fontweight="bold" if marked else "normal")  # fmt: skip
    ax.set_xscale("log")
    ax.margins(x=0.12)  # for the names at the right
    ax.xaxis.set_major_formatter(FuncFormatter(lambda c, _: f"{c:.0e}".replace("e+", "e")))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.set(xlabel="FLOPs of the run", ylabel="narrower mean interval of the targets",
           title="What each run would add (filled: the best set)")  # fmt: skip
    ax.grid(alpha=0.25)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def candidates(advice: pd.DataFrame, chosen: Sequence[str]) -> Figure:
    """Shrinkage against FLOPs of every candidate, with the best set, in one panel."""
    fig = Figure(figsize=(8, 4.6), layout="constrained")
    plot_candidates(fig.subplots(), advice, chosen)
    return fig
