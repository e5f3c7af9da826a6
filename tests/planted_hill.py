"""Ladders whose accuracies follow Hill curves of a planted loss, one evaluation a run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fitting.forecast import ForecastSpec, TaskForecast, forecast
from fitting.laws import CHINCHILLA
from fitting.laws.curves import predict
from fitting.table import COLUMNS, validate
from tests.planted import STEP1

GRID = tuple((n, 20 * n * m) for n in (2e8, 4e8, 8e8, 1.3e9) for m in (1, 2, 5, 10))
TARGET = "ahead=3e9,6e11"
HALF, STEEPNESS = 1.1, 5.0  # of the curve of `task`


def log_loss(cells=GRID) -> np.ndarray:
    """The planted law's log losses at cells of (N, D)."""
    return np.log(predict(CHINCHILLA, STEP1, np.array(cells, float)))


def hill(log_losses, chance=0.25, top=1.0, half=HALF, steepness=STEEPNESS):
    """Accuracies at log losses."""
    fallen = np.exp(steepness * (log_losses - np.log(half)))
    return chance + (top - chance) / (1 + fallen)


TRUE = float(hill(log_loss([(3e9, 6e11)]))[0])


def ladder(
    losses: Mapping[str, np.ndarray], accuracies: Mapping[str, np.ndarray], cells=GRID
) -> pd.DataFrame:
    """A table of the runs `r0`, `r1`, ...

    Args:
        losses: task or `TEXT:lm_loss` -> losses of the runs.
        accuracies: task -> accuracies of the runs.
        cells: N and D of the runs.
    """
    columns = [(*f"{name}:bpb".split(":")[:2], values) for name, values in losses.items()]
    columns += [(name, "acc", values) for name, values in accuracies.items()]
    rows = [
        {"run": f"r{i}", "size": f"{n:.1e}", "multiple": d / n / 20, "seed": 0, "step": 100,
         "n_params": int(n), "n_params_total": int(n), "n_tokens": int(d), "flops": 6 * n * d,
         "task": task, "metric": metric, "value": float(values[i]), "n_examples": 1000}
        for task, metric, values in columns for i, (n, d) in enumerate(cells)
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    assert validate(frame) == []
    return frame


def noisy(seed: int, of_loss: float, of_accuracy: float = 0.005, **curve) -> pd.DataFrame:
    """One task; its measured losses are off the law, its accuracies follow the law's own losses."""
    rng = np.random.default_rng(seed)
    true = log_loss()
    measured = np.exp(true + of_loss * rng.standard_normal(len(true)))
    accuracy = hill(true, **curve) + of_accuracy * rng.standard_normal(len(true))
    return ladder({"task": measured}, {"task": np.clip(accuracy, 0, 1)})


def made(frame, tasks=("task",), method="laplace", targets=(TARGET,), **settings):
    """Forecasts, as many as there are tasks."""
    settings = {"chance": {"task": 0.25}} | settings
    return forecast(frame, ForecastSpec(["r*"], targets, list(tasks), method, **settings))


def interval(one: TaskForecast, side: str = "acc", target: int = 0) -> tuple[float, float]:
    """The central 95 % interval."""
    low, high = np.interp([0.025, 0.975], one.p, one.quantiles[side][target])
    return float(low), float(high)
