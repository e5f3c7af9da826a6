"""The paper's analyses by name: a function each, from `PublishedRuns` to tables and figures.

Command:  python -m experiments.task_ladders [NAME ...]
Expected numbers and times: README.md.
"""

from __future__ import annotations

from collections.abc import Callable

from experiments.task_ladders.measured import multiple_choice, set_size, variance
from experiments.task_ladders.result import Result
from experiments.task_ladders.steps import chained, compute_only, single_step, step1, step2
from experiments.task_ladders.study import PublishedRuns
from experiments.task_ladders.subladders import compute_vs_error, design

ANALYSES: dict[str, Callable[[PublishedRuns], Result]] = {
    "step1": step1,
    "step2": step2,
    "chained": chained,
    "compute-only": compute_only,
    "single-step": single_step,
    "multiple-choice": multiple_choice,
    "variance": variance,
    "set-size": set_size,
    "compute-vs-error": compute_vs_error,
    "design": design,
}
