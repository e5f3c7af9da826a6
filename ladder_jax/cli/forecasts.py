"""Forecasts from a measurement table: predict, score."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fitting import io, table
from fitting.errors import InputError
from ladder_jax.cli import show
from ladder_jax.cli.parsing import AddCommand, add_chance, add_train, in_flags

METHODS = ("bayes", "laplace", "bootstrap", "least-squares", "paper")
FEATURES = ("bpb", "task_ce", "choice_prob", "lm_loss")


def add(command: AddCommand) -> None:
    """Adds predict and score."""
    sub = command(
        "predict", predict, "Fit the training runs and forecast the targets.",
        "ladder predict --measurements measurements.csv --train '190M-*' '370M-*' '760M-*' "
        "'1.3B-*' \\\n    --target 7B-4T 13B-5T --out predictions.csv",
    )  # fmt: skip
    sub.add_argument("--measurements", required=True, metavar="FILE")
    add_train(sub, "shell patterns of run names")
    sub.add_argument("--target", dest="targets", required=True, nargs="+", metavar="RUN",
                     help="run names, or NAME=N_PARAMS,N_TOKENS[,FLOPS] for a future "
                          "run")  # fmt: skip
    sub.add_argument("--tasks", nargs="+", default=["main"], metavar="LABEL",
                     help="task labels; main: the paper's eight tasks (default)")  # fmt: skip
    sub.add_argument("--method", default="bayes", choices=METHODS,
                     help="bayes (default): tasks pooled, posterior sampled; laplace: the same "
                          "model, approximated quickly; paper: as published")  # fmt: skip
    sub.add_argument("--feature", choices=FEATURES,
                     help="feature between the two steps (default: bpb, or lm_loss where no task "
                          "has it; bayes and laplace mix both and N and D alone)")  # fmt: skip
    sub.add_argument("--feature-task", metavar="LABEL",
                     help="text whose loss is the feature lm_loss (default: c4_en_val, or the "
                          "first that every run has)")  # fmt: skip
    sub.add_argument("--inputs", default="nd", choices=["nd", "c"], help="N and D, or FLOPs")
    sub.add_argument("--steps", default="two", choices=["two", "one"])
    sub.add_argument("--level", dest="levels", nargs="+", type=float, action="extend",
                     metavar="P",
                     help="levels of the predictive intervals (default 0.95)")  # fmt: skip
    add_chance(sub)
    sub.add_argument(
        "--new-items",
        action="store_true",
        help="forecast accuracy on new test items (bayes, laplace)",
    )
    sub.add_argument(
        "--figures",
        metavar="DIR",
        help="draw both steps, intervals and distributions here",
    )
    sub.add_argument("--draws", metavar="FILE.nc",
                     help="posterior draws as netCDF (bayes, laplace)")  # fmt: skip
    sub.add_argument("--fits", metavar="FILE",
                     help="parameters, bounds and conditioning of every fit")  # fmt: skip
    sub.add_argument("--out", required=True, metavar="FILE", help="predictions.csv")
    sub.add_argument("--lock", action="store_true",
                     help="lock the forecast: predictions.lock beside --out, for `ladder "
                          "score`")  # fmt: skip
    sub.add_argument("--strict", action="store_true", help="fail if any row is bad")

    sub = command(
        "score", score, "Compare a locked forecast with later measurements.",
        "ladder score --predictions predictions.csv --measurements later.csv --out scored.csv",
    )  # fmt: skip
    sub.add_argument("--predictions", required=True, metavar="FILE",
                     help="written by `ladder predict --lock` or `ladder run`")  # fmt: skip
    sub.add_argument("--measurements", required=True, metavar="FILE",
                     help="a table that contains the targets")  # fmt: skip
    sub.add_argument("--lock", metavar="FILE",
                     help="default: the predictions' name with the ending .lock")  # fmt: skip
    sub.add_argument("--out", required=True, metavar="FILE",
                     help="the predictions with measured values, .csv")  # fmt: skip
    sub.add_argument("--strict", action="store_true", help="fail if any row is bad")


def predict(args: argparse.Namespace) -> None:
    """Fits the training runs, forecasts the targets and, with --lock, locks the forecast."""
    _check_outputs(
        {"the measurements": args.measurements}, {"--out": args.out, "--fits": args.fits}
    )
    if args.chance and args.method not in ("bayes", "laplace"):
        raise InputError(f"--chance: --method {args.method} does not use it; leave it out")
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
    from fitting.observations import select
    from fitting.posterior import archive
    from fitting.report import charts

    settings = {
        "method": args.method,
        "feature": args.feature,
        "feature_task": args.feature_task,
        "inputs": args.inputs,
        "steps": args.steps,
        "levels": args.levels or [0.95],
        "chance": known,
        "new_items": args.new_items,
    }
    train = select.train_patterns(frame, args.train, args.exclude)
    spec = ForecastSpec(train, args.targets, args.tasks, **settings)
    forecasts = predict.forecast(frame, spec)
    predictions = predict.to_frame(forecasts)
    if args.lock:
        _lock(forecasts, predictions, frame, train, settings, Path(args.out), held)
    else:
        io.write_csv(predictions, args.out)
    show.predictions(predictions)
    notes = {in_flags(t, args.sub): of for t, of in diagnose.warnings(forecasts).items()}
    show.notes(notes, len(forecasts))
    print(args.out)
    if args.fits:
        io.write_csv(diagnose.fits(forecasts), args.fits)
        print(args.fits)
    if args.draws:
        posteriors = {name: p for f in forecasts for name, p in f.posteriors.items()}
        tasks = {name: [f.task for f in forecasts if name in f.posteriors] for name in posteriors}
        archive.write(posteriors, tasks, args.draws)
        print(args.draws)
    if args.figures:
        for name, figure in charts.of_forecasts(forecasts).items():
            path = Path(args.figures) / f"{name}.png"
            io.write_atomically(path, lambda p, f=figure: f.savefig(p, dpi=150))
            print(path)


def chances(given: list[str], tasks: list[str]) -> dict[str, float]:
    """Task -> accuracy of guessing, read from texts TASK=P.

    Args:
        given: the texts.
        tasks: the only tasks that they may name, unless `all` is among them.
    """
    known = {}
    for text in given:
        task, _, number = text.rpartition("=")
        try:
            known[task] = float(number)
        except ValueError:
            known[task] = -1.0
        if not task or not 0 <= known[task] < 1:
            raise InputError(f"--chance {text!r}: write TASK=P with P from 0 to 1, as in boolq=.5")
        if task not in tasks and "all" not in tasks:
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
    """Writes predictions and their lock; raises if another forecast is locked already."""
    import ladder_jax
    from fitting.evaluation import lock

    config = lock.config_of(forecasts, train, settings)
    fitted = frame[frame["run"].isin(config["fitted"])]
    made = lock.make(predictions, fitted, config, ladder_jax.__version__)
    lock.check(made, path)
    known = predictions.dropna(subset=["actual", "actual_loss"], how="all")["target"].unique()
    if len(known) and not path.is_file():
        print(f"note: locked after it was measured, so it tests nothing: {', '.join(known)}")
    io.write_csv(predictions, out)
    lock.hold(made, path)
    print(f"{path}: {made['sha256'][:12]}")


def score(args: argparse.Namespace) -> None:
    """Compares a locked forecast with later measurements."""
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
    io.write_csv(scored, args.out)
    print(f"{held}: {made['sha256'][:12]}, which {args.predictions} matches")
    show.predictions(scored)
    show.notes(notes, scored["task"].nunique())
    if score.data_changed(frame, made):
        print(f"note: the fitted runs are not in {args.measurements} as they were when fitted")
    print(args.out)


def _check_outputs(inputs: Mapping[str, str | Path], outputs: Mapping[str, str | None]) -> None:
    """Raises InputError if an output is no CSV, or is also an input or another output."""
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
