"""Our own runs -> one measurement table; `olmo_ladder` and `lm_eval_results` import others'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fitting.table import COLUMNS, INTEGER_COLUMNS, InputError
from ladder_jax import tracking
from ladder_jax.config import RunConfig, load_json
from ladder_jax.eval import metrics, store
from ladder_jax.models import counts


def from_runs(directory: str | Path) -> pd.DataFrame:
    """Collects our own runs: every measured step of every run below a directory.

    Raises:
        InputError: there is no run, or none has been measured.
    """
    directory = Path(directory)
    found = sorted(path.parent for path in directory.rglob("config.json"))
    if not found:
        raise InputError(f"{directory}: holds no run (no config.json below it)")
    return of_runs(found, directory)


def of_runs(runs: Sequence[Path], directory: Path) -> pd.DataFrame:
    """Collects these runs alone, as far as they have been measured; see `from_runs`."""
    rows = [row for run in runs for row in _run_rows(run)]
    if not rows:
        raise InputError(f"{directory}: no run has been measured yet; train it to a checkpoint")
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({column: "Int64" for column in INTEGER_COLUMNS})


def _run_rows(directory: Path) -> list[dict[str, Any]]:
    run = load_json(RunConfig, directory / "config.json")
    rates = {row["step"]: row["lr"] for row in tracking.read(directory)}
    known = {
        "run": run.name,
        "size": run.size,
        "multiple": run.multiple or np.nan,
        "seed": run.seed,
        "n_params": counts.n_params(run.model),
        "n_params_total": counts.n_params_total(run.model),
        "lr_peak": run.optim.lr_peak,
    }
    rows = []
    for step, task, values, n_examples in _measured(directory / "evals"):
        n_tokens = step * run.batch_tokens
        at = {
            "step": step,
            "n_tokens": n_tokens,
            "flops": n_tokens * counts.flops_per_token(run.model),
            "lr": rates.get(step, np.nan),
            "task": task,
            "n_examples": n_examples,
        }
        rows += [known | at | {"metric": m, "value": v} for m, v in values.items()]
    return rows


def _measured(evals: Path) -> Iterator[tuple[int, str, dict[str, float], int]]:
    """(step, task, metrics, examples): recorded ones, and those recomputed from score stores."""
    for path in sorted(evals.glob("*.json")):
        kept = tracking.read_json(path)
        yield kept["step"], kept["task"], kept["values"], kept["n_examples"]
    for path in sorted(evals.glob("scores-*.parquet")):
        scores = store.read(path)
        for task, values in metrics.of_store(scores).items():
            n_examples = scores.loc[scores["task"] == task, "doc"].nunique()
            yield int(path.stem.removeprefix("scores-")), task, values, n_examples
