"""Measurement tables: download, measure."""

from __future__ import annotations

import argparse

from fitting import table
from fitting.errors import InputError
from fitting.table import Problem
from ladder_jax.cli import show


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
        raise InputError("--runs is empty: name a directory")
    problems: list[Problem] = []
    if args.source == "olmo-ladder":
        frame, problems = olmo_ladder.from_olmo_ladder(args.runs or public_runs.olmo_ladder())
    elif args.runs is None:
        wrote = {
            "runs": "`ladder run` or `train`",
            "scores": "`ladder eval`",
            "lm-eval": "lm_eval --output_path",
        }
        raise InputError(f"--runs DIR is needed: where {wrote[args.source]} wrote")
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
