"""What to trust and what to train: backtest, next."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from fitting import io, table
from fitting.errors import InputError
from ladder_jax.cli import show
from ladder_jax.cli.forecasts import chances, write_predictions


def backtest(args: argparse.Namespace) -> None:
    """Forecasts the ladder's larger sizes by every method and says how far each was off."""
    _check_output(args.out, "--out", ".csv", args.measurements)
    frame, problems = table.read(args.measurements)
    show.problems(problems, args.strict)
    _keep_compiled()
    import pandas as pd

    from fitting.evaluation import backtest
    from fitting.forecast import ForecastSpec
    from fitting.observations import select
    from fitting.report import charts

    known = chances(args.chance, args.tasks)
    settings = {"inputs": args.inputs, "feature": args.feature, "chance": known}
    methods = {
        name: ForecastSpec(tasks=args.tasks, method=name, **settings)
        for name in dict.fromkeys(args.methods)
    }
    runs = select.select_runs(frame, args.train)
    backtest.check_targets(frame, runs, args.targets)
    cells, failures = backtest.run(frame, args.train, methods)
    parts = [cells]
    if args.targets:  # last, so that no choice between methods has seen them
        split = backtest.Split(runs, args.targets)
        last, more = backtest.score(frame, {backtest.TARGETS: split}, methods)
        parts, failures = [cells, last], failures + more
    write_predictions(pd.concat(parts, ignore_index=True), args.out)
    summary = backtest.summary(cells)
    show.columns(backtest.table_cells(summary))
    print("\nmean error by task, points")
    show.columns(backtest.task_cells(backtest.by_task(cells)))
    if args.targets:
        print(f"\nscored once, from all training runs: {', '.join(args.targets)}")
        show.columns(backtest.table_cells(backtest.summary(parts[-1])))
    for text in failures:
        print(f"note: {text}")
    print(args.out)
    if args.figures:
        _draw(charts.backtest(summary), Path(args.figures) / "backtest.png")


def next_run(args: argparse.Namespace) -> None:
    """Says which run to train next for the narrowest forecasts of the targets."""
    _check_output(args.out, "--out", ".csv", args.measurements)
    _check_output(args.figure, "--figure", ".png", args.measurements)
    frame, problems = table.read(args.measurements)
    show.problems(problems, args.strict)
    _keep_compiled()
    from fitting.advise import next_run as advice
    from fitting.forecast import ForecastSpec
    from fitting.report import charts

    known = chances(args.chance, args.tasks)
    spec = ForecastSpec(args.train, args.targets, args.tasks, chance=known)
    found = advice.advise(frame, spec, args.budget, args.candidates)
    if args.out:
        write_predictions(found.rows, args.out)
    show.columns(_cells(found.rows))
    print(f"now: intervals of {100 * found.now:.2f} points on average")
    if found.chosen:
        print(
            f"best within {args.budget:.3g} FLOPs: {', '.join(found.chosen)}, "
            f"{found.cost:.3g} FLOPs, to {100 * found.after:.2f} points"
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


def _check_output(name: str | None, flag: str, suffix: str, measurements: str) -> None:
    if name is None:
        return
    if Path(name).suffix != suffix:
        raise InputError(f"{flag} {name!r} must end in {suffix}")
    if Path(name).resolve() == Path(measurements).resolve():
        raise InputError(f"{flag} is the measurements: name another file")


def _keep_compiled() -> None:
    from ladder_jax.runtime import compilation
    from ladder_jax.runtime.paths import cache_dir

    compilation.keep(cache_dir())


def _draw(figure: Any, path: Path) -> None:
    io.write_atomically(path, lambda p: figure.savefig(p, dpi=150))
    print(path)
