"""`python -m experiments.forecasts NAME --measurements FILE`: analyses of the forecasts.

published: every method on every public ladder
choose: the ways to accuracy and the discrepancy, chosen across public ladders
calibration: ranks of true values among posterior draws, for ladders drawn from the priors
speed: CPU seconds of NUTS and of Laplace
next: does the criterion of `ladder next` rank ladders in the order that fitting them gives?
"""

from __future__ import annotations

import argparse
import importlib
import sys

import pandas as pd

from fitting import table
from fitting.errors import InputError
from fitting.observations import select
from ladder_jax.runtime import compilation, paths

# Name -> module of this folder with `run(table, arguments)`, which prints its results.
ANALYSES = {
    "published": "published",
    "choose": "choose",
    "calibration": "calibration",
    "next": "next_run",
    "speed": "speed",
}
_NO_TABLE = ("calibration",)


def main(arguments: list[str] | None = None) -> int:
    """Runs the named analysis; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.forecasts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python -m experiments.forecasts next --measurements measurements.csv",
    )
    parser.add_argument("name", choices=list(ANALYSES))
    parser.add_argument("--measurements", metavar="FILE")
    parser.add_argument(
        "--ladders", type=int, default=200, help="number of ladders, for calibration"
    )
    parser.add_argument("--train", nargs="+", metavar="PATTERN",
                        default=["190M-*", "370M-*", "760M-*", "1.3B-*"])  # fmt: skip
    parser.add_argument("--exclude", nargs="+", default=[], metavar="RUN",
                        help="leave these runs out of --train (shell patterns)")  # fmt: skip
    parser.add_argument("--target", nargs="+", metavar="RUN", default=["7B-4T", "13B-5T"])
    parser.add_argument("--public", metavar="DIR", default="public",
                        help="folder of the public tables, for published and choose")  # fmt: skip
    parser.add_argument("--out", metavar="DIR", default="forecasts",
                        help="where published writes (default: forecasts)")  # fmt: skip
    args = parser.parse_args(arguments)
    try:
        frame = None if args.name in _NO_TABLE else _read(args.measurements)
        if frame is not None:
            args.train = select.train_patterns(frame, args.train, args.exclude)
        if args.name != "speed":
            compilation.keep(paths.cache_dir())
        importlib.import_module(f"experiments.forecasts.{ANALYSES[args.name]}").run(frame, args)
    except InputError as e:
        print(f"{parser.prog}: {e}", file=sys.stderr)
        return 2
    return 0


def _read(path: str | None) -> pd.DataFrame:
    if not path:
        raise InputError("--measurements FILE is needed: write it with `ladder measure`")
    return table.read(path, strict=True)[0]


if __name__ == "__main__":
    sys.exit(main())
