"""The front door: `ladder COMMAND`.  Each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fitting import table
from fitting.table import InputError, Problem
from ladder_jax.arguments import parser

_SHOWN_PROBLEMS = 20
_RUN_LEVELS = [0.95]  # of the intervals of `ladder run`


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 only on success."""
    top = parser(_COMMANDS)
    args, extra = top.parse_known_args(arguments)
    if extra and args.command != "train":
        top.error(f"unrecognized arguments: {' '.join(extra)}")
    args.overrides = extra
    try:
        args.run(args)
    except InputError as e:
        print(f"ladder {args.command}: {e}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `ladder plan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(f"ladder {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _plan(args: argparse.Namespace) -> None:
    from ladder_jax.ladder import plan

    result = plan(_experiment(args.experiment).LADDER)
    if args.json:
        print(json.dumps(result, indent=2))
        return
    columns = ("run", "n_params", "n_tokens", "steps", "batch_seqs", "lr_peak", "warmup_steps",
               "flops")  # fmt: skip
    rows = [[_cell(row[c]) for c in columns] for row in result["runs"] + result["targets"]]
    _print_columns([list(columns), *rows])
    for target, share in result["cost"]["ladder_share_of"].items():
        name = "all targets together" if target == "all" else target
        print(f"the ladder costs {share:.2%} of {name} ({result['cost']['convention']})")


def _runs(experiment: str) -> list[Any]:
    ladder = _experiment(experiment).LADDER
    return [*ladder.runs(), *(target.run for target in ladder.targets.values())]


def _run(args: argparse.Namespace) -> None:
    from ladder_jax import launch
    from ladder_jax.download import cache_dir

    if not args.out or (args.workers is not None and args.workers < 1):
        raise InputError("--out must name a directory, and --workers be 1 or more")
    experiment, out = _experiment(args.experiment), Path(args.out)
    ladder = experiment.LADDER
    grid, targets = ladder.runs(), [target.run for target in ladder.targets.values()]
    if targets:
        _check_blind(experiment, targets, out)
    manifest = launch.claim_manifest(args.experiment, [*grid, *targets], out)
    workers = args.workers or launch.default_workers()
    withheld = {run.name for run in targets}
    launch.train_all([*grid, *targets], out, cache_dir(), workers, withheld)
    frame = _measure_runs([*grid, *targets], out)
    if not targets:
        return
    forecasts, controls, lock = _forecast_targets(experiment, frame, manifest, out)
    print(f"{out / 'predictions.lock'}: the forecast is written; now the target is scored")
    launch.train_all(targets, out, cache_dir(), workers)
    _report_targets(forecasts, controls, _measure_runs([*grid, *targets], out), lock, out)


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
    from ladder_jax import launch, measure

    frame = measure.of_runs(sorted(launch.run_directory(out, run) for run in runs), out)
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
    from fitting import diagnose, lock, predict
    from fitting.points import Target
    from ladder_jax.models import counts

    ladder, settings = experiment.LADDER, {"levels": _RUN_LEVELS} | experiment.FORECAST
    grid = [run.name for run in ladder.runs()]
    targets = [
        Target(
            target.run.name,
            counts.n_params(target.run.model),
            target.n_tokens,
            counts.flops_per_token(target.run.model) * target.n_tokens,
        )
        for target in ladder.targets.values()
    ]
    fitted = frame[frame["run"].isin(grid)]
    tasks = ["heldout", *ladder.base.eval.tasks]
    every = predict.forecast(fitted, grid, targets, tasks, **settings)
    controls = [forecast for forecast in every if diagnose.is_control(forecast)]
    forecasts = [forecast for forecast in every if not diagnose.is_control(forecast)]
    predictions, path = predict.to_frame(forecasts), out / "predictions.lock"
    made = lock.make(predictions, fitted, manifest | settings, ladder_jax.__version__)
    if not path.is_file():
        _write_predictions(predictions, out / "predictions.csv")
    lock.hold(made, path)
    return forecasts, controls, made


def _report_targets(
    forecasts: list[Any], controls: list[Any], frame: Any, lock: dict[str, Any], out: Path
) -> None:
    """Holds the forecasts against the measured targets: predictions.csv and the report."""
    from fitting import predict, report
    from ladder_jax import tracking

    forecasts = [predict.compare(forecast, frame) for forecast in forecasts]
    predictions = predict.to_frame(forecasts)
    _write_predictions(predictions, out / "predictions.csv")
    _print_predictions(predictions)
    _print_warnings(forecasts)
    provenance = {
        "forecast, SHA-256": lock["sha256"],
        "measurements fitted, SHA-256": lock["data_sha256"],
        "config, SHA-256": lock["config_sha256"],
    } | tracking.environment()
    targets = ", ".join(dict.fromkeys(predictions["target"]))
    controls = [predict.compare(control, frame) for control in controls]
    print(report.write(
        out / "report", f"Forecast of {targets}", forecasts, controls, frame, provenance
    ))  # fmt: skip


def _status(args: argparse.Namespace) -> None:
    import rich

    from ladder_jax import launch

    if not (Path(args.out) / "manifest.json").is_file():
        raise InputError(f"{args.out}: holds no experiment; ladder run writes it")
    rich.print(launch.status_table(_runs(args.experiment), Path(args.out)))


def _train(args: argparse.Namespace) -> None:
    from ladder_jax.config import RunConfig, load_json, override
    from ladder_jax.download import cache_dir

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

    from ladder_jax.score import train_and_score

    train_and_score(run, Path(args.out), cache_dir())
    print(
        f"{args.out}: {run.name} is trained and scored; ladder measure --runs {args.out} --out FILE"
    )


def _experiment(name: str) -> Any:
    try:
        return importlib.import_module(f"experiments.{name}.config")
    except ModuleNotFoundError:
        import experiments

        found = sorted(p.parent.name for p in Path(experiments.__path__[0]).glob("*/config.py"))
        raise InputError(f"no experiment {name!r}; there are: {', '.join(found)}") from None


def _download(args: argparse.Namespace) -> None:
    from ladder_jax import download

    print(download.olmo_ladder(args.source))


def _measure(args: argparse.Namespace) -> None:
    from ladder_jax import download, lm_eval_results, measure, olmo_ladder

    if args.runs == "":
        raise InputError("--runs is empty: name a directory")
    problems: list[Problem] = []
    if args.source == "olmo-ladder":
        frame, problems = olmo_ladder.from_olmo_ladder(args.runs or download.olmo_ladder())
    elif args.runs is None:
        wrote = {"runs": "`ladder run` or `train`", "lm-eval": "lm_eval --output_path"}
        raise InputError(f"--runs DIR is needed: where {wrote[args.source]} wrote")
    elif args.source == "lm-eval":
        frame, problems = lm_eval_results.from_lm_eval(args.runs)
    else:
        frame = measure.from_runs(args.runs)
    _report(problems, args.strict)
    table.write(frame, args.out)
    runs, tasks = frame["run"].nunique(), frame["task"].nunique()
    print(f"{args.out}: {len(frame):,} measurements of {runs} runs and {tasks} tasks")


def _predict(args: argparse.Namespace) -> None:
    taken = {Path(args.measurements).resolve(): "the measurements"}
    for flag, name in (("--out", args.out), ("--fits", args.fits)):
        if name is None:
            continue
        if Path(name).suffix != ".csv":
            raise InputError(f"{flag} {name!r} must end in .csv")
        path = Path(name).resolve()
        if path in taken:
            raise InputError(f"{flag} is {taken[path]}: name another file")
        taken[path] = flag
    frame, problems = table.read(args.measurements)
    _report(problems, args.strict)

    from ladder_jax import compilation
    from ladder_jax.download import cache_dir

    compilation.keep(cache_dir())
    from fitting import diagnose, plots, predict

    forecasts = predict.forecast(
        frame,
        train=args.train,
        targets=args.target,
        tasks=args.tasks,
        method=args.method,
        feature=args.feature,
        inputs=args.inputs,
        steps=args.steps,
        levels=args.level or [0.95],
    )
    predictions = predict.to_frame(forecasts)
    _write_predictions(predictions, args.out)
    _print_predictions(predictions)
    _print_warnings(forecasts)
    print(args.out)
    if args.fits:
        _write_predictions(diagnose.fits(forecasts), args.fits)
        print(args.fits)
    if args.figures:
        for name, figure in plots.figures(forecasts).items():
            path = Path(args.figures) / f"{name}.png"
            table.write_atomically(path, lambda p, f=figure: f.savefig(p, dpi=150))
            print(path)


def _write_predictions(predictions: Any, path: str | Path) -> None:
    table.write_atomically(path, lambda p: predictions.to_csv(p, index=False, lineterminator="\n"))


def _print_predictions(predictions: Any) -> None:
    from fitting import report

    texts = predictions[predictions["pred"].isna()]
    for cells in (report.prediction_cells(predictions), report.loss_cells(texts)):
        if len(cells) > 1:
            _print_columns(cells)
    for line in report.summary(predictions):
        print(line)


def _print_warnings(forecasts: list[Any]) -> None:
    from fitting import diagnose

    for warning, tasks in diagnose.warnings(forecasts).items():
        every = len(tasks) == len(forecasts) > 1
        print(f"note: {warning}: {'all tasks' if every else ', '.join(tasks)}")


def _report(problems: list[Problem], strict: bool) -> None:
    """Prints bad rows; with `strict`, fails instead of leaving them out."""
    for problem in problems[:_SHOWN_PROBLEMS]:
        print(problem, file=sys.stderr)
    if len(problems) > _SHOWN_PROBLEMS:
        print(f"... and {len(problems) - _SHOWN_PROBLEMS} more", file=sys.stderr)
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} (above)"
    if problems and strict:
        raise InputError(f"{count}; nothing was written")
    if problems:
        print(f"{count}: bad rows and cells are left out; --strict fails", file=sys.stderr)


def _print_columns(rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        first, *rest = (cell.rjust(w) for cell, w in zip(row, widths, strict=True))
        print("  ".join([row[0].ljust(len(first)), *rest]))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and value < 1e16 else _short(value)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int) else str(value)


_COMMANDS = {
    "plan": _plan,
    "download": _download,
    "run": _run,
    "status": _status,
    "train": _train,
    "measure": _measure,
    "predict": _predict,
}

if __name__ == "__main__":
    sys.exit(main())
