"""The published runs, and their forecasts by every procedure of the paper, each fitted once."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import pandas as pd

from experiments.task_ladders.config import CHANCE, LADDER
from fitting.forecast import predict
from fitting.forecast.predict import TaskForecast
from fitting.laws import CHINCHILLA, COMPUTE_ONLY, RISING, SIGMOID, SINGLE_STEP, Law
from fitting.observations import select
from fitting.observations.build import TaskData, observe, under_law, with_targets
from fitting.observations.preparation import MAIN_TASKS, PAPER, Preparation
from fitting.observations.select import TargetRun
from fitting.solve.fit import Fit
from fitting.solve.lbfgs import fit_link

VARIANTS: dict[str, tuple[Law, Preparation]] = {
    "bpb": (CHINCHILLA, PAPER["bpb"]),
    "c4": (CHINCHILLA, PAPER["lm_loss"]),
    "task_ce": (CHINCHILLA, PAPER["task_ce"]),
    "compute": (COMPUTE_ONLY, PAPER["bpb"]),
    "single": (SINGLE_STEP, PAPER["bpb"]),
    "accuracy": (RISING, PAPER["bpb"]),
}  # name -> law of N and D (or C), and how features are prepared
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
class PublishedRuns:
    """The table of published measurements, and the methods to fit with.

    Attributes:
        table: measurements of the ladder and its targets.
        methods: some of `METHODS`, in the same order.
    """

    table: pd.DataFrame
    methods: tuple[str, ...] = METHODS

    def data(self, variant: str, tasks: tuple[str, ...] = MAIN_TASKS) -> list[TaskData]:
        """The observations of the sixteen runs and both targets, one entry per task."""
        return [self._task(variant, task) for task in tasks]

    @functools.cache  # noqa: B019 (lives as long as the study)
    def _task(self, variant: str, task: str) -> TaskData:
        law, preparation = VARIANTS[variant]
        if variant != "bpb" and preparation is PAPER["bpb"]:
            return under_law(self._task("bpb", task), law)
        runs, targets = self._runs
        return with_targets(observe(self.table, task, runs, preparation, law), self.table, targets)

    @functools.cached_property
    def _runs(self) -> tuple[list[str], list[TargetRun]]:
        """The runs in the table's order, and the targets.

        The order matters: paper-mode searches of task CE of HellaSwag and OpenBookQA end at other
        parameters if the same runs come in another order.
        """
        targets = [select.parse_target(self.table, name) for name in TARGETS]
        return select.select_runs(self.table, GRID), targets

    @functools.cache  # noqa: B019
    def forecasts(
        self, variant: str, method: str, tasks: tuple[str, ...] = MAIN_TASKS
    ) -> list[TaskForecast]:
        """Forecasts of both targets from all sixteen runs."""
        return predict.of_tasks(self.data(variant, tasks), method)

    def link(self, forecast: TaskForecast, method: str) -> Fit:
        """The fit of step 2 alone; in the paper's code it starts from a = chance - 1."""
        assert forecast.step2 is not None
        if method != "paper" or forecast.step2.curve is not SIGMOID:
            return forecast.step2
        first, *others = SIGMOID.params
        start = replace(first, start=CHANCE[forecast.task] - 1)
        fitted = forecast.data.observations
        link = replace(SIGMOID, params=(start, *others))
        return fit_link(link, fitted.feature, fitted.accuracy)
