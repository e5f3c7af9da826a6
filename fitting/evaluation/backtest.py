"""Backtests: each method forecasts known runs, the larger sizes, which are held out in turn.

Methods are chosen by these extrapolations inside a ladder; the targets are then scored only once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from fitting.errors import InputError
from fitting.forecast import distribution, predict
from fitting.forecast.predict import TaskForecast
from fitting.forecast.spec import ForecastSpec
from fitting.observations import select

LEVELS = (0.5, 0.8, 0.95)
COMPARED = ("bayes", "bootstrap", "least-squares", "paper")  # in a report
FEWEST_SIZES = 3  # two to fit and one to hold out
ALL_SPLITS, TARGETS = "all splits", "targets"  # all splits do not include the rows of `TARGETS`
CELL_COLUMNS = (
    "split", "method", "task", "target", "pred", "actual", "abs_error", "crps",
    *(f"{side}_{level:g}" for level in LEVELS for side in ("lo", "hi")), "interval_score",
)  # fmt: skip


class Split(NamedTuple):
    """Names of the runs that are fitted, and of those that are forecast."""

    train: Sequence[str]
    held_out: Sequence[str]


class BacktestScores(NamedTuple):
    """Scores of forecasts.

    Attributes:
        cells: one row per (split, method, task, held-out run) in `CELL_COLUMNS`.
        failures: one line for each forecast that could not be made, or failed its checks.
    """

    cells: pd.DataFrame
    failures: list[str]


def splits(table: pd.DataFrame, runs: Sequence[str]) -> dict[str, Split]:
    """Every split by size: fits the sizes up to a limit, and holds out the larger ones.

    At least two sizes are fitted, and at least one is held out.

    Raises:
        InputError: the runs have fewer than three sizes.
    """
    known = table.loc[table["run"].isin(list(runs)), ["run", "size", "n_params"]]
    known = known.astype({"n_params": float}).groupby("run").first()  # first known values
    unknown = [name for name in runs if not known["n_params"][name] > 0]
    select.refuse({"no n_params": unknown}, "fill it in, or leave runs out with `exclude`")
    label = known["size"].astype(object)
    known["size"] = label.where(
        label.notna() & (label != ""), known["n_params"].map("{:.3g}".format)
    )
    sizes = known.groupby("size")["n_params"].max().sort_values()
    if len(sizes) < FEWEST_SIZES:
        raise InputError(
            f"the runs of `train` have {len(sizes)} size{'s' if len(sizes) != 1 else ''}: a "
            "backtest needs three, two to fit and one to hold out"
        )
    found = {}
    for last in range(1, len(sizes) - 1):
        small = set(sizes.index[: last + 1])
        below = [name for name in runs if known["size"][name] in small]
        above = [name for name in runs if name not in below]
        found[f"up to {sizes.index[last]}"] = Split(below, above)
    return found


def check_targets(table: pd.DataFrame, runs: Sequence[str], targets: Sequence[str]) -> None:
    """Checks that the targets are in the table and are not training runs.

    Raises:
        InputError: one of them is not in the table, or is a training run.
    """
    for name in targets:
        if name in runs:
            raise InputError(f"`targets` {name} is also in `train`: leave it out of one")
        if not (table["run"] == name).any():
            raise InputError(f"`targets` {name!r} is not in the table: name a measured run")


def run(
    table: pd.DataFrame,
    train: Sequence[str],
    methods: Mapping[str, ForecastSpec],
    progress: bool = True,
) -> BacktestScores:
    """Forecasts every held-out run by every method.

    Args:
        table: measurements, in the schema of `fitting.table`.
        train: shell patterns of the ladder's runs.
        methods: name -> spec with tasks, method and settings; its runs and levels are replaced.
        progress: whether to show a progress bar.

    Raises:
        InputError: there are too few sizes, or nothing could be forecast.
    """
    parts = splits(table, select.select_runs(table, train))
    return score(table, parts, methods, progress)


def score(
    table: pd.DataFrame,
    parts: Mapping[str, Split],
    methods: Mapping[str, ForecastSpec],
    progress: bool = True,
) -> BacktestScores:
    """Forecasts the held-out runs of given splits by every method.

    Args:
        table: measurements, in the schema of `fitting.table`.
        parts: name -> split.
        methods: as for `run`.
        progress: whether to show a progress bar.

    Raises:
        InputError: nothing could be forecast and compared.
    """
    cells, failures = [], []
    jobs = [(split, name) for split in parts for name in methods]
    for split, name in tqdm(jobs, desc="backtest", unit="fit", disable=not progress):
        train, held_out = parts[split]
        spec = replace(methods[name], train=select.literal(train), targets=held_out, levels=LEVELS)
        try:
            made = predict.forecast(select.without_early_evaluations(table, held_out), spec)
        except InputError as e:
            failures.append(f"{split}, {name}: {e}")
            continue
        for posterior in made[0].posteriors.values():
            failures += [f"{split}, {name}: {problem}" for problem in posterior.problems]
        suffix = made[0].method.removeprefix(spec.method)
        cells += [cell for forecast in made for cell in _cells(split, name + suffix, forecast)]
    if not cells:
        nothing = f"{', '.join(parts)}: no accuracy of the held-out runs is in the table"
        raise InputError(failures[0] if failures else nothing)
    return BacktestScores(pd.DataFrame(cells, columns=list(CELL_COLUMNS)), failures)


def _cells(split: str, method: str, forecast: TaskForecast) -> list[dict]:
    if "acc" not in forecast.quantiles:
        return []
    actual = forecast.measured["acc"].to_numpy(float)
    quantiles = np.clip(forecast.quantiles["acc"], 0.0, 1.0)
    crps = distribution.crps(forecast.p, quantiles, actual)
    cells = []
    for g, target in enumerate(forecast.measured["run"]):
        if not np.isfinite(actual[g]):
            continue
        middle = float(np.interp(0.5, forecast.p, quantiles[g]))
        cell = {
            "split": split, "method": method, "task": forecast.task, "target": target,
            "pred": middle, "actual": actual[g], "abs_error": abs(middle - actual[g]),
            "crps": crps[g],
        }  # fmt: skip
        for level in LEVELS:
            low, high = distribution.interval(forecast.p, quantiles[g], level)
            cell |= {f"lo_{level:g}": low, f"hi_{level:g}": high}
        low, high = (np.asarray(cell[f"{side}_{LEVELS[-1]:g}"]) for side in ("lo", "hi"))
        score = distribution.interval_score(low, high, actual[g], LEVELS[-1])
        cells.append(cell | {"interval_score": float(score)})
    return cells


def summary(cells: pd.DataFrame) -> pd.DataFrame:
    """A row per (split, method), and over all splits but the targets: errors, covers, widths.

    Columns: `split, method, n, mae, crps, interval_score`, then `cover_L` and `width_L` of each
    level; all but `n` and the covers are in points of accuracy.
    """
    rows = []
    held_in = cells[cells["split"] != TARGETS]
    several = held_in["split"].nunique() > 1
    for split in [*cells["split"].unique(), *([ALL_SPLITS] if several else [])]:
        part = held_in if split == ALL_SPLITS else cells[cells["split"] == split]
        for method, group in part.groupby("method", sort=False):
            row: dict[str, Any] = {"split": split, "method": method, "n": len(group)}
            for column, name in (
                ("abs_error", "mae"), ("crps", "crps"), ("interval_score", "interval_score"),
            ):  # fmt: skip
                row[name] = 100 * group[column].mean()
            for level in LEVELS:
                low, high = group[f"lo_{level:g}"], group[f"hi_{level:g}"]
                inside = (low <= group["actual"]) & (group["actual"] <= high)
                row |= {
                    f"cover_{level:g}": inside.mean(),
                    f"width_{level:g}": 100 * (high - low).mean(),
                }
            rows.append(row)
    return pd.DataFrame(rows)


def by_task(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute error in points: `task`, then one column per method; one row per task."""
    errors = 100 * cells.pivot_table("abs_error", "task", "method", sort=False)
    return errors.reset_index()


def task_cells(errors: pd.DataFrame) -> list[list[str]]:
    """The result of `by_task` as text: a header and rows of cells."""
    names = list(errors.columns[1:])
    rows = [[row["task"], *(f"{row[n]:.2f}" for n in names)] for row in errors.to_dict("records")]
    return [["task", *names], *rows]


def table_cells(summary: pd.DataFrame) -> list[list[str]]:
    """The result of `summary` as text: a header and rows of cells."""
    header = ["split", "method", "n", "MAE", "CRPS", "interval score 95"]
    header += [f"in {level:.0%} (width)" for level in LEVELS]
    rows = [header]
    for row in summary.to_dict("records"):
        cells = [row["split"], row["method"], str(row["n"])]
        cells += [f"{row[name]:.2f}" for name in ("mae", "crps", "interval_score")]
        for level in LEVELS:
            cells.append(f"{row[f'cover_{level:g}']:.0%} ({row[f'width_{level:g}']:.1f})")
        rows.append(cells)
    return rows
