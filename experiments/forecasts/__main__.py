"""`python -m experiments.forecasts NAME --measurements FILE`: analyses behind the forecasts.

next: does the criterion of `ladder next` rank ladders as fitting them does?
"""

from __future__ import annotations

import argparse
import importlib
import sys

from fitting import table
from fitting.table import InputError
from ladder_jax import compilation, download

# Name -> module of this folder with `run(table, arguments)`, which prints what it finds.
ANALYSES = {"next": "next_run"}


def main(arguments: list[str] | None = None) -> int:
    """Runs the analysis that was named; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.forecasts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python -m experiments.forecasts next --measurements measurements.csv",
    )
    parser.add_argument("name", choices=list(ANALYSES))
    parser.add_argument("--measurements", required=True, metavar="FILE")
    parser.add_argument("--train", nargs="+", metavar="PATTERN",
                        default=["190M-*", "370M-*", "760M-*", "1.3B-*"])  # fmt: skip
    parser.add_argument("--target", nargs="+", metavar="RUN", default=["7B-4T", "13B-5T"])
    args = parser.parse_args(arguments)
    try:
        frame, problems = table.read(args.measurements)
        if problems:
            raise InputError(f"{problems[0]} ({len(problems)} in all)")
        compilation.keep(download.cache_dir())
        importlib.import_module(f"experiments.forecasts.{ANALYSES[args.name]}").run(frame, args)
    except InputError as e:
        print(f"{parser.prog}: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
