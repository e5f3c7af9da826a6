"""Backtests: each method forecasts known runs, the larger sizes, which are held out in turn.

Methods are chosen by these extrapolations inside ladders; the targets are then scored only once.

    trials = backtest.plan([MeasuredLadder("mine", table)], {"bayes": ForecastSpec(method="bayes")})
    scores = backtest.run(trials)
    print(summary.summary(scores.cells))
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from fitting.errors import InputError
from fitting.evaluation.ladders import MeasuredLadder
from fitting.evaluation.splits import Split, splits
from fitting.forecast import distribution, predict
from fitting.forecast.parts import first_data, prepare
from fitting.forecast.predict import TaskForecast
from fitting.forecast.spec import ForecastSpec
from fitting.observations import select
from fitting.observations.build import TaskData
from fitting.posterior.bayes import Posterior

LEVELS = (0.5, 0.8, 0.95)
COMPARED = ("bayes", "bootstrap", "least-squares", "paper")  # in a report
TARGETS = "targets"  # the split of targets, which are scored apart
CELL_COLUMNS = (
    "ladder", "split", "method", "kind", "task", "target", "pred", "actual", "abs_error", "crps",
    *(f"{side}_{level:g}" for level in LEVELS for side in ("lo", "hi")), "interval_score",
    "failed_checks",
)  # fmt: skip
_TINY = 1e-300  # least loss whose logarithm is taken
_QUIET_S = 60.0  # seconds between two lines of progress, where there is no terminal


@dataclass(frozen=True)
class Trial:
    """One fit: of a split of a ladder by a method.

    Attributes:
        ladder: its name.
        split: its name.
        method: name of the method, as in the plan.
        table: measurements; held-out runs only have their last evaluations.
        spec: what is fitted and forecast.
        data: the tasks, prepared, with what was measured of the held-out runs.
    """

    ladder: str
    split: str
    method: str
    table: pd.DataFrame
    spec: ForecastSpec
    data: tuple[TaskData, ...]


class BacktestScores(NamedTuple):
    """Scores of forecasts.

    Attributes:
        cells: `CELL_COLUMNS`, one row per (ladder, split, method, measured value of a held-out
            run).  `kind` is `acc` or `loss`.  Of accuracies, errors and scores are fractions; of
            losses, those of their natural logarithms.  `failed_checks`: the fit failed its checks,
            or the forecast could not be made, which leaves the cells of its numbers empty.
        failures: one line for each forecast that could not be made, or failed its checks.
        fits: one row per posterior: `ladder`, `split`, `method`, `feature`, `step`, `engine` (NUTS,
            NUTS again, or Laplace) and NUTS's worst `r_hat`, `ess`, `divergent` and `bfmi`.
    """

    cells: pd.DataFrame
    failures: list[str]
    fits: pd.DataFrame


def plan(
    ladders: Sequence[MeasuredLadder],
    methods: Mapping[str, ForecastSpec],
    at_most: int | None = None,
) -> list[Trial]:
    """Lists the fits of a backtest; checks and prepares the data of every one of them.

    Args:
        ladders: whose larger sizes are held out; their targets are forecast last.
        methods: name -> spec with method and settings; runs, tasks, chance and levels are replaced.
        at_most: number of splits of a ladder; see `splits`.

    Raises:
        InputError: a ladder has too few sizes, lacks a task or a measurement, or holds out
            nothing that was measured.
    """
    names = [ladder.name for ladder in ladders]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two ladders are named {name!r}: rename one")
    trials: list[Trial] = []
    for ladder in ladders:
        try:
            trials += _trials_of(ladder, methods, at_most)
        except InputError as e:
            raise InputError(f"{ladder.name}: {e}" if len(names) > 1 else str(e)) from None
    return sorted(trials, key=lambda trial: trial.split == TARGETS)


def _trials_of(
    ladder: MeasuredLadder, methods: Mapping[str, ForecastSpec], at_most: int | None
) -> list[Trial]:
    runs, labels = ladder.runs, ladder.labels
    parts = splits(ladder.table, runs, at_most)
    if ladder.targets:
        _check_targets(ladder.table, runs, ladder.targets)
        parts[TARGETS] = Split(runs, ladder.targets)
    trials = []
    for name, (train, held_out) in parts.items():
        table = select.without_early_evaluations(ladder.table, held_out)
        for method, settings in methods.items():
            spec = replace(
                settings, train=select.literal(train), targets=held_out, tasks=labels,
                chance=ladder.chance, levels=LEVELS,
            )  # fmt: skip
            data = tuple(first_data(prepare(table, spec)))
            _check_measured(name, data)
            trials.append(Trial(ladder.name, name, method, table, spec, data))
    return trials


def _check_targets(table: pd.DataFrame, runs: Sequence[str], targets: Sequence[str]) -> None:
    for name in targets:
        if name in runs:
            raise InputError(f"`targets` {name} is also in `train`: leave it out of one")
        if not (table["run"] == name).any():
            raise InputError(f"`targets` {name!r} is not in the table: name a measured run")


def _check_measured(split: str, data: Sequence[TaskData]) -> None:
    """Raises InputError if nothing was measured of the held-out runs, or a loss of 0."""
    values = np.array([task.measured[["loss", "acc"]].to_numpy(float) for task in data])
    if not np.isfinite(values).any():
        raise InputError(f"{split}: nothing that is forecast of the held-out runs was measured")
    for task in data:
        zero = task.measured.loc[task.measured["loss"] == 0, "run"].tolist()
        select.refuse({f"a loss of 0 for {task.task!r}": zero}, "leave out with `exclude`")


def run(trials: Sequence[Trial], progress: bool = True) -> BacktestScores:
    """Makes the forecasts of a plan and scores them.

    Args:
        trials: the result of `plan`.
        progress: whether to show progress and the time left.

    Raises:
        InputError: no forecast could be made.
    """
    cells, failures, fits = [], [], []
    for trial in _with_progress(trials) if progress else trials:
        made: Sequence[TaskForecast | None] = [None] * len(trial.data)
        try:
            made = predict.forecast(trial.table, trial.spec)
            posteriors = {name: p for one in made for name, p in one.posteriors.items()}
            problems = dict.fromkeys(text for p in posteriors.values() for text in p.problems)
            fits += _fits(trial, posteriors)
        except InputError as e:
            problems = {str(e): None}
        failures += [f"{trial.ladder}, {trial.split}, {trial.method}: {text}" for text in problems]
        cells += _cells(trial, made, bool(problems))
    found = pd.DataFrame(cells, columns=list(CELL_COLUMNS))
    if found["pred"].isna().all():
        raise InputError(failures[0] if failures else "nothing to forecast: plan some ladders")
    return BacktestScores(found, failures, pd.DataFrame(fits))


def _fits(trial: Trial, posteriors: Mapping[str, Posterior]) -> list[dict[str, Any]]:
    """How each posterior was found, and its checks."""
    rows = []
    for feature, posterior in posteriors.items():
        for step, draws in posterior.steps.items():
            again = " again" if draws.attempts else ""
            row = {
                "ladder": trial.ladder, "split": trial.split, "method": trial.method,
                "feature": feature, "step": step,
                "engine": f"NUTS{again}" if draws.stats else "Laplace",
            }  # fmt: skip
            rows.append(row | draws.health)
    return rows


def _with_progress(trials: Sequence[Trial]) -> Iterator[Trial]:
    """The trials, with a bar on a terminal and a line now and then elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm(trials, desc="backtest", unit="fit", smoothing=0)
        return
    start = last = time.monotonic()
    for done, trial in enumerate(trials):
        now = time.monotonic()
        if now - last >= _QUIET_S and done:
            left = (now - start) / done * (len(trials) - done) / 60
            print(
                f"backtest: {done} of {len(trials)} fits, about {left:.0f} min left",
                file=sys.stderr,
            )
            last = now
        yield trial


def _cells(trial: Trial, made: Sequence[TaskForecast | None], failed: bool) -> list[dict[str, Any]]:
    """A row for each measured value; tasks that share a loss have it once."""
    cells: dict[tuple[str, str, str], dict[str, Any]] = {}
    for data, forecast in zip(trial.data, made, strict=True):
        for kind, (task, metric) in data.columns.items():
            for g, (target, actual) in enumerate(data.measured[["run", kind]].to_numpy(object)):
                if not np.isfinite(actual) or (task, metric, target) in cells:
                    continue
                cell = {
                    "ladder": trial.ladder, "split": trial.split, "method": trial.method,
                    "kind": kind, "task": task, "target": target, "actual": actual,
                    "failed_checks": failed,
                }  # fmt: skip
                if forecast is not None:
                    cell |= _scores(kind, forecast.p, forecast.quantiles[kind][g], actual)
                cells[task, metric, target] = cell
    return list(cells.values())


def _scores(kind: str, p: np.ndarray, quantiles: np.ndarray, actual: float) -> dict[str, float]:
    """Forecast, intervals and scores of one value, from quantiles (Q,) at p (Q,)."""
    if kind == "loss":
        scaled, measured = np.log(np.maximum(quantiles, _TINY)), float(np.log(actual))
    else:
        scaled, measured = np.clip(quantiles, 0.0, 1.0), actual
    middle = float(np.interp(0.5, p, scaled))
    ends = {level: distribution.interval(p, scaled, level) for level in LEVELS}
    low, high = (np.asarray(end) for end in ends[LEVELS[-1]])
    back = np.exp if kind == "loss" else float
    found = {
        "pred": float(back(middle)),
        "abs_error": abs(middle - measured),
        "crps": float(distribution.crps(p, scaled, np.asarray(measured))),
        "interval_score": float(
            distribution.interval_score(low, high, np.asarray(measured), LEVELS[-1])
        ),
    }
    for level, (lo, hi) in ends.items():
        found |= {f"lo_{level:g}": float(back(lo)), f"hi_{level:g}": float(back(hi))}
    return found
