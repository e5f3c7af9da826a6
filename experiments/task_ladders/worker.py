"""Runs analyses in a separate process, which keeps its fits for the next analysis."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from experiments.task_ladders import analyse
from experiments.task_ladders.study import PublishedRuns
from fitting import io
from ladder_jax.measurements import olmo_ladder


@functools.cache
def _study(runs: str, methods: tuple[str, ...]) -> PublishedRuns:
    frame, problems = olmo_ladder.from_olmo_ladder(runs)
    for problem in problems:
        print(problem, file=sys.stderr)
    return PublishedRuns(frame, methods)


def run(name: str, runs: str, methods: tuple[str, ...], out: str) -> list[str]:
    """Writes the tables and figures of an analysis below `out`; returns the lines to print."""
    result = analyse.ANALYSES[name](_study(runs, methods))
    for stem, rows in result.tables.items():
        path = Path(out) / f"{stem}.csv"
        io.write_atomically(path, lambda p, r=rows: r.to_csv(p, index=False))
    for stem, figure in result.figures.items():
        path = Path(out) / f"{stem}.png"
        io.write_atomically(path, lambda p, f=figure: f.savefig(p, dpi=100))
    return result.lines
