"""Forecasts from a measurement table: predict, score."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fitting import io, table
from fitting.errors import InputError
from ladder_jax.cli import show


def predict(args: argparse.Namespace) -> None:
    """Fits the training runs, forecasts the targets and, if asked, locks the forecast."""
    _check_outputs(
        {"the measurements": args.measurements}, {"--out": args.out, "--fits": args.fits}
    )
    if args.chance and args.method not in ("bayes", "laplace"):
        raise InputError(f"--chance: --method {args.method} uses none; leave it out")
    if args.draws and (Path(args.draws).suffix != ".nc" or args.method not in ("bayes", "laplace")):
        raise InputError(f"--draws {args.draws!r} must end in .nc, and needs bayes or laplace")
    known = chances(args.chance, args.tasks)
    held = Path(args.out).with_suffix(".lock")
    if held.is_file() and not args.lock:
        raise InputError(f"--out {args.out}: {held} locks it: add --lock, or name another file")
    frame, problems = table.read(args.measurements)
    show.problems(problems, args.strict)

    from ladder_jax.runtime import compilation
    from ladder_jax.runtime.paths import cache_dir

    compilation.keep(cache_dir())
    from fitting.forecast import ForecastSpec, diagnose, predict
    from fitting.posterior import archive
    from fitting.report import charts

    settings = {
        "method": args.method,
        "feature": args.feature,
        "inputs": args.inputs,
        "steps": args.steps,
        "levels": args.levels or [0.95],
        "chance": known,
        "new_items": args.new_items,
    }
    spec = ForecastSpec(args.train, args.targets, args.tasks, **settings)
    forecasts = predict.forecast(frame, spec)
    predictions = predict.to_frame(forecasts)
    if args.lock:
        _lock(forecasts, predictions, frame, args.train, settings, Path(args.out), held)
    else:
        write_predictions(predictions, args.out)
    show.predictions(predictions)
    show.notes(diagnose.warnings(forecasts), len(forecasts))
    print(args.out)
    if args.fits:
        write_predictions(diagnose.fits(forecasts), args.fits)
        print(args.fits)
    if args.draws:
        archive.write(forecasts[0].posteriors, [f.task for f in forecasts], args.draws)
        print(args.draws)
    if args.figures:
        for name, figure in charts.of_forecasts(forecasts).items():
            path = Path(args.figures) / f"{name}.png"
            io.write_atomically(path, lambda p, f=figure: f.savefig(p, dpi=150))
            print(path)


def chances(given: list[str], tasks: list[str]) -> dict[str, float]:
    """Accuracies of guessing from TASK=P, of tasks that are asked for."""
    known = {}
    for text in given:
        task, _, number = text.rpartition("=")
        try:
            known[task] = float(number)
        except ValueError:
            known[task] = -1.0
        if not task or not 0 <= known[task] < 1:
            raise InputError(f"--chance {text!r}: write TASK=P with P from 0 to 1, as in boolq=.5")
        if task not in tasks:
            raise InputError(f"--chance {text!r}: {task!r} is not among --tasks")
    return known


def _lock(
    forecasts: list[Any],
    predictions: Any,
    frame: Any,
    train: list[str],
    settings: dict[str, Any],
    out: Path,
    path: Path,
) -> None:
    """Writes predictions and their lock; neither, if a lock stands that says otherwise."""
    import ladder_jax
    from fitting.evaluation import lock

    config = lock.config_of(forecasts, train, settings)
    fitted = frame[frame["run"].isin(config["fitted"])]
    made = lock.make(predictions, fitted, config, ladder_jax.__version__)
    lock.check(made, path)
    known = predictions.dropna(subset=["actual", "actual_loss"], how="all")["target"].unique()
    if len(known) and not path.is_file():
        print(f"note: locked after it was measured, so it tests nothing: {', '.join(known)}")
    write_predictions(predictions, out)
    lock.hold(made, path)
    print(f"{path}: {made['sha256'][:12]}")


def score(args: argparse.Namespace) -> None:
    """Holds a locked forecast against what was measured afterwards."""
    held = Path(args.lock or Path(args.predictions).with_suffix(".lock"))
    inputs = {
        "the predictions": args.predictions,
        "the measurements": args.measurements,
        "the lock": held,
    }
    _check_outputs(inputs, {"--out": args.out})

    from fitting.evaluation import lock, score

    predictions, made = score.read_predictions(args.predictions), lock.read(held)
    lock.verify(predictions, made, args.predictions, held)
    score.check_config(predictions, made["config"], held)
    frame, problems = table.read(args.measurements)
    show.problems(problems, args.strict)
    scored, notes = score.compare(predictions, frame, made["config"])
    write_predictions(scored, args.out)
    print(f"{held}: {made['sha256'][:12]}, which {args.predictions} matches")
    show.predictions(scored)
    show.notes(notes, scored["task"].nunique())
    if score.data_changed(frame, made):
        print(f"note: the fitted runs are not in {args.measurements} as they were when fitted")
    print(args.out)


def _check_outputs(inputs: Mapping[str, str | Path], outputs: Mapping[str, str | None]) -> None:
    """Complains of an output that is no CSV, or is an input or another output."""
    taken = {Path(path).resolve(): words for words, path in inputs.items()}
    for flag, name in outputs.items():
        if name is None:
            continue
        if Path(name).suffix != ".csv":
            raise InputError(f"{flag} {name!r} must end in .csv")
        path = Path(name).resolve()
        if path in taken:
            raise InputError(f"{flag} is {taken[path]}: name another file")
        taken[path] = flag


def write_predictions(predictions: Any, path: str | Path) -> None:
    """Writes a table of forecasts as CSV, whole or not at all; floats keep every digit."""
    io.write_atomically(path, lambda p: predictions.to_csv(p, index=False, lineterminator="\n"))
