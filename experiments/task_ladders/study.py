"""The published runs, and every way the paper fits them, each fitted once."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from experiments.task_ladders.config import CHANCE, LADDER
from fitting import predict
from fitting.gather import TaskData
from fitting.laws import RISING, SIGMOID
from fitting.optimise import Fit, fit_link
from fitting.points import MAIN_TASKS
from fitting.predict import TaskForecast

VARIANTS: dict[str, dict[str, Any]] = {
    "bpb": {},
    "c4": {"feature": "lm_loss"},
    "task_ce": {"feature": "task_ce"},
    "compute": {"inputs": "c"},
    "single": {"steps": "one"},
    "accuracy": {"law": RISING},
}  # name -> arguments of `fitting.predict.forecast`
VARIANT_WORDS = {
    "bpb": "bits per byte",
    "c4": "C4 loss",
    "task_ce": "task CE",
    "compute": "compute alone",
    "single": "single step",
    "accuracy": "accuracy itself",
}
GRID = [run.name for run in LADDER.runs()]
TARGETS = list(LADDER.targets)
METHODS = ("paper", "least-squares")


@dataclass(frozen=True, eq=False)
class Study:
    """The table, and the methods asked for.

    Attributes:
        table: measurements of the ladder and its targets.
        methods: of `METHODS`, in their order.
    """

    table: pd.DataFrame
    methods: tuple[str, ...] = METHODS

    @functools.cache  # noqa: B019 (lives as long as the study)
    def forecasts(
        self, variant: str, method: str, tasks: tuple[str, ...] = MAIN_TASKS
    ) -> list[TaskForecast]:
        """Forecasts of both targets from all sixteen runs."""
        return predict.forecast(self.table, GRID, TARGETS, tasks, method, **VARIANTS[variant])

    def points(self, variant: str, tasks: tuple[str, ...] = MAIN_TASKS) -> list[TaskData]:
        """What the fits of a variant were made of."""
        return [forecast.data for forecast in self.forecasts(variant, self.methods[0], tasks)]

    def link(self, forecast: TaskForecast, method: str) -> Fit:
        """Step 2 alone: the paper's command for it starts from a = chance - 1, not from -1."""
        assert forecast.step2 is not None
        if method != "paper" or forecast.step2.curve is not SIGMOID:
            return forecast.step2
        first, *others = SIGMOID.params
        start = replace(first, start=CHANCE[forecast.task] - 1)
        points = forecast.data.points
        return fit_link(replace(SIGMOID, params=(start, *others)), points.feature, points.accuracy)
