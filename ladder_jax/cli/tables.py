"""Measurement tables: download, measure."""

from __future__ import annotations

import argparse

from fitting import table
from fitting.errors import InputError, Problem
from ladder_jax.cli import show
from ladder_jax.cli.parsing import AddCommand


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
        "ladder measure --from olmo-ladder --out measurements.csv",
    )  # fmt: skip
    sub.add_argument("--from", dest="source", default="runs",
                     choices=["runs", "scores", "olmo-ladder", "lm-eval"],
                     help="runs: of `ladder train` and `run` (default); scores: stores of "
                          "`ladder eval`; lm-eval: results of "
                          "lm-evaluation-harness")  # fmt: skip
    sub.add_argument("--runs", metavar="DIR",
                     help="the runs (olmo-ladder: default what was downloaded; lm-eval: "
                          "results and their runs.csv)")  # fmt: skip
    sub.add_argument("--out", required=True, metavar="FILE", help=".csv or .parquet")
    sub.add_argument("--strict", action="store_true", help="fail if any row is bad")


def download(args: argparse.Namespace) -> None:
    """Fetches public data."""
    from ladder_jax.downloads import public_runs, public_tasks

    fetch = {"olmo-ladder": public_runs.olmo_ladder, "olmes": public_tasks.olmes}
    print(fetch[args.name](args.source))


def measure(args: argparse.Namespace) -> None:
    """Writes one measurement table of many runs."""
    from ladder_jax.downloads import public_runs
    from ladder_jax.measurements import lm_eval_results, olmo_ladder, own_runs

    if args.runs == "":
        raise InputError("`runs` is empty: name a directory")
    problems: list[Problem] = []
    if args.source == "olmo-ladder":
        frame, problems = olmo_ladder.from_olmo_ladder(args.runs or public_runs.olmo_ladder())
    elif args.runs is None:
        writer = {
            "runs": "`ladder run` or `train`",
            "scores": "`ladder eval`",
            "lm-eval": "lm_eval --output_path",
        }
        raise InputError(f"--runs DIR is needed: the output of {writer[args.source]}")
    elif args.source == "lm-eval":
        frame, problems = lm_eval_results.from_lm_eval(args.runs)
    elif args.source == "scores":
        frame = own_runs.from_stores(args.runs)
    else:
        frame = own_runs.from_runs(args.runs)
    show.problems(problems, args.strict)
    table.write(frame, args.out)
    runs, tasks = frame["run"].nunique(), frame["task"].nunique()
    print(f"{args.out}: {len(frame):,} measurements of {runs} runs and {tasks} tasks")
