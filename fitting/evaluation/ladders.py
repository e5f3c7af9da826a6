"""Ladders of a backtest: whose runs, which tasks, from one table each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from fitting.errors import InputError
from fitting.observations import select

ALL_TASKS = "all"  # stands for every task that all runs of a ladder have
_ACCURACIES, _TEXT_LOSSES = ("acc_per_char", "acc"), ("lm_bpb", "lm_loss")


@dataclass(frozen=True)
class MeasuredLadder:
    """A ladder of runs on which methods are compared.

    Attributes:
        name: unique among the ladders of a backtest.
        table: measurements, in the schema of `fitting.table`.
        train: shell patterns of its runs.
        tasks: labels; `main` stands for the paper's eight, `all` for `complete_tasks`.
        chance: task -> accuracy of guessing, for tasks with a label that is not known.
        targets: measured runs that are forecast from all runs and scored apart.
    """

    name: str
    table: pd.DataFrame
    train: Sequence[str] = ("*",)
    tasks: Sequence[str] = (ALL_TASKS,)
    chance: Mapping[str, float] = field(default_factory=dict)
    targets: Sequence[str] = ()

    @property
    def runs(self) -> list[str]:
        """Names of its runs.

        Raises:
            InputError: a pattern matches none.
        """
        return select.select_runs(self.table, self.train)

    @property
    def labels(self) -> list[str]:
        """Labels of its tasks.

        Raises:
            InputError: there are none.
        """
        every = complete_tasks(self.table, self.runs) if ALL_TASKS in self.tasks else []
        found = [t for task in self.tasks for t in (every if task == ALL_TASKS else [task])]
        return select.task_labels(found)

    @property
    def incomplete(self) -> list[str]:
        """Tasks that `all` leaves out, since some of the runs lack them."""
        if ALL_TASKS not in self.tasks:
            return []
        labels = self.labels
        return [task for task in _runs_with(self.table, self.runs) if task not in labels]


def complete_tasks(table: pd.DataFrame, runs: Sequence[str]) -> list[str]:
    """Tasks of which every run has the accuracy, and texts of which every run has the loss."""
    return [task for task, known in _runs_with(table, runs).items() if known == set(runs)]


def _runs_with(table: pd.DataFrame, runs: Sequence[str]) -> dict[str, set[str]]:
    """Tasks with an accuracy or a text's loss -> the runs that have it."""
    rows = table.loc[table["run"].isin(list(runs)), ["run", "task", "metric"]].drop_duplicates()
    found = {}
    for task, part in rows.groupby("task", sort=False):
        metrics = set(part["metric"])
        forecast = [m for m in (*_ACCURACIES, *_TEXT_LOSSES) if m in metrics]
        if forecast:  # the first is what `select.columns_of` reads
            found[str(task)] = set(part.loc[part["metric"] == forecast[0], "run"])
    return found


def ladders_of(
    tables: Mapping[str, pd.DataFrame],
    train: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    tasks: Sequence[str] = ("main",),
    chance: Mapping[str, float] | None = None,
    targets: Sequence[str] = (),
) -> list[MeasuredLadder]:
    """A ladder from each table, by settings that all of them share.

    A ladder has the runs that match, and the tasks and targets that its table has.  Targets are no
    runs of a ladder where `train` is `*`.

    Args:
        tables: name -> measurements.
        train: shell patterns of the runs.
        exclude: shell patterns of the runs to leave out.
        tasks: as for `MeasuredLadder`.
        chance: task -> accuracy of guessing.
        targets: names of measured runs.

    Raises:
        InputError: a pattern, a task or a target is in no table, or a table has no run or task.
    """
    everything = pd.concat([table[["run", "task"]] for table in tables.values()])
    select.select_runs(everything, train, exclude)
    labels = [
        t for one in tasks for t in ([one] if one == ALL_TASKS else select.task_labels([one]))
    ]
    for argument, column, names in (("tasks", "task", labels), ("targets", "run", targets)):
        known = {ALL_TASKS, *everything[column]}
        for name in names:
            if name not in known:
                place = "the table" if len(tables) == 1 else "any of the tables"
                raise InputError(f"`{argument}` {name!r} is not in {place}: check the name")
    if list(train) == ["*"]:
        exclude = [*exclude, *select.literal(targets)]
    return [
        _ladder(name, table, train, exclude, labels, targets, chance or {})
        for name, table in tables.items()
    ]


def _ladder(
    name: str,
    table: pd.DataFrame,
    train: Sequence[str],
    exclude: Sequence[str],
    labels: Sequence[str],
    targets: Sequence[str],
    chance: Mapping[str, float],
) -> MeasuredLadder:
    """One table's part of the settings."""
    names = [str(run) for run in table["run"].unique()]
    kept = [p for p in train if select.matching(names, [p])]
    if not kept:
        raise InputError(
            f"{name}: no run matches `train`; it has {select.shortened(names)}: leave the table out"
        )
    left_out = [p for p in exclude if select.matching(select.matching(names, kept), [p])]
    tasks = [t for t in labels if t == ALL_TASKS or (table["task"] == t).any()]
    if not tasks:
        some = select.shortened([str(t) for t in table["task"].unique()])
        raise InputError(f"{name}: has none of `tasks`; it has {some}: leave the table out")
    return MeasuredLadder(
        name,
        table,
        select.train_patterns(table, kept, left_out),
        tasks,
        chance,
        [target for target in targets if target in names],
    )
