"""What a map may say of one column of the measurement table, and how rows of text become its cells.

Numbers are a column, a constant, a column `times` a constant, a lookup by `values`, or the sum,
product or quotient of such; text is a template (`{dataset}-{model}`) or a lookup.  Every form has
the columns that it reads, and `of(rows)`: its cells, and a message for each that is wrong.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

from fitting.table import to_numbers

ROW = "row"  # in templates, unless a column has this name: the row's number in the file
OPERATIONS = {"sum": operator.add, "product": operator.mul, "quotient": operator.truediv}
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class Cells(NamedTuple):
    """Cells by line number, float64 (NaN if empty) or text, and line -> message of wrong ones."""

    values: pd.Series
    wrong: dict[int, str]


class Form(Protocol):
    """Cells made from the rows of a file, given as text whose index is the line numbers."""

    @property
    def columns(self) -> tuple[str, ...]: ...

    def of(self, rows: pd.DataFrame) -> Cells: ...


@dataclass(frozen=True)
class Constant:
    """A constant: every row gets the same number."""

    value: float
    columns: tuple[str, ...] = ()

    def of(self, rows: pd.DataFrame) -> Cells:
        return Cells(pd.Series(float(self.value), index=rows.index), {})


@dataclass(frozen=True)
class Number:
    """A column of numbers, times a constant."""

    column: str
    times: float = 1.0

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def of(self, rows: pd.DataFrame) -> Cells:
        numbers, bad = to_numbers(rows[self.column])
        found = {
            line: f"{self.column} is {rows.at[line, self.column]!r}: write a number"
            for line in rows.index[bad]
        }
        return Cells(numbers * self.times, found)


@dataclass(frozen=True)
class Lookup:
    """A number or text for each value of a column; an empty cell stays empty."""

    column: str
    table: Mapping[str, float | str]
    empty: float | str = np.nan

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def of(self, rows: pd.DataFrame) -> Cells:
        keys = rows[self.column].str.strip()
        unknown = ~keys.isin([*self.table, ""])
        text = "which `values` does not list: add it to the map"
        wrong = {line: f"{self.column} is {keys[line]!r}, {text}" for line in rows.index[unknown]}
        found = [self.table.get(key, self.empty) for key in keys]
        return Cells(pd.Series(found, index=rows.index, dtype=type(self.empty)), wrong)


@dataclass(frozen=True)
class Combined:
    """The sum, product or quotient of other numbers."""

    operation: str
    terms: tuple[Form, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column for term in self.terms for column in term.columns)

    def of(self, rows: pd.DataFrame) -> Cells:
        found = [term.of(rows) for term in self.terms]
        values = functools.reduce(OPERATIONS[self.operation], [cells.values for cells in found])
        wrong = {line: text for cells in reversed(found) for line, text in cells.wrong.items()}
        return Cells(values, wrong)


@dataclass(frozen=True)
class Template:
    """Text with `{column}` in the place of cells; empty where one of the cells is."""

    text: str

    @property
    def placeholders(self) -> tuple[str, ...]:
        return tuple(_PLACEHOLDER.findall(self.text))

    @property
    def columns(self) -> tuple[str, ...]:
        return self.placeholders

    def of(self, rows: pd.DataFrame) -> Cells:
        texts = pd.Series("", index=rows.index, dtype=object)
        empty = pd.Series(False, index=rows.index)
        for k, part in enumerate(_PLACEHOLDER.split(self.text)):  # text and columns in turn
            cells = self._cells(rows, part) if k % 2 else part
            empty |= cells == "" if k % 2 else False
            texts = texts + cells
        return Cells(texts.mask(empty, ""), {})

    def _cells(self, rows: pd.DataFrame, column: str) -> pd.Series:
        if column == ROW and ROW not in rows:
            return pd.Series([str(line) for line in rows.index], index=rows.index, dtype=object)
        return rows[column].str.strip().astype(object)


@dataclass(frozen=True)
class Condition:
    """Which rows of a file are read: a column is one of `values`, or from `low` to `high`."""

    column: str
    values: tuple[str | float | bool, ...] = ()
    low: float = -np.inf
    high: float = np.inf

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def of(self, rows: pd.DataFrame) -> pd.Series:
        """A mask of the rows; a cell that is no number lies in no range."""
        if not self.values:
            return to_numbers(rows[self.column])[0].between(self.low, self.high)
        return functools.reduce(operator.or_, [self.equals(rows, v) for v in self.values])

    def equals(self, rows: pd.DataFrame, value: str | float | bool) -> pd.Series:
        """A mask of the rows whose cell is `value`; numbers and truths are compared as such."""
        cells = rows[self.column].str.strip()
        if isinstance(value, bool):
            return cells.str.lower() == str(value).lower()
        return cells == value if isinstance(value, str) else to_numbers(cells)[0] == value
