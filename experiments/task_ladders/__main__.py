"""`python -m experiments.task_ladders`: the paper's tables and figures from its public runs."""

from __future__ import annotations

import argparse
import contextlib
import sys
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tqdm import tqdm

from experiments.task_ladders import analyse, worker
from experiments.task_ladders.study import METHODS
from fitting.errors import InputError
from ladder_jax.downloads import public_runs
from ladder_jax.runtime import compilation, paths

# Analyses that share fits run in one process; the processes share compiled code.
_GROUPS = (
    ("step1", "step2", "chained", "multiple-choice"),
    ("single-step", "compute-only", "compute-vs-error", "variance", "set-size", "design"),
)


def main(arguments: list[str] | None = None) -> int:
    """Runs the named analyses, or all; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.task_ladders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python -m experiments.task_ladders chained variance --out figures",
    )
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help=f"one of {', '.join(analyse.ANALYSES)} (default: all)")  # fmt: skip
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
    names = args.names or list(analyse.ANALYSES)
    runs = args.runs or str(public_runs.olmo_ladder())  # once, before the workers
    compilation.keep(paths.cache_dir())
    methods = tuple(m for m in METHODS if m in args.method)
    groups = [[n for n in group if n in names] for group in _GROUPS]
    with contextlib.ExitStack() as stack:
        waiting: dict[Future[list[str]], str] = {}
        for group in filter(None, groups):
            pool = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
            waiting |= {
                pool.submit(worker.run, name, runs, methods, args.out): name for name in group
            }
        bar = tqdm(as_completed(waiting), total=len(waiting), unit="analysis", disable=None)
        for done in bar:
            if done.exception():
                for other in waiting:
                    other.cancel()
            bar.set_description(waiting[done])
            bar.write("\n".join([f"== {waiting[done]}", *done.result()]))
    print(f"{args.out}: tables and figures")


if __name__ == "__main__":
    sys.exit(main())
