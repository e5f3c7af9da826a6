"""Commands that compare methods and choose runs: backtest, next."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from fitting import io, table
from fitting.errors import InputError
from ladder_jax.cli import show
from ladder_jax.cli.forecasts import FEATURES, METHODS, chances
from ladder_jax.cli.parsing import AddCommand, add_chance, add_train, positive


def add(command: AddCommand) -> None:
    """Adds backtest and next."""
    sub = command(
        "backtest", backtest,
        "Hold out larger sizes of ladders, forecast them with every method, compare the errors.",
        "ladder backtest --measurements measurements.csv --train '190M-*' '370M-*' '760M-*' "
        "'1.3B-*' \\\n    --methods laplace bootstrap --out backtest.csv",
    )  # fmt: skip
    sub.add_argument("--measurements", required=True, nargs="+", metavar="FILE",
                     help="a table for each ladder, which the file names")  # fmt: skip
    add_train(sub, "shell patterns of the ladders' runs, of three sizes or more (default: all)",
              default=["*"])  # fmt: skip
    sub.add_argument("--tasks", nargs="+", default=["main"], metavar="LABEL",
                     help="task labels; main: the paper's eight tasks (default); all: every task "
                          "and text that all runs of a ladder have")  # fmt: skip
    sub.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS,
                     help="default: all")  # fmt: skip
    sub.add_argument("--splits", type=positive, metavar="K",
                     help="at most K splits of a ladder (default: all of up to five sizes, four of "
                          "more)")  # fmt: skip
    sub.add_argument("--inputs", default="nd", choices=["nd", "c"], help="N and D, or FLOPs")
    sub.add_argument("--feature", choices=FEATURES, help="default: the method's own")
    sub.add_argument("--feature-task", metavar="LABEL",
                     help="text whose loss is the feature lm_loss (default: c4_en_val, or the "
                          "first that every run has)")  # fmt: skip
    sub.add_argument("--target", dest="targets", nargs="+", default=[], metavar="RUN",
                     help="measured runs to forecast from all training runs and "
                          "score once, last")  # fmt: skip
    add_chance(sub)
    sub.add_argument("--out", required=True, metavar="FILE", help="every forecast, .csv")
    sub.add_argument("--figures", metavar="DIR", help="draw backtest.png here")
    sub.add_argument("--fits", metavar="FILE",
                     help="the checks of every posterior's draws, .csv")  # fmt: skip
    sub.add_argument("--strict", action="store_true", help="fail if any row is bad")

    sub = command(
        "next", next_run,
        "Advise which run to train next for the narrowest forecasts of the targets.",
        "ladder next --measurements measurements.csv --train '190M-*' '370M-*' "
        "--target 7B-4T --flops 1e21",
    )  # fmt: skip
    sub.add_argument("--measurements", required=True, metavar="FILE")
    add_train(sub, "shell patterns of run names")
    sub.add_argument("--target", dest="targets", required=True, nargs="+", metavar="RUN",
                     help="run names, or NAME=N_PARAMS,N_TOKENS[,FLOPS]")  # fmt: skip
    sub.add_argument("--flops", dest="budget", required=True, type=float, metavar="BUDGET",
                     help="FLOPs of all new runs together")  # fmt: skip
    sub.add_argument("--candidate", dest="candidates", nargs="+", metavar="RUN",
                     help="NAME=N_PARAMS,N_TOKENS[,FLOPS] (default: every trained size at "
                          "1, 2, 5, 10, 20, 40 x 20 tokens a parameter)")  # fmt: skip
    sub.add_argument("--tasks", nargs="+", default=["main"], metavar="LABEL",
                     help="task labels; main: the paper's eight tasks (default)")  # fmt: skip
    add_chance(sub)
    sub.add_argument("--out", metavar="FILE", help="the table, .csv")
    sub.add_argument("--figure", metavar="FILE", help="the figure, .png")
    sub.add_argument("--strict", action="store_true", help="fail if any row is bad")


def backtest(args: argparse.Namespace) -> None:
    """Forecasts the larger sizes of ladders with every method and prints the errors."""
    _check_output(args.out, "--out", ".csv", args.measurements)
    _check_output(args.fits, "--fits", ".csv", args.measurements)
    tables = _read_tables(args.measurements, args.strict)
    _keep_compiled()
    from fitting.evaluation import backtest, ladders, summary
    from fitting.forecast import ForecastSpec
    from fitting.report import charts

    known = chances(args.chance, args.tasks)
    settings = {"inputs": args.inputs, "feature": args.feature, "feature_task": args.feature_task}
    methods = {name: ForecastSpec(method=name, **settings) for name in dict.fromkeys(args.methods)}
    tested = ladders.ladders_of(
        tables, args.train, args.exclude, args.tasks, known, list(dict.fromkeys(args.targets))
    )
    trials = backtest.plan(tested, methods, args.splits)
    for ladder in tested:
        if ladder.incomplete:
            missed = ", ".join(ladder.incomplete)
            print(f"note: {ladder.name}: some runs lack these, so they are left out: {missed}")
    cells, failures, fits = backtest.run(trials)
    if args.fits:
        io.write_csv(fits, args.fits)
    io.write_csv(cells, args.out)
    by = "ladder" if len(tested) > 1 else "split"
    of_targets = cells["split"] == backtest.TARGETS
    _print_scores(summary.tables(summary.summary(cells[~of_targets], by)))
    errors = {kind: summary.by_task(cells[~of_targets], kind) for kind in summary.KINDS}
    _print_scores(
        {
            f"mean error by task: {summary.KINDS[kind]}": summary.task_cells(of_kind)
            for kind, of_kind in errors.items()
            if of_kind["task"].nunique() > 1
        }
    )
    if of_targets.any():
        names = ", ".join(cells.loc[of_targets, "target"].unique())
        print(f"scored once, from all training runs: {names}")
        _print_scores(summary.tables(summary.summary(cells[of_targets], by)))
    for text in failures:
        print(f"note: {text}")
    print(args.out)
    if args.figures:
        figure = charts.backtest(summary.summary(cells[~of_targets]))
        _draw(figure, Path(args.figures) / "backtest.png")


def _read_tables(paths: list[str], strict: bool) -> dict[str, Any]:
    """Tables by the stems of their files' names."""
    tables = {}
    for path in paths:
        name = Path(path).stem
        if name in tables:
            raise InputError(f"`measurements`: two files are named {name}: rename one")
        frame, problems = table.read(path)
        show.problems(problems, strict)
        tables[name] = frame
    return tables


def _print_scores(tables: dict[str, list[list[str]]]) -> None:
    """Prints tables under their titles, each with an empty line after it."""
    for title, rows in tables.items():
        print(title)
        show.columns(rows)
        print()


def next_run(args: argparse.Namespace) -> None:
    """Prints which run to train next for the narrowest forecasts of the targets."""
    _check_output(args.out, "--out", ".csv", [args.measurements])
    _check_output(args.figure, "--figure", ".png", [args.measurements])
    frame, problems = table.read(args.measurements)
    show.problems(problems, args.strict)
    _keep_compiled()
    from fitting.advise import next_run as advice
    from fitting.forecast import ForecastSpec
    from fitting.observations import select
    from fitting.report import charts

    known = chances(args.chance, args.tasks)
    train = select.train_patterns(frame, args.train, args.exclude)
    spec = ForecastSpec(train, args.targets, args.tasks, chance=known)
    found = advice.advise(frame, spec, args.budget, args.candidates)
    if args.out:
        io.write_csv(found.rows, args.out)
    unit = "percent of the loss" if found.of_losses else "points"
    show.columns(_cells(found.rows))
    print(f"now: intervals of {100 * found.now:.2f} {unit} on average")
    if found.chosen:
        print(
            f"best within {args.budget:.3g} FLOPs: {', '.join(found.chosen)}, "
            f"{found.cost:.3g} FLOPs, to {100 * found.after:.2f} {unit}"
        )
    else:
        print(f"no affordable run narrows the intervals by {advice.WORTHWHILE:.0%}")
    if args.out:
        print(args.out)
    if args.figure:
        _draw(charts.candidates(found.rows, found.chosen), Path(args.figure))


def _cells(rows: Any) -> list[list[str]]:
    """A header and rows of text; shrinkage per FLOP in a unit that makes it readable."""
    most = 100 * rows["shrinkage_per_flop"].max()
    power = math.ceil(-math.log10(most)) if most > 0 else 18
    header = ["run", "N", "D", "FLOPs", "width", "narrower, %", f"% per 1e{power} FLOPs",
              "affordable"]  # fmt: skip
    cells = [header]
    for row in rows.to_dict("records"):
        cells.append(
            [row["run"], *(f"{row[name]:.3g}" for name in ("n_params", "n_tokens", "flops")),
             f"{100 * row['width']:.2f}", f"{100 * row['shrinkage']:.2f}",
             f"{100 * row['shrinkage_per_flop'] * 10.0**power:.3g}",
             "yes" if row["affordable"] else "no"]
        )  # fmt: skip
    return cells


def _check_output(name: str | None, flag: str, suffix: str, measurements: list[str]) -> None:
    if name is None:
        return
    if Path(name).suffix != suffix:
        raise InputError(f"{flag} {name!r} must end in {suffix}")
    if Path(name).resolve() in [Path(path).resolve() for path in measurements]:
        raise InputError(f"{flag} is the measurements: name another file")


def _keep_compiled() -> None:
    from ladder_jax.runtime import compilation
    from ladder_jax.runtime.paths import cache_dir

    compilation.keep(cache_dir())


def _draw(figure: Any, path: Path) -> None:
    io.write_atomically(path, lambda p: figure.savefig(p, dpi=150))
    print(path)
