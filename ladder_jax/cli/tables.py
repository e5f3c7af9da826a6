"""Measurement tables: download, measure."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from fitting import table
from fitting.errors import InputError, Problem
from ladder_jax.cli import show
from ladder_jax.cli.parsing import AddCommand

if TYPE_CHECKING:
    import pandas as pd


_NEEDED = {
    "runs": "DIR is needed: the output of `ladder run` or `train`",
    "scores": "DIR is needed: the output of `ladder eval`",
    "lm-eval": "DIR is needed: the output of lm_eval --output_path",
    "csv": "FILE.csv is needed: a table with a header",
}


def add(command: AddCommand) -> None:
    """Adds download and measure."""
    sub = command(
        "download", download, "Fetch public data, checked by SHA-256.",
        "ladder download olmo-ladder",
    )  # fmt: skip
    sub.add_argument("name", choices=["olmo-ladder", "olmes"],
                     help="olmo-ladder: measurements of the public ladder; olmes: task "
                          "requests and the dolma2 tokenizer")  # fmt: skip
    sub.add_argument("--from", dest="source", metavar="DIR", help="copy from a directory")

    sub = command(
        "measure", measure, "Write one measurement table of many runs.",
        "ladder measure --from olmo-ladder --out measurements.csv\n"
        "  ladder measure --from csv --runs mine.csv --example > map.json\n"
        "  ladder measure --from csv --runs mine.csv --map map.json --out measurements.csv",
    )  # fmt: skip
    sub.add_argument("--from", dest="source", default="runs",
                     choices=["runs", "scores", "olmo-ladder", "lm-eval", "csv"],
                     help="runs: of `ladder train` and `run` (default); scores: stores of "
                          "`ladder eval`; lm-eval: results of lm-evaluation-harness; csv: any "
                          "table with a row for each run or checkpoint")  # fmt: skip
    sub.add_argument("--runs", nargs="+", metavar="DIR",
                     help="the runs (olmo-ladder: default what was downloaded; lm-eval: "
                          "results and their runs.csv; csv: one or more files)")  # fmt: skip
    sub.add_argument("--map", nargs="+", metavar="MAP",
                     help="csv: what its columns are, as JSON or the name of a shipped map; one "
                          "for each file (docs/own_measurements.md has the schema)")  # fmt: skip
    sub.add_argument(
        "--example", action="store_true", help="csv: print a map guessed from the file's header"
    )
    sub.add_argument("--out", metavar="FILE", help=".csv or .parquet")
    sub.add_argument("--strict", action="store_true", help="fail if any row is bad")


def download(args: argparse.Namespace) -> None:
    """Fetches public data."""
    from ladder_jax.downloads import public_runs, public_tasks

    fetch = {"olmo-ladder": public_runs.olmo_ladder, "olmes": public_tasks.olmes}
    print(fetch[args.name](args.source))


def measure(args: argparse.Namespace) -> None:
    """Writes one measurement table of many runs."""
    _check_flags(args)
    if args.example:
        from ladder_jax.measurements import example_map

        print(example_map.of(args.runs[0]))
        return
    frame, problems, notes = _read(args)
    for note in notes:
        print(f"note: {note}")
    show.problems(problems, args.strict)
    table.write(frame, args.out)
    runs, tasks = frame["run"].nunique(), frame["task"].nunique()
    print(f"{args.out}: {len(frame):,} measurements of {runs} runs and {tasks} tasks")


def _check_flags(args: argparse.Namespace) -> None:
    """Raises InputError if flags are missing, or belong to another source."""
    of_csv = args.source == "csv"
    if "" in (args.runs or []):
        raise InputError("`runs` is empty: name a directory")
    if args.runs is None and args.source != "olmo-ladder":
        raise InputError(f"--runs {_NEEDED[args.source]}")
    if args.runs and len(args.runs) > 1 and (not of_csv or args.example):
        raise InputError(f"`runs`: {len(args.runs)} are named: name one")
    if not of_csv and (args.map or args.example):
        raise InputError(f"--map and --example are for --from csv, not {args.source}")
    if of_csv and not args.example and not args.map:
        raise InputError("--map MAP.json is needed; --example prints one for the file's header")
    if args.example and (args.map or args.out):
        raise InputError("--example prints a map and writes nothing: leave out --map and --out")
    if args.out is None and not args.example:
        raise InputError("--out FILE is needed: a .csv or .parquet file")
    for read in [*(args.runs or []), *(args.map or [])]:
        if args.out and os.path.realpath(read) == os.path.realpath(args.out):
            raise InputError(f"--out is {read}, which is read: name another file")


def _read(args: argparse.Namespace) -> tuple[pd.DataFrame, list[Problem], list[str]]:
    """The table of a source, its problems, and notes on what was left out."""
    from ladder_jax.downloads import public_runs
    from ladder_jax.measurements import lm_eval_results, olmo_ladder, own_runs, wide_csv

    if args.source == "csv":
        return wide_csv.from_csv(args.runs, args.map)
    runs = args.runs[0] if args.runs else public_runs.olmo_ladder()
    if args.source in ("olmo-ladder", "lm-eval"):
        of_harness = args.source == "lm-eval"
        read = lm_eval_results.from_lm_eval if of_harness else olmo_ladder.from_olmo_ladder
        frame, problems = read(runs)
        return frame, problems, []
    if args.source == "scores":
        return own_runs.from_stores(runs), [], []
    return own_runs.from_runs(runs), [], []
