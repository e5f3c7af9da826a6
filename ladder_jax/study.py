"""A study: the runs of an experiment trained, measured, forecast, scored and reported.

`Study.run` does everything, as `ladder run` does; a notebook calls the steps one by one.  A step
that is called again keeps the finished work in the directory and does only the rest.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

import ladder_jax
from fitting import table
from fitting.errors import InputError, first_line
from fitting.io import write_csv
from ladder_jax import config, config_text, launch
from ladder_jax import experiment as experiments
from ladder_jax.config import RunConfig
from ladder_jax.data.pipeline import prepare
from ladder_jax.experiment import Experiment
from ladder_jax.measurements import own_runs
from ladder_jax.models import counts
from ladder_jax.runtime import compilation, versions
from ladder_jax.runtime.paths import cache_dir
from ladder_jax.training import run_directory

_LEVELS = (0.95,)  # levels of the intervals if the experiment gives none
_LOCK, _PREDICTIONS, _MEASUREMENTS = "predictions.lock", "predictions.csv", "measurements.csv"


@dataclass(frozen=True)
class LockedForecast:
    """A forecast of the targets, made only from the grid's measurements.

    Attributes:
        forecasts: one forecast for each task and text that can be forecast.
        controls: forecasts of tasks on which the grid's runs differ no more than by chance.
        lock: content of `predictions.lock`.
    """

    forecasts: list[Any]
    controls: list[Any]
    lock: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """The forecasts of the targets compared with their measurements.

    Attributes:
        page: path of `report/index.html`.
        predictions: table with the columns of `predictions.csv`.
        notes: text of a note -> the tasks for which it holds.
        n_tasks: number of tasks and texts that were forecast.
    """

    page: Path
    predictions: pd.DataFrame
    notes: dict[str, list[str]]
    n_tasks: int


class Study:
    """The steps of an experiment, in one directory.

    Args:
        experiment: an `Experiment`, the name of a shipped one, or the path of a file.
        out: the directory; `runs/`, `measurements.csv`, `predictions.csv` and `report/` are
            written into it.
        overrides: new values for all runs of dotted fields of `data`, `mesh` and
            `config.EXECUTION` (how models are computed): `{"data.path": "text"}`.
        executor: computes the runs; by default one worker process per core of this machine.

    Raises:
        InputError: there is no such experiment, or an override is not allowed or not valid.
    """

    def __init__(
        self,
        experiment: Experiment | str | Path,
        out: str | Path,
        overrides: Mapping[str, Any] | Sequence[str] = (),
        executor: launch.Executor | None = None,
    ) -> None:
        compilation.keep(cache_dir())
        made = isinstance(experiment, Experiment)
        self.experiment = experiment if made else experiments.load(experiment)
        if not str(out):
            raise InputError("`out` must name a directory")
        self.out = Path(out)
        ladder, arguments = self.experiment.ladder, _arguments(overrides)
        self.grid = [_overridden(run, arguments) for run in ladder.runs()]
        self.targets = [_overridden(t.run, arguments) for t in ladder.targets.values()]
        self.executor = executor or launch.Local(launch.default_workers(), cache_dir())
        self._open = contextlib.ExitStack()
        self._depth = 0
        self._forecast: LockedForecast | None = None

    def __enter__(self) -> Study:
        """Holds the directory and the executor until the end of the block; may be nested."""
        if self._depth == 0:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self.executor)
                stack.enter_context(launch.held(self.out))
                self._open = stack.pop_all()
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._open.__exit__(kind, e, tb)

    def run(self, targets: bool = True) -> Report | None:
        """All steps; None if there are no targets, or `targets` is false."""
        self.check(targets)
        with self:
            self.train(targets)
            self.measure()
            if not (self.targets and targets):
                return None
            self.forecast()
            self.score_targets()
            return self.report()

    def check(self, targets: bool = True) -> None:
        """Checks all that can be checked before anything is written.

        Raises:
            InputError: a target was scored before it was forecast, the experiment defines no
                forecast, runs were added after the forecast was locked, or the text cannot be read.
        """
        runs = [*self.grid, *self.targets]
        if self.targets:
            self._check_forecast()
        locked = self.out / _LOCK
        grown = launch.new_runs(runs, self.out)
        if targets and grown and locked.is_file():
            raise InputError(
                f"{locked}: its forecast was made without run {grown[0]!r}: use another `out`, or "
                "train the new runs alone (`ladder run --no-targets`)"
            )
        due = runs if targets else self.grid
        todo = [r for r in due if not run_directory.is_done(r, launch.run_directory(self.out, r))]
        for data, seq_len in dict.fromkeys((run.data, run.model.seq_len) for run in todo):
            prepare(data, seq_len, cache_dir())

    def train(self, targets: bool = True) -> None:
        """Trains and scores the grid; with `targets`, trains the targets without scoring them."""
        with self:
            self._claim()
            runs = [*self.grid, *self.targets] if targets else self.grid
            withheld = {run.name for run in self.targets}
            launch.execute(runs, self.out, self.executor, withheld=withheld)

    def measure(self) -> pd.DataFrame:
        """Writes and returns `measurements.csv`: all scores of all runs so far."""
        runs = sorted(launch.run_directory(self.out, r) for r in [*self.grid, *self.targets])
        frame = own_runs.of_runs([r for r in runs if (r / "config.json").is_file()], self.out)
        table.write(frame, self.out / _MEASUREMENTS)
        return frame

    def forecast(self) -> LockedForecast:
        """Forecasts the targets only from the grid's measurements, and locks the forecast.

        Raises:
            InputError: the forecast cannot be made, or differs from the one that is locked already.
        """
        from fitting.evaluation import lock
        from fitting.forecast import diagnose, predict

        with self:
            manifest, spec = self._claim(), self._spec()
            frame = self.measure()
            fitted = frame[frame["run"].isin([run.name for run in self.grid])]
            every = predict.forecast(fitted, spec)
            controls = [forecast for forecast in every if diagnose.is_control(forecast)]
            forecasts = [forecast for forecast in every if not diagnose.is_control(forecast)]
            predictions, path = predict.to_frame(forecasts), self.out / _LOCK
            settings = {"levels": list(_LEVELS)} | dict(self.experiment.forecast or {})
            config_of = manifest | lock.config_of(forecasts, spec.train, settings)
            made = lock.make(predictions, fitted, config_of, ladder_jax.__version__)
            if not path.is_file():
                write_csv(predictions, self.out / _PREDICTIONS)
            lock.hold(made, path)
            self._forecast = LockedForecast(forecasts, controls, made)
            return self._forecast

    def score_targets(self) -> None:
        """Scores the targets, whose forecast must be locked.

        Raises:
            InputError: no forecast is locked.
        """
        if not (self.out / _LOCK).is_file():
            raise InputError(f"{self.out}: lock the forecast before the targets are scored")
        with self:
            launch.execute(self.targets, self.out, self.executor)

    def report(self) -> Report:
        """Writes `predictions.csv` with the measured values, and the report with its figures."""
        from fitting.forecast import diagnose, predict
        from fitting.report import report

        made = self._forecast or self.forecast()
        with self:
            frame = self.measure()
            forecasts = [predict.compare(forecast, frame) for forecast in made.forecasts]
            controls = [predict.compare(control, frame) for control in made.controls]
            predictions = predict.to_frame(forecasts)
            write_csv(predictions, self.out / _PREDICTIONS)
            tested, failed = self._backtest(frame, forecasts)
            provenance = {
                "forecast, SHA-256": made.lock["sha256"],
                "measurements fitted, SHA-256": made.lock["data_sha256"],
                "config, SHA-256": made.lock["config_sha256"],
            } | versions.environment()
            title = f"Forecast of {', '.join(dict.fromkeys(predictions['target']))}"
            page = report.write(
                self.out / "report", title, forecasts, controls, frame, provenance, tested
            )
        notes = diagnose.warnings(forecasts)
        notes |= {f"backtest, {text}": ["the report"] for text in failed}
        return Report(page, predictions, notes, len(forecasts))

    def _claim(self) -> dict[str, Any]:
        runs = [*self.grid, *self.targets]
        return launch.claim_manifest(self.experiment.name, runs, self.out)

    def _check_forecast(self) -> None:
        where = self.experiment.path or self.experiment.name
        if self.experiment.forecast is None:
            raise InputError(f"{where}: has targets and no FORECAST: add FORECAST = {{}}")
        self._spec()
        if (self.out / _LOCK).is_file():
            return
        for run in self.targets:
            if any((launch.run_directory(self.out, run) / "evals").glob("*")):
                raise InputError(
                    f"{self.out}: {run.name} was scored before its forecast was locked, so it "
                    "would test nothing: use another `out`"
                )

    def _spec(self) -> Any:
        """The `ForecastSpec` of the targets."""
        from fitting.forecast.spec import ForecastSpec
        from fitting.observations.select import TargetRun

        ladder, settings = self.experiment.ladder, dict(self.experiment.forecast or {})
        targets = []
        for target in ladder.targets.values():
            model, n_tokens = target.run.model, target.n_tokens
            flops = counts.flops_per_token(model) * n_tokens
            targets.append(TargetRun(target.run.name, counts.n_params(model), n_tokens, flops))
        own = [Path(t).stem if t.endswith(".jsonl") else t for t in ladder.base.eval.tasks]
        fixed = {"train": [r.name for r in self.grid], "targets": targets,
                 "tasks": ["heldout", *own]}  # fmt: skip
        where = f"{self.experiment.path or self.experiment.name}: FORECAST"
        allowed = [f.name for f in fields(ForecastSpec) if f.name not in fixed]
        for name in settings:
            if name not in allowed:
                raise InputError(f"{where}: no field {name!r}: use {', '.join(allowed)}")
        try:
            return ForecastSpec(**{"levels": _LEVELS, **settings, **fixed})
        except (TypeError, AttributeError, InputError) as e:
            raise InputError(f"{where}: {first_line(e)}: correct it") from None

    def _backtest(
        self, frame: pd.DataFrame, forecasts: Sequence[Any]
    ) -> tuple[pd.DataFrame | None, list[str]]:
        """Backtest of every method on the grid (None if impossible), and what failed."""
        from fitting.evaluation import backtest
        from fitting.evaluation.ladders import MeasuredLadder
        from fitting.evaluation.splits import FEWEST_SIZES

        tasks = [forecast.task for forecast in forecasts if "acc" in forecast.columns]
        if len(self.experiment.ladder.sizes) < FEWEST_SIZES or not tasks:
            return None, []
        spec = replace(self._spec(), targets=(), new_items=False)
        methods = {name: replace(spec, method=name) for name in backtest.COMPARED}
        try:
            ladder = MeasuredLadder(self.experiment.name, frame, spec.train, tasks, spec.chance)
            scores = backtest.run(backtest.plan([ladder], methods))
            return scores.cells, scores.failures
        except InputError as e:  # the forecast is valid without it
            return None, [str(e)]


def _arguments(overrides: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Overrides as `config_text.override` takes them."""
    if not isinstance(overrides, Mapping):
        return list(overrides)
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in overrides.items()}
    return [f"--{key}={text}" for key, text in texts.items()]


def _overridden(run: RunConfig, arguments: Sequence[str]) -> RunConfig:
    """A run with overrides of its data, its mesh, and how it is computed."""
    allowed = ("--data.", "--mesh.", *(f"--{key}" for key in config.EXECUTION))
    for text in arguments:
        if text.startswith("--") and not text.startswith(allowed):
            name = text.lstrip("-").split("=")[0]
            raise InputError(
                f"`{name}`: only data.*, mesh.* and how models are computed can be changed for all "
                "runs; the rest is the experiment's config"
            )
    return config_text.override(run, arguments)
