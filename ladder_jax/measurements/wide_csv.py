"""Importer of any CSV with a row for each run or checkpoint, by a map of its columns.

Tables may be wide (a column for each metric) or long (a column of task names).  The map is that of
`ladder_jax.measurements.map_file`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from fitting.errors import InputError, Problem
from fitting.table import COLUMNS, INTEGER_COLUMNS, TEXT_COLUMNS, read_rows, validate
from ladder_jax.measurements.column_forms import Lookup
from ladder_jax.measurements.column_map import (
    PER_ROW,
    ColumnMap,
    Measure,
    check_columns,
    nearest,
)
from ladder_jax.measurements.map_file import read_map

_COUNTS = ("n_params", "n_params_total", "n_tokens")  # rounded: files hold quotients and figures
_ORIGIN = ["file", "line"]
_MOST_NAMES = 8


class MappedTable(NamedTuple):
    """A measurement table, the bad rows and cells left out of it, and what else was left out."""

    frame: pd.DataFrame
    problems: list[Problem]
    notes: list[str]


def from_csv(files: Sequence[str | Path], maps: Sequence[str]) -> MappedTable:
    """Imports CSV files of other projects.

    Args:
        files: the files, each with a header.
        maps: for each file the JSON file of its map, or the name of a shipped one.

    Returns:
        The measurement table, in the order of the files; a problem for each row or cell that is
        bad; and notes on rows, cells, tasks and columns that were left out by the map.

    Raises:
        InputError: a file or map cannot be read, a map names a column that its file lacks, or no
            measurement is left.
    """
    if len(files) != len(maps):
        raise InputError(f"`map`: {len(maps)} for {len(files)} files: name one for each file")
    read = [read_map(name) for name in maps]
    parts = [_read(Path(file), map_) for file, map_ in zip(files, read, strict=True)]
    problems = [problem for part in parts for problem in part.problems]
    notes = [note for part in parts for note in part.notes]
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    if not frame.empty:
        frame, found = _checked(frame)
        problems += found
    if frame.empty:
        raise InputError(str(problems[0]) if problems else f"{files[0]}: holds no measurement")
    frame = frame.astype({column: "Int64" for column in INTEGER_COLUMNS} | {"flops": float})
    return MappedTable(frame.loc[:, list(COLUMNS)].reset_index(drop=True), problems, notes)


def _read(file: Path, map_: ColumnMap) -> MappedTable:
    """The measurements of one file, with their origin (file, line, column), not yet checked."""
    raw, problems = read_rows(file, ())
    header = list(raw.columns)
    check_columns(map_, header, file)
    rows, notes = _chosen(raw, file, map_)
    empty = {c: int((rows[c].str.strip() == "").sum()) for c in header if c in map_.columns}
    if any(empty.values()):
        notes.append("empty cells: " + _list([f"{c} {n}" for c, n in empty.items() if n]))
    if unused := [column for column in header if column not in map_.columns]:
        notes.append(f"columns that the map does not use: {_list(unused)}")
    fields, wrong = _fields(rows, map_, notes)
    problems += [Problem(str(file), line, text) for line, text in sorted(wrong.items())]
    rows, fields = (frame.drop(index=list(wrong)) for frame in (rows, fields))
    tables = []
    for measure in map_.measures:
        table, found = _measured(rows, measure, notes)
        problems += [Problem(str(file), line, text) for line, text in sorted(found.items())]
        tables.append(fields.loc[table.index].join(table))
    frame = pd.concat(tables).rename_axis("line").reset_index().assign(file=str(file))
    notes = [f"{file.name}: {note}" for note in [*([map_.note] if map_.note else []), *notes]]
    return MappedTable(frame.sort_values("line", kind="stable"), problems, notes)


def _chosen(raw: pd.DataFrame, file: Path, map_: ColumnMap) -> tuple[pd.DataFrame, list[str]]:
    """The rows that every condition of `where` keeps, and notes on the others."""
    keep, notes = pd.Series(True, index=raw.index), []
    for condition in map_.where:
        column = condition.column
        for value in condition.values:
            if not condition.equals(raw, value).any():
                near = nearest(str(value), set(raw[column].str.strip()))
                notes.append(f"where: no row has {column} {value!r}; the nearest is {near!r}")
        keep &= condition.of(raw)
        if not keep.any():
            text = f"leaves no row of {file}"
            raise InputError(f"{map_.name}: where {column!r}: {'; '.join([text, *notes[-1:]])}")
    if not keep.all():
        notes.append(f"where: {(~keep).sum()} of {len(raw)} rows are left out")
    return raw[keep], notes


def _fields(
    rows: pd.DataFrame, map_: ColumnMap, notes: list[str]
) -> tuple[pd.DataFrame, dict[int, str]]:
    """The columns that all measurements of a row share, and line -> message of wrong rows."""
    frame, wrong = pd.DataFrame(index=rows.index), {}
    for column in PER_ROW:
        if column not in map_.fields:
            frame[column] = "" if column in TEXT_COLUMNS else np.nan
            continue
        cells = map_.fields[column].of(rows)
        wrong = {line: f"{column}: {text}" for line, text in cells.wrong.items()} | wrong
        frame[column] = cells.values
        if column in _COUNTS:
            frame[column] = cells.values.round()
            moved = (frame[column] - cells.values).abs() > 1e-9 * cells.values  # not by float alone
            if changed := int(moved.sum()):
                notes.append(f"{column}: {changed} values are rounded to whole numbers")
    return frame, wrong


def _measured(
    rows: pd.DataFrame, measure: Measure, notes: list[str]
) -> tuple[pd.DataFrame, dict[int, str]]:
    """Task, metric, value and n_examples by line, and line -> message of wrong cells."""
    labels = {"task": measure.task.of(rows), "metric": measure.metric.of(rows)}
    for (name, cells), form in zip(labels.items(), (measure.task, measure.metric), strict=True):
        if isinstance(form, Lookup) and cells.wrong:
            others = rows.loc[list(cells.wrong), form.column].str.strip().value_counts()
            counts = _list([f"{label} {n} rows" for label, n in others.items()])
            notes.append(f"{name}s that the map does not list, left out: {counts}")
    unlisted = {line for cells in labels.values() for line in cells.wrong}
    numbers = {"value": measure.value.of(rows), "n_examples": measure.n_examples.of(rows)}
    wrong = {
        line: f"{measure.column}: {text}" if name == "n_examples" else text
        for name, cells in reversed(numbers.items())
        for line, text in cells.wrong.items()
        if line not in unlisted
    }
    columns = {name: cells.values for name, cells in (labels | numbers).items()}
    frame = pd.DataFrame(columns).assign(column=measure.column)
    left_out = frame["value"].isna() | frame.index.isin([*unlisted, *wrong])
    return frame[~left_out], wrong


def _checked(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """The measurements that the table allows, and a problem for each other one or its row."""
    rows = frame.drop_duplicates(_ORIGIN)
    alone = rows.assign(
        task=np.arange(len(rows)).astype(str), metric="lm_loss", value=0.0, n_examples=np.nan
    )
    problems, bad = [], []
    for problem in validate(alone):
        file, line = rows.iloc[(problem.row or 2) - 2][_ORIGIN]
        problems.append(Problem(file, int(line), problem.message))
        bad.append((file, line))
    frame = frame[~pd.MultiIndex.from_frame(frame[_ORIGIN]).isin(bad)]
    frame, found = _unique(frame)
    problems += found
    wrong = [(problem, (problem.row or 2) - 2) for problem in validate(frame)]
    for problem, k in wrong:
        file, line, column = frame.iloc[k][[*_ORIGIN, "column"]]
        problems.append(Problem(file, int(line), f"{column}: {problem.message}"))
    keep = np.ones(len(frame), bool)
    keep[[k for _, k in wrong]] = False
    return frame[keep], problems


def _unique(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """The first of several values of one measurement, and a problem with both rows for others."""
    when = frame["step"].where(frame["step"].notna(), frame["n_tokens"])
    keys = [frame["run"], when, frame["task"], frame["metric"]]
    first = pd.Series(frame.index, frame.index).groupby(keys, dropna=False).transform("first")
    later = first != frame.index
    problems = []
    for i in frame.index[later]:
        row, before = frame.loc[i], frame.loc[first[i]]
        same_file = before["file"] == row["file"]
        where = f"row {before['line']}" if same_file else f"{before['file']} row {before['line']}"
        text = (
            f"{row['column']}: run {row['run']!r} has {row['metric']} of {row['task']!r} in {where}"
        )
        text += " at the same step or tokens: name the runs or tasks apart, or remove one"
        problems.append(Problem(row["file"], int(row["line"]), text))
    return frame[~later], problems


def _list(names: Sequence[str]) -> str:
    """Names in a line, of which the last are only counted."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
