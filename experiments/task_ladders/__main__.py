"""`python -m experiments.task_ladders`: the paper's tables and figures from its public runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from experiments.task_ladders import analyse
from experiments.task_ladders.study import METHODS, Study
from fitting import table
from fitting.table import InputError
from ladder_jax import download, measure


def main(arguments: list[str] | None = None) -> int:
    """Runs the analyses that were named, or all; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.task_ladders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python -m experiments.task_ladders chained variance --out figures",
    )
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help=f"of {', '.join(analyse.ANALYSES)} (default: all)")  # fmt: skip
    parser.add_argument("--runs", metavar="DIR", help="the CSVs (default: what was downloaded)")
    parser.add_argument("--out", default="task_ladders", metavar="DIR")
    parser.add_argument("--method", nargs="+", default=list(METHODS), choices=METHODS)
    args = parser.parse_args(arguments)
    try:
        _run(args)
    except InputError as e:
        print(f"{parser.prog}: {e}", file=sys.stderr)
        return 2
    return 0


def _run(args: argparse.Namespace) -> None:
    for name in args.names:
        if name not in analyse.ANALYSES:
            raise InputError(f"{name}: no such analysis; use {', '.join(analyse.ANALYSES)}")
    frame, problems = measure.from_olmo_ladder(args.runs or download.olmo_ladder())
    for problem in problems:
        print(problem, file=sys.stderr)
    study = Study(frame, tuple(m for m in METHODS if m in args.method))
    bar = tqdm(args.names or list(analyse.ANALYSES), unit="analysis", disable=None)
    for name in bar:
        bar.set_description(name)
        result = analyse.ANALYSES[name](study)
        for stem, rows in result.tables.items():
            path = Path(args.out) / f"{stem}.csv"
            table.write_atomically(path, lambda p, r=rows: r.to_csv(p, index=False))
        for stem, figure in result.figures.items():
            path = Path(args.out) / f"{stem}.png"
            table.write_atomically(path, lambda p, f=figure: f.savefig(p, dpi=120))
        bar.write("\n".join([f"== {name}", *result.lines]))
    print(f"{args.out}: tables and figures")


if __name__ == "__main__":
    sys.exit(main())
