"""Forecasts in words: tables and mean errors for the command line, and a page with pictures."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from fitting import io
from fitting.evaluation import summary as summaries
from fitting.forecast.diagnose import not_identified, warnings
from fitting.forecast.predict import TaskForecast, to_frame
from fitting.report import charts, page, plots


def prediction_cells(predictions: pd.DataFrame) -> list[list[str]]:
    """A header and a row of text for each predicted accuracy, in percent and points."""
    rows = [["task", "target", "level", "pred %", "interval %", "measured %", "error, points"]]
    for row in predictions.dropna(subset=["pred"]).to_dict("records"):
        percent = [100 * row[c] for c in ("pred", "lo", "hi", "actual")]
        rows.append(_cells(row, percent, 1, f"{100 * row['abs_error']:.2f}"))
    return rows


def loss_cells(predictions: pd.DataFrame) -> list[list[str]]:
    """A header and a row of text for each predicted loss."""
    rows = [["task", "target", "level", "pred loss", "interval", "measured", "error %"]]
    for row in predictions.dropna(subset=["pred_loss"]).to_dict("records"):
        losses = [row[c] for c in ("pred_loss", "loss_lo", "loss_hi", "actual_loss")]
        rows.append(_cells(row, losses, 4, f"{100 * (losses[0] / losses[3] - 1):+.2f}"))
    return rows


def _cells(row: dict, values: list[float], decimals: int, error: str) -> list[str]:
    """One row of text: forecast, interval, and the measured value if there is one."""
    pred, lo, hi, actual = (f"{value:.{decimals}f}" for value in values)
    measured = [actual, error] if values[3] == values[3] else ["", ""]
    return [row["task"], row["target"], f"{row['level']:g}", pred, f"{lo} .. {hi}", *measured]


def summary(predictions: pd.DataFrame) -> list[str]:
    """Lines of text: each target's mean error over tasks; each level's hits and mean width.

    Lines on accuracies come first, then those on losses of texts.
    """
    measured = predictions.dropna(subset=["actual"])
    lines = []
    for target, group in measured.drop_duplicates(["task", "target"]).groupby("target", sort=False):
        error, relative = 100 * group["abs_error"].mean(), group["rel_error"].mean()
        tasks = f"over {len(group)} task{'s' if len(group) > 1 else ''}"
        lines.append(f"{target}: mean error {error:.2f} points ({relative:.1%}) {tasks}")
    for level, group in measured.groupby("level"):
        hits = int(((group["lo"] <= group["actual"]) & (group["actual"] <= group["hi"])).sum())
        width = 100 * (group["hi"] - group["lo"]).mean()
        lines.append(
            f"{hits} of {len(group)} measured values lie in their {level:.0%} intervals, "
            f"of mean width {width:.1f} points"
        )
    return lines + _summary_of_texts(predictions)


def _summary_of_texts(predictions: pd.DataFrame) -> list[str]:
    """Errors and widths of the losses of texts, which have no accuracy, in percent."""
    measured = predictions[predictions["pred"].isna()].dropna(subset=["actual_loss"])
    lines = []
    for target, group in measured.drop_duplicates(["task", "target"]).groupby("target", sort=False):
        error = 100 * (group["pred_loss"] / group["actual_loss"] - 1).abs().mean()
        texts = f"over {len(group)} text{'s' if len(group) > 1 else ''}"
        lines.append(f"{target}: mean error of the loss {error:.2f}% {texts}")
    for level, group in measured.groupby("level"):
        actual = group["actual_loss"]
        hits = int(((group["loss_lo"] <= actual) & (actual <= group["loss_hi"])).sum())
        width = 100 * ((group["loss_hi"] - group["loss_lo"]) / group["pred_loss"]).mean()
        lines.append(
            f"{hits} of {len(group)} measured losses of texts lie in their {level:.0%} intervals, "
            f"of mean width {width:.1f}%"
        )
    return lines


def write(
    directory: Path,
    title: str,
    forecasts: Sequence[TaskForecast],
    controls: Sequence[TaskForecast],
    measurements: pd.DataFrame,
    provenance: dict[str, str],
    held_out: pd.DataFrame | None = None,
) -> Path:
    """Writes `index.html` and its PNGs; returns the page's path.

    Args:
        directory: gets the files.
        title: of the page.
        forecasts: of tasks and texts, compared with what was measured.
        controls: tasks that are shown and not forecast.
        measurements: of all runs.
        provenance: name -> value of everything that the forecast depends on, shown unchanged.
        held_out: cells of a backtest inside the training runs, if one was made.
    """
    drawn = charts.of_forecasts(forecasts, controls)
    tested = None
    if held_out is not None and len(held_out):
        tested = summaries.summary(held_out, "split")
        drawn["backtest"] = charts.backtest(summaries.summary(held_out))
    texts = [f for f in forecasts if "acc" not in f.columns]
    if texts:
        drawn["curves"] = plots.loss_curves(measurements, *texts[0].columns["loss"])
    for name, figure in drawn.items():
        io.write_atomically(directory / f"{name}.png", lambda p, f=figure: f.savefig(p, dpi=130))
    content = page.render(title, _sections(forecasts, controls, drawn, provenance, tested))
    path = directory / "index.html"
    io.write_atomically(path, lambda p: p.write_text(content, encoding="utf-8"))
    return path


def _sections(
    forecasts: Sequence[TaskForecast],
    controls: Sequence[TaskForecast],
    drawn: Collection[str],
    provenance: dict[str, str],
    tested: pd.DataFrame | None,
) -> list[page.Section]:
    predictions = to_frame(forecasts)

    def pictures(**shows: str) -> dict[str, str]:
        return {f"{name}.png": text for name, text in shows.items() if name in drawn}

    accuracies, losses = prediction_cells(predictions), loss_cells(predictions)
    notes = [f"{text}: {', '.join(tasks)}." for text, tasks in warnings(forecasts).items()]
    sections = [
        page.Section(
            "Forecast and measurement",
            [
                "The forecast was fitted to the smaller runs and locked before the target was "
                "scored; intervals say where the measured value will fall.",
                *(f"{line}." for line in summary(predictions)),
            ],
            accuracies if len(accuracies) > 1 else (),
            pictures(
                forecast="Each task's forecast, its interval and the measured accuracy",
                distributions="Each task's forecast as a distribution; dashed: measured",
            ),
        ),
        page.Section(
            "Losses", ["Of each task in bits per byte, and of held-out text."], losses
        ),
        page.Section(
            "How it was made",
            [f"Step 1 forecasts a task's loss from {plots.inputs_of(forecasts)}, step 2 its "
             "accuracy from its loss; chained, they give the accuracy."],
            (),
            pictures(
                step1="Loss against tokens, a curve per size",
                step2="Accuracy against loss, every checkpoint",
                chained="Accuracy against tokens through both steps",
                curves="Held-out loss of every run against tokens",
            ),
        ),
        page.Section(
            "What is not identified",
            [*notes, *not_identified(forecasts),
             "Exponents and asymptotes of so short a ladder should not be quoted: an error in one "
             "is made up for by another, and only their joint forecast is tested here."],
        ),
        page.Section("Cost", table=_cost_cells(forecasts)),
        page.Section("Made from", table=[["", ""], *([k, v] for k, v in provenance.items())]),
    ]  # fmt: skip
    if tested is not None:
        sections[2:2] = _backtest_sections(tested)
    if controls:
        sections.insert(2, _control_section(controls))
    return sections


def _backtest_sections(tested: pd.DataFrame) -> list[page.Section]:
    """One section for accuracies, with the figure, and one for losses."""
    text = (
        "The methods, tested on runs that were fitted above: the largest sizes are left out in "
        "turn and forecast from the smaller ones.  Of MAE, CRPS and interval score less is better; "
        "a 95 % interval should hold 95 % of the time."
    )
    shows = "Errors of each method, and its intervals' coverage against width"
    return [
        page.Section(f"Backtest: {words}", [text] if i == 0 else [], cells,
                     {"backtest.png": shows} if i == 0 else {})
        for i, (words, cells) in enumerate(summaries.tables(tested).items())
    ]  # fmt: skip


def _control_section(controls: Sequence[TaskForecast]) -> page.Section:
    return page.Section(
        "Controls",
        ["The smaller runs' accuracies on these tasks differ no more than those of equally good "
         "models on different test items would: too little to forecast from."],
        _control_cells(controls),
        {"controls.png": "Accuracy against tokens, runs only"},
    )  # fmt: skip


def _control_cells(controls: Sequence[TaskForecast]) -> list[list[str]]:
    rows = [["task", "lowest %", "highest %", "items", "target %"]]
    for forecast in controls:
        accuracy, n = forecast.final["acc"], forecast.final["n_examples"].min()
        target = forecast.measured["acc"].iloc[0]
        rows.append(
            [forecast.task, f"{100 * accuracy.min():.1f}", f"{100 * accuracy.max():.1f}",
             f"{n:.0f}", f"{100 * target:.1f}" if target == target else ""]
        )  # fmt: skip
    return rows


def _cost_cells(forecasts: Sequence[TaskForecast]) -> list[list[str]]:
    """FLOPs of the runs that were fitted, and of each target, as the table counts them."""
    ladder = forecasts[0].final["flops"].sum()
    rows = [["", "FLOPs", "the ladder costs"]]
    rows.append([f"{len(forecasts[0].final)} runs fitted", f"{ladder:.3g}", ""])
    for row in forecasts[0].measured.to_dict("records"):
        rows.append([row["run"], f"{row['flops']:.3g}", f"{ladder / row['flops']:.2f} of it"])
    return rows
