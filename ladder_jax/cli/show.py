"""Output of the commands: tables, notes, and problems of the input."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fitting.errors import InputError, Problem

_SHOWN_PROBLEMS = 20


@contextlib.contextmanager
def by_the_first_process() -> Iterator[None]:
    """Lets only the first of several processes print what the block prints."""
    from ladder_jax import parallel

    if parallel.is_primary():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def predictions(predictions: Any) -> None:
    """Prints predictions with measured values, and their mean errors."""
    from fitting.report import report

    texts = predictions[predictions["pred"].isna()]
    for cells in (report.prediction_cells(predictions), report.loss_cells(texts)):
        if len(cells) > 1:
            columns(cells)
    for line in report.summary(predictions):
        print(line)


def notes(texts: Mapping[str, Collection[str]], n_tasks: int) -> None:
    """Prints notes, given as text -> the tasks (of `n_tasks` in all) for which it holds."""
    for text, tasks in texts.items():
        every = len(tasks) == n_tasks > 1
        print(f"note: {text}: {'all tasks' if every else ', '.join(tasks)}")


def problems(problems: list[Problem], strict: bool) -> None:
    """Prints bad rows; with `strict`, raises InputError instead of leaving them out."""
    for problem in problems[:_SHOWN_PROBLEMS]:
        print(problem, file=sys.stderr)
    if len(problems) > _SHOWN_PROBLEMS:
        print(f"... and {len(problems) - _SHOWN_PROBLEMS} more", file=sys.stderr)
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} (above)"
    if problems and strict:
        raise InputError(f"{count}; nothing was written")
    if problems:
        print(f"{count}: bad rows and cells are left out; --strict fails", file=sys.stderr)


def columns(rows: list[list[str]]) -> None:
    """Prints rows of text in columns: the first column left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        first, *rest = (cell.rjust(w) for cell, w in zip(row, widths, strict=True))
        print("  ".join([row[0].ljust(len(first)), *rest]))


def cell(value: Any) -> str:
    """A number in few digits, or text."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and value < 1e16 else _short(value)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int) else str(value)
