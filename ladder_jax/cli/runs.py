"""Ladders and their runs: plan, run, status, train."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from fitting import table
from fitting.errors import InputError
from ladder_jax.cli import show
from ladder_jax.cli.forecasts import write_predictions

_RUN_LEVELS = [0.95]  # of the intervals of `ladder run`


def plan(args: argparse.Namespace) -> None:
    """Prints a ladder and its cost."""
    from ladder_jax import ladder

    result = ladder.plan(_experiment(args.experiment).LADDER)
    if args.json:
        print(json.dumps(result, indent=2))
        return
    columns = ("run", "n_params", "n_tokens", "steps", "batch_seqs", "lr_peak", "warmup_steps",
               "flops")  # fmt: skip
    rows = [[show.cell(row[c]) for c in columns] for row in result["runs"] + result["targets"]]
    show.columns([list(columns), *rows])
    for target, share in result["cost"]["ladder_share_of"].items():
        name = "all targets together" if target == "all" else target
        print(f"the ladder costs {share:.2%} of {name} ({result['cost']['convention']})")


def _runs(experiment: str) -> list[Any]:
    ladder = _experiment(experiment).LADDER
    return [*ladder.runs(), *(target.run for target in ladder.targets.values())]


def run(args: argparse.Namespace) -> None:
    """Trains a ladder, locks the forecast of its targets, scores them, compares."""
    from ladder_jax import launch

    if not args.out:
        raise InputError("--out must name a directory")
    experiment, out = _experiment(args.experiment), Path(args.out)
    ladder = experiment.LADDER
    grid = _overridden(ladder.runs(), args.overrides)
    targets = _overridden([target.run for target in ladder.targets.values()], args.overrides)
    executor = _executor(args, out, {run.size for run in [*grid, *targets]})
    if targets:
        _check_blind(experiment, targets, out)
    runs = grid if args.no_targets else [*grid, *targets]
    _check_data(runs, out)
    with executor, launch.held(out):
        manifest = launch.claim_manifest(args.experiment, [*grid, *targets], out)
        launch.execute(runs, out, executor, withheld={run.name for run in targets})
        frame = _measure_runs(runs, out)
        if not targets or args.no_targets:
            return
        forecasts, controls, lock = _forecast_targets(experiment, frame, manifest, out)
        print(f"{out / 'predictions.lock'}: the forecast is written; now the target is scored")
        launch.execute(targets, out, executor)
        frame = _measure_runs(runs, out)
        _report_targets(experiment, forecasts, controls, frame, lock, out)


def _overridden(runs: list[Any], overrides: list[str]) -> list[Any]:
    """Runs under what the command line says of data and machines; the rest is the experiment's."""
    from ladder_jax import config, config_text

    allowed = ("--data.", "--mesh.", *(f"--{key}" for key in config.EXECUTION))
    for text in overrides:
        if text.startswith("--") and not text.startswith(allowed):
            raise InputError(
                f"{text}: ladder run changes --data.*, --mesh.* and how models are computed alone; "
                "the rest is the experiment's config"
            )
    return [config_text.override(run, overrides) for run in runs]


def _executor(args: argparse.Namespace, out: Path, sizes: set[str]) -> Any:
    """What the flags ask for; flags of another executor are not passed over."""
    from ladder_jax import launch
    from ladder_jax.runtime.paths import cache_dir

    given = {"local": args.workers, "ray": args.resources, "slurm": args.slurm}
    for kind, value in given.items():
        if value and kind != args.executor:
            raise InputError(f"--executor {args.executor} takes no flags of {kind}: remove them")
    if args.executor == "ray":
        from ladder_jax.launch.on_ray import Ray

        wanted = launch.Demands.parse(args.resources, "--resources", sizes)
        return Ray(out, args.address, wanted)
    if args.executor == "slurm":
        from ladder_jax.launch.on_slurm import Slurm

        return Slurm(out, launch.Demands.parse(args.slurm, "--slurm", sizes))
    return launch.Local(args.workers or launch.default_workers(), cache_dir())


def _check_data(runs: list[Any], out: Path) -> None:
    """Prepares the text that is still needed, or complains, before anything is written."""
    from ladder_jax import launch
    from ladder_jax.data.pipeline import prepare
    from ladder_jax.runtime.paths import cache_dir
    from ladder_jax.training import run_directory

    todo = [run for run in runs if not run_directory.is_done(run, launch.run_directory(out, run))]
    for data, seq_len in dict.fromkeys((run.data, run.model.seq_len) for run in todo):
        prepare(data, seq_len, cache_dir())


def _check_blind(experiment: Any, targets: list[Any], out: Path) -> None:
    """Complains before any work of what would spoil the forecast."""
    from ladder_jax import launch

    if not hasattr(experiment, "FORECAST"):
        raise InputError("the experiment's config has targets and no FORECAST: add one, {} will do")
    for run in targets:
        scored = any((launch.run_directory(out, run) / "evals").glob("*"))
        if scored and not (out / "predictions.lock").is_file():
            raise InputError(
                f"{out}: {run.name} was scored before its forecast was locked: it would test "
                "nothing; use another --out"
            )


def _measure_runs(runs: list[Any], out: Path) -> Any:
    from ladder_jax import launch
    from ladder_jax.measurements import own_runs

    frame = own_runs.of_runs(sorted(launch.run_directory(out, run) for run in runs), out)
    table.write(frame, out / "measurements.csv")
    print(
        f"{out / 'measurements.csv'}: {len(frame):,} measurements of {frame['run'].nunique()} runs"
    )
    return frame


def _forecast_targets(
    experiment: Any, frame: Any, manifest: dict[str, Any], out: Path
) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Forecasts, controls and lock, from the grid's measurements alone; files what is forecast."""
    import ladder_jax
    from fitting.evaluation import lock
    from fitting.forecast import ForecastSpec, diagnose, predict
    from fitting.observations.select import TargetRun
    from ladder_jax.models import counts

    ladder, settings = experiment.LADDER, {"levels": _RUN_LEVELS} | experiment.FORECAST
    grid = [run.name for run in ladder.runs()]
    targets = [
        TargetRun(
            target.run.name,
            counts.n_params(target.run.model),
            target.n_tokens,
            counts.flops_per_token(target.run.model) * target.n_tokens,
        )
        for target in ladder.targets.values()
    ]
    fitted = frame[frame["run"].isin(grid)]
    own = [Path(t).stem if t.endswith(".jsonl") else t for t in ladder.base.eval.tasks]
    tasks = ["heldout", *own]
    every = predict.forecast(fitted, ForecastSpec(grid, targets, tasks, **settings))
    controls = [forecast for forecast in every if diagnose.is_control(forecast)]
    forecasts = [forecast for forecast in every if not diagnose.is_control(forecast)]
    predictions, path = predict.to_frame(forecasts), out / "predictions.lock"
    config = manifest | lock.config_of(forecasts, grid, settings)
    made = lock.make(predictions, fitted, config, ladder_jax.__version__)
    if not path.is_file():
        write_predictions(predictions, out / "predictions.csv")
    lock.hold(made, path)
    return forecasts, controls, made


def _report_targets(
    experiment: Any,
    forecasts: list[Any],
    controls: list[Any],
    frame: Any,
    lock: dict[str, Any],
    out: Path,
) -> None:
    """Holds the forecasts against the measured targets: predictions.csv and the report."""
    from fitting.forecast import diagnose, predict
    from fitting.report import report
    from ladder_jax.runtime import versions

    forecasts = [predict.compare(forecast, frame) for forecast in forecasts]
    predictions = predict.to_frame(forecasts)
    write_predictions(predictions, out / "predictions.csv")
    show.predictions(predictions)
    show.notes(diagnose.warnings(forecasts), len(forecasts))
    provenance = {
        "forecast, SHA-256": lock["sha256"],
        "measurements fitted, SHA-256": lock["data_sha256"],
        "config, SHA-256": lock["config_sha256"],
    } | versions.environment()
    targets = ", ".join(dict.fromkeys(predictions["target"]))
    controls = [predict.compare(control, frame) for control in controls]
    scored = [forecast.task for forecast in forecasts if "acc" in forecast.columns]
    tested, failed = _held_out(experiment, frame, scored)
    show.notes({f"backtest, {text}": ["the report"] for text in failed}, 0)
    print(report.write(
        out / "report", f"Forecast of {targets}", forecasts, controls, frame, provenance, tested
    ))  # fmt: skip


def _held_out(experiment: Any, frame: Any, tasks: list[str]) -> tuple[Any, list[str]]:
    """Cells of a backtest of every method inside the grid, if there can be one, and complaints."""
    from fitting.evaluation import backtest
    from fitting.forecast import ForecastSpec

    grid = [run.name for run in experiment.LADDER.runs()]
    if len(experiment.LADDER.sizes) < backtest.FEWEST_SIZES or not tasks:
        return None, []
    own: dict[str, Any] = {**experiment.FORECAST, "tasks": tasks, "new_items": False}
    methods = {name: ForecastSpec(**dict(own, method=name)) for name in backtest.COMPARED}
    try:
        return backtest.run(frame, grid, methods)
    except InputError as e:  # the forecast stands without it
        return None, [str(e)]


def status(args: argparse.Namespace) -> None:
    """Prints how far the runs of an experiment are."""
    from ladder_jax import launch

    out = Path(args.directory)
    experiment, runs = launch.read_manifest(out)
    if args.json:
        rows = [launch.progress(run, launch.run_directory(out, run)) for run in runs]
        print(json.dumps({"experiment": experiment, "runs": rows}, indent=2))
    else:
        launch.console().print(launch.status_table(runs, out))


def train(args: argparse.Namespace) -> None:
    """Trains and scores one run."""
    from ladder_jax.config import RunConfig
    from ladder_jax.config_text import load_json, override
    from ladder_jax.runtime import compilation, preemption
    from ladder_jax.runtime.paths import cache_dir

    preemption.end_when_told()  # until training watches
    compilation.keep(cache_dir())  # before what follows imports JAX
    compilation.hold_memory()
    if Path(args.config).suffix == ".json":
        run = load_json(RunConfig, args.config)
    else:
        experiment, _, name = args.config.partition("/")
        known = {run.name: run for run in _runs(experiment)}
        if name not in known:
            raise InputError(f"{experiment} has no run {name!r}; it has {', '.join(known)}")
        run = known[name]
    run = override(run, args.overrides)
    if not args.out:
        raise InputError("--out is empty: name a directory")

    from ladder_jax import parallel
    from ladder_jax.eval.runs import train_and_score
    from ladder_jax.runtime import distributed
    from ladder_jax.training import loop as training

    distributed.initialize(args.coordinator, args.process_count, args.process_id)
    bar = sys.stderr.isatty()
    if args.no_score:
        training.train(run, Path(args.out), cache_dir(), progress=bar)
    else:
        train_and_score(run, Path(args.out), cache_dir(), progress=bar)
    if parallel.is_primary() and not args.no_score:
        print(
            f"{args.out}: {run.name} is trained and scored; "
            f"ladder measure --runs {args.out} --out FILE"
        )


def _experiment(name: str) -> Any:
    try:
        return importlib.import_module(f"experiments.{name}.config")
    except ModuleNotFoundError:
        import experiments

        found = sorted(p.parent.name for p in Path(experiments.__path__[0]).glob("*/config.py"))
        raise InputError(f"no experiment {name!r}; there are: {', '.join(found)}") from None
