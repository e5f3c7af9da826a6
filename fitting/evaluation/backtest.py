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

from fitting.errors import InputError
from fitting.forecast import distribution, predict
from fitting.forecast.predict import TaskForecast
from fitting.observations import select

LEVELS = (0.5, 0.8, 0.95)
COMPARED = ("bayes", "bootstrap", "least-squares", "paper")  # in a report
FEWEST_SIZES = 3  # two to fit and one to hold out
ALL_SPLITS, TARGETS = "all splits", "targets"  # the second is no split, and not among them
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
    known = table.loc[table["run"].isin(list(runs)), ["run", "size", "n_params"]]
    known = known.astype({"n_params": float}).groupby("run").first()  # of each, the first known
    for name in runs:
        if not known["n_params"][name] > 0:
            raise InputError(f"--train: run {name!r} has no n_params: fill it in")
    label = known["size"].astype(object)
    known["size"] = label.where(
        label.notna() & (label != ""), known["n_params"].map("{:.3g}".format)
    )
    sizes = known.groupby("size")["n_params"].max().sort_values()
    if len(sizes) < FEWEST_SIZES:
        raise InputError(
            f"the runs of --train have {len(sizes)} size{'s' if len(sizes) != 1 else ''}: a "
            "backtest needs three, two to fit and one to hold out"
        )
    found = {}
    for last in range(1, len(sizes) - 1):
        small = set(sizes.index[: last + 1])
        below = [name for name in runs if known["size"][name] in small]
        above = [name for name in runs if name not in below]
        found[f"up to {sizes.index[last]}"] = (below, above)
    return found


def check_targets(table: pd.DataFrame, runs: Sequence[str], targets: Sequence[str]) -> None:
    """Checks that runs to score at the end are measured and do not train.

    Raises:
        InputError: one of them is not in the table, or is a training run.
    """
    for name in targets:
        if name in runs:
            raise InputError(f"--target {name} is also in --train: leave it out of one")
        if not (table["run"] == name).any():
            raise InputError(f"--target {name!r} is not in the table: name a measured run")


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

    Raises:
        InputError: there are too few sizes, or nothing could be forecast.
    """
    parts = splits(table, select.select_runs(table, train))
    return score(table, parts, tasks, methods, progress)


def score(
    table: pd.DataFrame,
    parts: Mapping[str, tuple[list[str], list[str]]],
    tasks: Sequence[str],
    methods: Mapping[str, Mapping[str, Any]],
    progress: bool = True,
) -> tuple[pd.DataFrame, list[str]]:
    """The same for splits of one's own: name -> (runs that train, runs that are forecast).

    Raises:
        InputError: nothing could be forecast and compared.
    """
    cells, failed = [], []
    jobs = [(split, name) for split in parts for name in methods]
    for split, name in tqdm(jobs, desc="backtest", unit="fit", disable=not progress):
        train, held = parts[split]
        try:
            made = predict.forecast(
                select.as_ended(table, held), _literal(train), held, tasks, levels=LEVELS,
                **methods[name],
            )  # fmt: skip
        except InputError as e:
            failed.append(f"{split}, {name}: {e}")
            continue
        for posterior in made[0].posteriors.values():
            failed += [f"{split}, {name}: {problem}" for problem in posterior.problems]
        suffix = made[0].method.removeprefix(methods[name].get("method", made[0].method))
        cells += [cell for forecast in made for cell in _cells(split, name + suffix, forecast)]
    if not cells:
        nothing = f"{', '.join(parts)}: no accuracy of the held-out runs is in the table"
        raise InputError(failed[0] if failed else nothing)
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
        low, high = (np.asarray(cell[f"{side}_{LEVELS[-1]:g}"]) for side in ("lo", "hi"))
        score = distribution.interval_score(low, high, actual[g], LEVELS[-1])
        cells.append(cell | {"interval_score": float(score)})
    return cells


def summary(cells: pd.DataFrame) -> pd.DataFrame:
    """A row a (split, method), and over all splits but the targets: errors, covers, widths.

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
                held = (low <= group["actual"]) & (group["actual"] <= high)
                row |= {
                    f"cover_{level:g}": held.mean(),
                    f"width_{level:g}": 100 * (high - low).mean(),
                }
            rows.append(row)
    return pd.DataFrame(rows)


def by_task(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute error in points: `task`, then a column a method; a row a task."""
    errors = 100 * cells.pivot_table("abs_error", "task", "method", sort=False)
    return errors.reset_index()


def task_cells(errors: pd.DataFrame) -> list[list[str]]:
    """A header and rows of text, of `by_task`."""
    names = list(errors.columns[1:])
    rows = [[row["task"], *(f"{row[n]:.2f}" for n in names)] for row in errors.to_dict("records")]
    return [["task", *names], *rows]


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
