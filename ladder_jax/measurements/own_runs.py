"""The measurement table of our own runs and score stores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fitting import io
from fitting.errors import InputError
from fitting.table import COLUMNS, INTEGER_COLUMNS
from ladder_jax.config import ModelConfig, RunConfig
from ladder_jax.config_text import load_json
from ladder_jax.eval import metrics, store
from ladder_jax.models import counts
from ladder_jax.tasks import olmes
from ladder_jax.training import metrics_log


def from_runs(directory: str | Path) -> pd.DataFrame:
    """Collects every measured step of every run below a directory.

    Raises:
        InputError: there is no run, or no run has been measured.
    """
    directory = Path(directory)
    found = sorted(path.parent for path in directory.rglob("config.json"))
    if not found:
        raise InputError(f"{directory}: holds no run (no config.json below it)")
    return of_runs(found, directory)


def of_runs(runs: Sequence[Path], directory: Path) -> pd.DataFrame:
    """Collects the measured steps of these runs only; see `from_runs`."""
    rows = [row for run in runs for row in _run_rows(run)]
    if not rows:
        raise InputError(f"{directory}: no run has been measured yet; train it to a checkpoint")
    return _table(rows)


def from_stores(path: str | Path) -> pd.DataFrame:
    """Metrics of score stores that `ladder eval` wrote, recomputed without the model.

    Args:
        path: a store, or a directory of stores.

    Raises:
        InputError: there is no store, or a store does not say to which run it belongs.
    """
    path = Path(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: holds no score store (no .parquet file)")
    return pd.concat([of_store(store.read(file), file) for file in files], ignore_index=True)


def of_store(scores: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The measurements of one score store, read from `path`; see `from_stores`."""
    if "cells" not in scores.attrs:
        raise InputError(f"{path}: does not say to which run it belongs: write it with ladder eval")
    return _table(rows(scores.attrs["cells"], metrics.of_store(scores), _n_documents(scores)))


def rows(
    cells: Mapping[str, Any], values: olmes.Values, n_examples: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Rows of the measurement table: tasks, and means of which all parts were measured."""
    means = [label for label in olmes.composites(values) if label not in values]
    found = []
    for task, measured in olmes.combine(values, [*values, *means]).items():
        n = n_examples[task] if task in values else sum(n_examples[p] for p in olmes.expand([task]))
        at = {**cells, "task": task, "n_examples": n}
        found += [at | {"metric": metric, "value": value} for metric, value in measured.items()]
    return found


def model_cells(model: ModelConfig, n_tokens: int | None) -> dict[str, Any]:
    """Columns that follow from a model's shape and its training tokens."""
    known = {
        "n_params": counts.n_params(model),
        "n_params_total": counts.n_params_total(model),
    }
    if n_tokens is None:
        return known
    return known | {"n_tokens": n_tokens, "flops": n_tokens * counts.flops_per_token(model)}


def run_cells(run: RunConfig, directory: Path, step: int) -> dict[str, Any]:
    """Columns of a run at a step; seed and learning rates only if it has a log (not imported)."""
    lr_of = {row["step"]: row["lr"] for row in metrics_log.read(directory)}
    n_tokens = step * run.batch_tokens
    return {
        "run": run.name,
        "size": run.size,
        "multiple": run.multiple or np.nan,
        "step": step,
        **({"seed": run.seed, "lr_peak": run.optim.lr_peak} if lr_of else {}),
        "lr": lr_of.get(step, np.nan),
    } | model_cells(run.model, n_tokens)


def _table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    types: dict[str, Any] = dict.fromkeys(INTEGER_COLUMNS, "Int64")
    return frame.astype(types | {"flops": float})  # flops may exceed the largest integer


def _run_rows(directory: Path) -> Iterator[dict[str, Any]]:
    run = load_json(RunConfig, directory / "config.json")
    for step, (values, n_examples) in sorted(_measured(directory / "evals").items()):
        yield from rows(run_cells(run, directory, step), values, n_examples)


def _measured(evals: Path) -> dict[int, tuple[dict[str, dict[str, float]], dict[str, int]]]:
    """Step -> (task -> metrics, task -> examples), as recorded or recomputed from stores."""
    found: dict[int, tuple[dict[str, Any], dict[str, int]]] = defaultdict(lambda: ({}, {}))

    def add(step: int, task: str, values: dict[str, float], n_examples: int) -> None:
        if n_examples > found[step][1].get(task, 0):  # keep the fuller scoring, else the run's own
            found[step][0][task], found[step][1][task] = values, n_examples

    for path in sorted(evals.glob("*.json")):
        kept = io.read_json(path)
        add(kept["step"], kept["task"], kept["values"], kept["n_examples"])
    for path in sorted([*evals.glob("scores-*.parquet"), *evals.glob("tasks-*.parquet")]):
        scores = store.read(path)
        n_documents = _n_documents(scores)
        for task, values in metrics.of_store(scores).items():
            add(int(path.stem.split("-")[1]), task, values, n_documents[task])
    return found


def _n_documents(scores: pd.DataFrame) -> dict[str, int]:
    return {str(task): rows["doc"].nunique() for task, rows in scores.groupby("task", sort=False)}
