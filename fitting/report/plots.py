"""Figures in the paper's style.  Each `plot_*` draws one panel on `ax`, returns it, does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from fitting.forecast.predict import TaskForecast
from fitting.laws.curves import predict

_MARKERS = ("s", "P", "p", "*", "D", "^", "v", "h")
_FEATURES = {
    "bpb": "task loss (bits per byte)", "lm_bpb": "bits per byte", "lm_loss": "loss (nats)",
    "task_ce": "task CE",
}  # fmt: skip
_WORDS = {
    "mmlu": "MMLU", "arc": "ARC", "piqa": "PIQA", "csqa": "CSQA", "socialiqa": "Social IQa",
    "openbookqa": "OpenBookQA", "hellaswag": "HellaSwag", "boolq": "BoolQ",
    "winogrande": "WinoGrande",
}  # fmt: skip


def task_title(task: str) -> str:
    """A readable title of a task: `arc_easy_test_rc_5shot` -> `ARC easy`."""
    parts = task.split("_rc_")[0].split("_mc_")[0].split("_")
    words = [_WORDS.get(p, p) for p in parts if p not in ("test", "val", "avg")]
    return " ".join(words)


def plot_step1(ax: Axes, forecast: TaskForecast) -> Axes:
    """Feature against tokens or FLOPs: the fit, the runs, and the targets measured and forecast."""
    return _plot_against_inputs(ax, forecast, "loss", _feature(forecast))


def plot_chained(ax: Axes, forecast: TaskForecast) -> Axes:
    """Accuracy against tokens or FLOPs through both steps, with predictive intervals."""
    return _plot_against_inputs(ax, forecast, "acc", "accuracy")


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


def plot_control(ax: Axes, forecast: TaskForecast) -> Axes:
    """Accuracy of the training runs and targets against tokens, and no curve."""
    colours, markers = _colours(forecast), _markers(forecast)
    for row in forecast.final.to_dict("records"):
        ax.scatter(
            row["n_tokens"], row["acc"], marker=markers[_multiple(row)], s=30,
            color=colours[row["size"]],
        )  # fmt: skip
    for row in forecast.measured.to_dict("records"):
        ax.scatter(row["n_tokens"], row["acc"], marker="o", s=22, color=colours[row["run"]])
    _log_axis(ax, "n_tokens")
    ax.set(ylabel="accuracy", title=task_title(forecast.task))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return ax


def plot_intervals(ax: Axes, forecasts: Sequence[TaskForecast]) -> Axes:
    """Every accuracy forecast with its widest interval and the measured value, a line each."""
    rows = [row for f in forecasts for row in f.rows if row["pred"] == row["pred"]]
    widest = {(row["task"], row["target"]): row for row in sorted(rows, key=lambda r: r["level"])}
    several = len({target for _, target in widest}) > 1
    for i, ((task, target), row) in enumerate(widest.items()):
        ax.plot([row["lo"], row["hi"]], [i, i], color="0.6", lw=6, solid_capstyle="butt", alpha=0.5)
        ax.plot(row["pred"], i, "x", color="black", ms=7)
        ax.plot(row["actual"], i, "o", color="tab:red", ms=6)
        words = f"{row['pred']:.1%} [{row['lo']:.1%}, {row['hi']:.1%}]"
        ax.annotate(words, (1.01, i), xycoords=("axes fraction", "data"), va="center", fontsize=8)
        label = task_title(task) + (f", {target}" if several else "")
        widest[task, target] = row | {"label": label}
    ax.set_yticks(range(len(widest)), [row["label"] for row in widest.values()])
    ax.set_ylim(len(widest) - 0.4, -0.6)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    level = max((row["level"] for row in rows), default=0.95)
    ax.set(xlabel="accuracy", title=f"Forecast (cross), {level:.0%} interval (bar), measured (dot)")
    ax.grid(axis="x", alpha=0.25)
    return ax


def inputs_of(forecasts: Sequence[TaskForecast]) -> str:
    """Names of the inputs of the law of step 1, in words."""
    words = {"n_params": "parameters", "n_tokens": "tokens", "flops": "FLOPs"}
    return " and ".join(words[name] for name in forecasts[0].step1.curve.inputs)


def figures(
    forecasts: Sequence[TaskForecast], controls: Sequence[TaskForecast] = ()
) -> dict[str, Figure]:
    """Figures by file stem: both steps, the chained forecast, all intervals, controls."""
    inputs = inputs_of(forecasts)
    losses = [f for f in forecasts if "loss" in f.columns]
    both = [f for f in losses if "acc" in f.columns]
    scored = [f for f in forecasts if "acc" in f.columns]
    drawn = {}
    if losses:
        drawn["step1"] = figure(losses, plot_step1, f"Step 1: loss from {inputs}")
    if both:
        drawn["step2"] = figure(both, plot_step2, "Step 2: accuracy from loss")
    if scored:
        drawn["chained"] = figure(scored, plot_chained, f"Accuracy from {inputs}")
        n_lines = sum(len({row["target"] for row in f.rows}) for f in scored)
        width, height = 8.5, 0.36 * n_lines + 1.2
        drawn["forecast"] = Figure(figsize=(width, height))
        plot_intervals(drawn["forecast"].subplots(), scored)
        drawn["forecast"].subplots_adjust(
            left=2.1 / width, right=1 - 1.9 / width, bottom=0.6 / height, top=1 - 0.4 / height
        )
    if controls:
        drawn["controls"] = figure(controls, plot_control, "Shown, not forecast")
    return drawn


def loss_curves(measurements: pd.DataFrame, task: str, metric: str) -> Figure:
    """A metric of one task at every checkpoint against tokens: one line per run, colour by size."""
    rows = measurements[(measurements["task"] == task) & (measurements["metric"] == metric)]
    rows = rows.sort_values(["n_params", "n_tokens"])
    fig = Figure(figsize=(7.0, 4.2))
    ax = fig.subplots()
    sizes = list(dict.fromkeys(rows["size"]))
    ramp = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, max(len(sizes), 2)))
    for size, colour in zip(sizes, ramp, strict=False):
        for i, (_, run) in enumerate(rows[rows["size"] == size].groupby("run", sort=False)):
            ax.plot(
                run["n_tokens"].astype(float), run["value"], "o-", ms=4, lw=1.2, color=colour,
                label=str(size) if i == 0 else None,
            )  # fmt: skip
    _log_axis(ax, "n_tokens")
    ax.set(ylabel=_FEATURES.get(metric, metric), title=f"{task}: every checkpoint")
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8, frameon=False)
    fig.subplots_adjust(left=0.1, right=0.97, top=0.92, bottom=0.13)
    return fig


def figure(
    forecasts: Sequence[TaskForecast], plot: Callable[[Axes, TaskForecast], Axes], title: str
) -> Figure:
    """One panel per task in rows of four, under a shared legend."""
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
        handles=handles, loc="lower center", ncols=min(int(width / 1.3), len(handles)), fontsize=8,
        frameon=False,
    )  # fmt: skip
    return fig


def _plot_against_inputs(ax: Axes, forecast: TaskForecast, column: str, label: str) -> Axes:
    """Loss or accuracy against tokens, one curve per size, or against FLOPs, one curve."""
    colours, markers, axis = _colours(forecast), _markers(forecast), _axis(forecast)
    law = forecast.step1.curve
    everything = pd.concat([forecast.final[axis], forecast.measured[axis]])
    at = np.geomspace(0.7 * everything.min(), 1.5 * everything.max(), 100)

    def value(x: np.ndarray) -> np.ndarray:
        if column == "acc":
            return forecast.accuracy(x)
        return predict(law, forecast.step1.theta, x)

    groups = [(None, forecast.final)] if axis == "flops" else _groups(forecast)
    for group, rows in groups:
        known = {axis: at, "n_params": np.full_like(at, rows["n_params"].iloc[0])}
        x = np.stack([known[name] for name in law.inputs], axis=-1)
        colour = colours.get(str(group), "black")
        ax.plot(at, value(x), "--", lw=1.2, alpha=0.7, color=colour)
    for row in forecast.final.to_dict("records"):
        marker = markers[_multiple(row)]
        ax.plot(row[axis], row[column], marker=marker, ms=5.5, color=colours[row["size"]])
    falls = column == "loss"
    intervals = {row["target"]: row for row in forecast.rows}  # the last level given
    for i, row in enumerate(forecast.measured.to_dict("records")):
        colour, interval = colours[row["run"]], intervals[row["run"]]
        pred, lo, hi = (
            interval[c] for c in (("pred", "lo", "hi") if column == "acc" else
                                  ("pred_loss", "loss_lo", "loss_hi"))
        )  # fmt: skip
        d = row[axis]
        ax.errorbar(
            d,
            pred,
            [[max(0.0, pred - lo)], [max(0.0, hi - pred)]],
            fmt="x",
            ms=6,
            lw=1,
            color=colour,
        )
        if row[column] > 0:
            ax.plot(d, row[column], marker="o", ms=4.7, color=colour, zorder=3)
            error = f"off by {abs(pred - row[column]) / row[column]:.1%}"
            place = {"transform": ax.transAxes, "ha": "right" if falls else "left"}
            ax.text(0.97 if falls else 0.03, 0.92 - 0.09 * i, error, fontsize=8, color=colour,
                    va="center", **place)  # fmt: skip
    _log_axis(ax, axis)
    ax.set(ylabel=label, title=task_title(forecast.task))
    if column == "acc":
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return ax


def _axis(forecast: TaskForecast) -> str:
    return "flops" if forecast.step1.curve.inputs == ("flops",) else "n_tokens"


def _log_axis(ax: Axes, axis: str) -> None:
    """Few labelled ticks, whatever the span."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    ax.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    ax.xaxis.set_minor_locator(NullLocator())
    if axis == "n_tokens":
        ax.xaxis.set_major_formatter(FuncFormatter(lambda d, _: _short(d)))
    else:
        ax.xaxis.set_major_formatter(FuncFormatter(lambda c, _: f"{c:.0e}".replace("e+", "e")))
    ax.set_xlabel({"n_tokens": "tokens D", "flops": "FLOPs C"}[axis])


def _short(number: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= unit:
            return f"{number / unit:g}{name}"
    return f"{number:g}"


def _groups(forecast: TaskForecast):
    """Training runs by size, then each target alone."""
    yield from forecast.final.groupby("size", sort=False)
    for name in forecast.measured["run"]:
        yield name, forecast.measured[forecast.measured["run"] == name]


def _feature(forecast: TaskForecast) -> str:
    task, metric = forecast.columns["loss"]
    of = "C4 " if task == "c4_en_val" else ""
    return of + _FEATURES.get(metric, metric)


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
