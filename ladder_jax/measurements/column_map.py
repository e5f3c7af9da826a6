"""The map from the columns of somebody's CSV to the columns of the measurement table."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from fitting.errors import InputError
from fitting.table import COLUMNS
from ladder_jax.measurements.column_forms import ROW, Condition, Form

FILL_IN = "FILL IN"  # begins the name of a column that a guessed map leaves open
MEASURED = ("task", "metric", "value", "n_examples")  # columns that each measure has of its own
PER_ROW = tuple(column for column in COLUMNS if column not in MEASURED)


@dataclass(frozen=True)
class Measure:
    """One metric of one task, or of the tasks that a column names."""

    column: str
    task: Form
    metric: Form
    value: Form
    n_examples: Form

    @property
    def columns(self) -> tuple[str, ...]:
        forms = (self.task, self.metric, self.value, self.n_examples)
        return tuple(column for form in forms for column in form.columns)


@dataclass(frozen=True)
class ColumnMap:
    """What each column of the measurement table is made of, and which rows are read."""

    name: str
    note: str
    where: tuple[Condition, ...]
    fields: dict[str, Form]
    measures: tuple[Measure, ...]

    @property
    def columns(self) -> set[str]:
        """The columns of the file that the map reads."""
        parts = (*self.where, *self.fields.values(), *self.measures)
        return {column for part in parts for column in part.columns}


def nearest(word: str, words: Collection[str]) -> str:
    """The most similar of some words, whatever their case."""

    def similarity(other: str) -> float:
        return difflib.SequenceMatcher(None, word.lower(), other.lower()).ratio()

    return max(sorted(words), key=similarity)


def check_columns(map_: ColumnMap, header: Sequence[str], file: Path) -> None:
    """Raises InputError for the first column of a map that a file lacks, with the nearest one."""
    parts = [
        *((f"where {form.column!r}", form) for form in map_.where),
        *map_.fields.items(),
        *((f"measure {k}", measure) for k, measure in enumerate(map_.measures, start=1)),
    ]
    for where, form in parts:
        for column in form.columns:
            of_template = column == ROW and ROW not in header
            if column.startswith(FILL_IN):
                raise InputError(f"{map_.name}: {where}: {column!r}: write a column of {file}")
            if column not in header and not of_template:
                text = (
                    f"{file} has no column {column!r}; the nearest is {nearest(column, header)!r}"
                )
                raise InputError(f"{map_.name}: {where}: {text}")
