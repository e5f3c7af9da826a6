"""How well each method would have forecast runs that are known: larger rungs held out in turn.

A method is chosen here, on extrapolations inside a ladder; the targets that one cares for are then
scored once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from fitting import distribution, points, predict
from fitting.predict import TaskForecast
from fitting.table import InputError

LEVELS = (0.5, 0.8, 0.95)
ALL_SPLITS = "all splits"
CELL_COLUMNS = (
    "split", "method", "task", "target", "pred", "actual", "abs_error", "crps",
    *(f"{side}_{level:g}" for level in LEVELS for side in ("lo", "hi")), "interval_score",
)  # fmt: skip


def splits(table: pd.DataFrame, runs: Sequence[str]) -> dict[str, tuple[list[str], list[str]]]:
    """Every ordered split by size: words -> (runs up to it, runs above).

    At least two sizes train, and at least one is held out.

    Raises:
        InputError: the runs have fewer than three sizes.
    """
    known = table[table["run"].isin(list(runs))].drop_duplicates("run")
    known = known.assign(n=known["n_params"].astype(float)).dropna(subset=["n"])
    sizes = known.groupby("size", sort=False)["n"].max().sort_values()
    if len(sizes) < 3:
        raise InputError(
            f"the runs of --train have {len(sizes)} size{'s' if len(sizes) != 1 else ''}: a "
            "backtest needs three, two to fit and one to hold out"
        )
    found = {}
    for size, largest in list(sizes.items())[1:-1]:
        below = [r for r in runs if known.set_index("run")["n"].get(r, np.inf) <= largest]
        above = [r for r in runs if r not in below]
        found[f"up to {size}"] = (below, above)
    return found


def run(
    table: pd.DataFrame,
    train: Sequence[str],
    tasks: Sequence[str],
    methods: Mapping[str, Mapping[str, Any]],
    progress: bool = True,
) -> tuple[pd.DataFrame, list[str]]:
    """Forecasts every held-out run by every method.

    Args:
        table: measurements, in the schema of `fitting.table`.
        train: shell patterns of the ladder's runs.
        tasks: labels; `main` stands for the paper's eight.
        methods: name -> arguments of `fitting.predict.forecast`.
        progress: shows a bar.

    Returns:
        A row a (split, method, task, held-out run) in `CELL_COLUMNS`, and what could not be done.
    """
    parts = splits(table, points.select_runs(table, train))
    return score(table, {name: (*part,) for name, part in parts.items()}, tasks, methods, progress)


def score(
    table: pd.DataFrame,
    parts: Mapping[str, tuple[list[str], list[str]]],
    tasks: Sequence[str],
    methods: Mapping[str, Mapping[str, Any]],
    progress: bool = True,
) -> tuple[pd.DataFrame, list[str]]:
    """The same for splits of one's own: name -> (runs that train, runs that are forecast)."""
    cells, failed = [], []
    jobs = [(split, name) for split in parts for name in methods]
    for split, name in tqdm(jobs, desc="backtest", unit="fit", disable=not progress):
        train, held = parts[split]
        settings = dict(methods[name]) | {"levels": LEVELS}
        try:
            made = predict.forecast(table, _literal(train), held, tasks, **settings)
        except InputError as e:
            failed.append(f"{split}, {name}: {e}")
            continue
        cells += [cell for forecast in made for cell in _cells(split, name, forecast)]
    return pd.DataFrame(cells, columns=list(CELL_COLUMNS)), failed


def _literal(names: Sequence[str]) -> list[str]:
    """Patterns that match these names alone."""
    return ["".join(f"[{c}]" if c in "*?[" else c for c in name) for name in names]


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
        cell["interval_score"] = distribution.interval_score(low, high, actual[g], LEVELS[-1])
        cells.append(cell)
    return cells


def summary(cells: pd.DataFrame) -> pd.DataFrame:
    """A row a (split, method), and over all splits: errors in points, shares covered, widths.

    Columns: `split, method, n, mae, crps, interval_score`, then `cover_L` and `width_L` of each
    level; all but `n` and the covers are in points of accuracy.
    """
    rows = []
    several = cells["split"].nunique() > 1
    for split in [*cells["split"].unique(), *([ALL_SPLITS] if several else [])]:
        part = cells if split == ALL_SPLITS else cells[cells["split"] == split]
        for method, group in part.groupby("method", sort=False):
            row: dict[str, Any] = {"split": split, "method": method, "n": len(group)}
            for column, name in (
                ("abs_error", "mae"), ("crps", "crps"), ("interval_score", "interval_score"),
            ):  # fmt: skip
                row[name] = 100 * group[column].mean()
            for level in LEVELS:
                low, high = group[f"lo_{level:g}"], group[f"hi_{level:g}"]
                held = (low <= group["actual"]) & (group["actual"] <= high)
                row |= {
                    f"cover_{level:g}": held.mean(),
                    f"width_{level:g}": 100 * (high - low).mean(),
                }
            rows.append(row)
    return pd.DataFrame(rows)


def by_task(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute error in points: a row a task, a column a method."""
    errors = 100 * cells.pivot_table("abs_error", "task", "method", sort=False)
    return errors.reset_index()


def table_cells(summary: pd.DataFrame) -> list[list[str]]:
    """A header and rows of text."""
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
