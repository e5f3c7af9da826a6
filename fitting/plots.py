"""Figures in the paper's style.  Each `plot_*` draws one panel on `ax`, returns it, does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from fitting.optimise import predict
from fitting.predict import TaskForecast

_MARKERS = ("s", "P", "p", "*", "D", "^", "v", "h")
_FEATURES = {"bpb": "task loss (bits per byte)", "lm_loss": "C4 loss (nats)", "task_ce": "task CE"}
_WORDS = {
    "mmlu": "MMLU", "arc": "ARC", "piqa": "PIQA", "csqa": "CSQA", "socialiqa": "Social IQa",
    "openbookqa": "OpenBookQA", "hellaswag": "HellaSwag", "boolq": "BoolQ",
    "winogrande": "WinoGrande",
}  # fmt: skip


def task_title(task: str) -> str:
    """A label as people write it: `arc_easy_test_rc_5shot` -> `ARC easy`."""
    parts = task.split("_rc_")[0].split("_mc_")[0].split("_")
    words = [_WORDS.get(p, p) for p in parts if p not in ("test", "val", "avg")]
    return " ".join(words)


def plot_step1(ax: Axes, forecast: TaskForecast) -> Axes:
    """Feature against tokens: a curve a size, the runs, and the targets measured and forecast."""
    return _against_tokens(ax, forecast, "loss", _feature(forecast))


def plot_chained(ax: Axes, forecast: TaskForecast) -> Axes:
    """Accuracy against tokens through both steps, with the targets' predictive intervals."""
    return _against_tokens(ax, forecast, "acc", "accuracy")


def plot_step2(ax: Axes, forecast: TaskForecast) -> Axes:
    """Accuracy against feature: every checkpoint, the link, and the targets as measured."""
    if forecast.step2 is None:
        raise ValueError("a single-step forecast has no second step")
    colours = _colours(forecast)
    for size, points in forecast.curve.groupby("size", sort=False):
        ax.scatter(points["loss"], points["acc"], s=5, lw=0, alpha=0.6, color=colours[str(size)])
    measured = forecast.measured.dropna(subset=["loss", "acc"])
    losses = np.concatenate([forecast.curve["loss"], measured["loss"]])
    span = losses.max() - losses.min()
    xs = np.linspace(losses.min() - 0.1 * span, losses.max(), 200)
    ax.plot(xs, predict(forecast.step2.curve, forecast.step2.theta, xs), "k-", lw=1, alpha=0.7)
    for row in measured.to_dict("records"):
        ax.scatter(row["loss"], row["acc"], marker="o", s=28, color=colours[row["run"]])
    ax.set(xlabel=_feature(forecast), ylabel="accuracy", title=task_title(forecast.task))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return ax


def figures(forecasts: Sequence[TaskForecast]) -> dict[str, Figure]:
    """Step 1, step 2 and chained by file stem; chained alone where there is a single step."""
    words = {"n_params": "parameters", "n_tokens": "tokens", "flops": "FLOPs"}
    inputs = " and ".join(words[name] for name in forecasts[0].step1.curve.inputs)
    drawn = {}
    if forecasts[0].step2 is not None:
        drawn["step1"] = figure(forecasts, plot_step1, f"Step 1: loss from {inputs}")
        drawn["step2"] = figure(forecasts, plot_step2, "Step 2: accuracy from loss")
    drawn["chained"] = figure(forecasts, plot_chained, f"Accuracy from {inputs}")
    return drawn


def figure(
    forecasts: Sequence[TaskForecast], plot: Callable[[Axes, TaskForecast], Axes], title: str
) -> Figure:
    """One panel a task in rows of four, under a shared legend."""
    n_columns = min(4, len(forecasts))
    n_rows = -(-len(forecasts) // n_columns)
    width, height = max(3.1 * n_columns, 7.0), 2.6 * n_rows + 1.3
    fig = Figure(figsize=(width, height))
    axes = fig.subplots(n_rows, n_columns, squeeze=False)
    fig.subplots_adjust(
        left=0.65 / width, right=1 - 0.15 / width, top=1 - 0.65 / height, bottom=1.1 / height,
        wspace=0.24, hspace=0.34,
    )  # fmt: skip
    for ax in axes.flat[len(forecasts) :]:
        ax.set_visible(False)
    for i, (ax, forecast) in enumerate(zip(axes.flat, forecasts, strict=False)):
        plot(ax, forecast)
        ax.tick_params(labelsize=8)
        ax.title.set(fontsize=10, fontweight="bold")
        ax.grid(alpha=0.25)
        if i % n_columns:
            ax.set_ylabel("")
        if i + n_columns < len(forecasts):
            ax.set_xlabel("")
    fig.suptitle(title, fontsize=11)
    handles = _legend(forecasts[0], tokens=plot is not plot_step2)
    fig.legend(
        handles=handles, loc="lower center", ncols=min(8, len(handles)), fontsize=8,
        frameon=False,
    )  # fmt: skip
    return fig


def _against_tokens(ax: Axes, forecast: TaskForecast, column: str, label: str) -> Axes:
    colours, markers = _colours(forecast), _markers(forecast)
    law = forecast.step1.curve
    everything = pd.concat([forecast.final["n_tokens"], forecast.measured["n_tokens"]])
    ds = np.geomspace(0.7 * everything.min(), 1.5 * everything.max(), 100)

    def value(x: np.ndarray) -> np.ndarray:
        if column == "acc":
            return forecast.accuracy(x)
        return predict(law, forecast.step1.theta, x)

    for group, rows in _groups(forecast):
        row = rows.iloc[0]
        tokens = ds / row["n_tokens"]
        known = {"n_params": row["n_params"] * np.ones_like(ds), "n_tokens": ds}
        known["flops"] = row["flops"] * tokens
        x = np.stack([known[name] for name in law.inputs], axis=-1)
        ax.plot(ds, value(x), "--", lw=1.2, alpha=0.7, color=colours[str(group)])
    for row in forecast.final.to_dict("records"):
        marker = markers[_multiple(row)]
        ax.scatter(row["n_tokens"], row[column], marker=marker, s=30, color=colours[row["size"]])
    falls = column == "loss"
    intervals = {row["target"]: row for row in forecast.rows}  # the last level given
    for i, row in enumerate(forecast.measured.to_dict("records")):
        colour, interval = colours[row["run"]], intervals[row["run"]]
        pred, lo, hi = (
            interval[c] for c in (("pred", "lo", "hi") if column == "acc" else
                                  ("pred_loss", "loss_lo", "loss_hi"))
        )  # fmt: skip
        d = row["n_tokens"]
        ax.errorbar(d, pred, [[pred - lo], [hi - pred]], fmt="x", ms=6, lw=1, color=colour)
        if row[column] == row[column]:
            ax.scatter(d, row[column], marker="o", s=22, color=colour, zorder=3)
            error = f"off by {abs(pred - row[column]) / row[column]:.1%}"
            place = {"transform": ax.transAxes, "ha": "right" if falls else "left"}
            ax.text(0.97 if falls else 0.03, 0.92 - 0.09 * i, error, fontsize=8, color=colour,
                    va="center", **place)  # fmt: skip
    ax.set_xscale("log")
    ax.set(xlabel="tokens D", ylabel=label, title=task_title(forecast.task))
    if column == "acc":
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return ax


def _groups(forecast: TaskForecast):
    """Training runs by size, then each target alone."""
    yield from forecast.final.groupby("size", sort=False)
    for name in forecast.measured["run"]:
        yield name, forecast.measured[forecast.measured["run"] == name]


def _feature(forecast: TaskForecast) -> str:
    return _FEATURES.get(forecast.protocol.metric, forecast.protocol.metric)


def _colours(forecast: TaskForecast) -> dict[str, tuple]:
    sizes = forecast.final.sort_values("n_params")["size"].unique()
    targets = forecast.measured["run"]
    ramp = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, max(len(sizes), 2)))
    hot = matplotlib.colormaps["autumn"](np.linspace(0.0, 0.55, max(len(targets), 2)))
    named = [*zip(sizes, ramp, strict=False), *zip(targets, hot, strict=False)]
    return {name: tuple(colour) for name, colour in named}


def _markers(forecast: TaskForecast) -> dict[float, str]:
    multiples = sorted(forecast.final["multiple"].fillna(0.0).unique())
    return {m: _MARKERS[i % len(_MARKERS)] for i, m in enumerate(multiples)}


def _multiple(row: dict) -> float:
    return row["multiple"] if row["multiple"] == row["multiple"] else 0.0  # 0: unknown


def _legend(forecast: TaskForecast, tokens: bool) -> list[Line2D]:
    sizes = list(forecast.final["size"].unique())
    handles = [
        Line2D([], [], color=colour, marker="o", ls="--" if name in sizes and tokens else "",
               ms=5, label=name)
        for name, colour in _colours(forecast).items()
    ]  # fmt: skip
    if tokens:
        handles += [
            Line2D([], [], color="grey", marker=marker, ls="", label=f"{multiple:g}xC")
            for multiple, marker in _markers(forecast).items()
            if multiple
        ]
        handles.append(Line2D([], [], color="grey", marker="x", ls="", label="forecast"))
    handles.append(Line2D([], [], color="grey", marker="o", ls="", label="measured"))
    return handles
