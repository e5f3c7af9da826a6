"""The measurement table: its schema, and how it is read, checked and written.

Long format, one row per (run, step, task, metric); CSV or Parquet by ending; unknown cells are
empty.  Every error message names file, row (as a text editor counts lines, the header being 1) and
field, and says what to do.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from fitting.errors import InputError, Problem, first_line
from fitting.io import write_atomically


class Read(NamedTuple):
    """The good rows of a table, and the problems of the others."""

    frame: pd.DataFrame
    problems: list[Problem]


TEXT_COLUMNS = ("run", "size", "task", "metric")
INTEGER_COLUMNS = ("seed", "step", "n_params", "n_params_total", "n_tokens", "n_examples")
REAL_COLUMNS = ("multiple", "flops", "lr", "lr_peak", "value")
COLUMNS = (
    "run", "size", "multiple", "seed", "step", "n_params", "n_params_total", "n_tokens",
    "flops", "lr", "lr_peak", "task", "metric", "value", "n_examples",
)  # fmt: skip
OPTIONAL_INTEGERS = ("n_params_non_embedding", "unique_tokens", "batch_tokens", "d_model",
                     "n_layers")  # fmt: skip
OPTIONAL_COLUMNS = (*OPTIONAL_INTEGERS, "init")  # absent from most tables
MAX_INTEGER = 2.0**62
REQUIRED = ("run", "task", "metric", "value")  # may not be empty; the others may
PER_RUN = ("size", "multiple", "seed", "n_params", "n_params_total", "n_params_non_embedding",
           "d_model", "n_layers", "init")  # fmt: skip
_TEXT, _INTEGERS = (*TEXT_COLUMNS, "init"), (*INTEGER_COLUMNS, *OPTIONAL_INTEGERS)

_UNIT, _LOSS = (0.0, 1.0), (0.0, np.inf)
METRICS: dict[str, tuple[float, float]] = {
    "bpb": _LOSS,
    "bpb_with_space": _LOSS,
    "acc": _UNIT,
    "acc_per_char": _UNIT,
    "acc_per_char_with_space": _UNIT,
    "acc_per_byte": _UNIT,
    "acc_per_token": _UNIT,
    "acc_uncond": _UNIT,
    "choice_prob": _UNIT,
    "task_ce": _LOSS,
    "lm_loss": _LOSS,
    "lm_bpb": _LOSS,
}  # metric -> the interval its values lie in


def check_value(metric: str, value: float) -> str | None:
    """The problem of one value of a metric, in words; None if it is valid."""
    if metric not in METRICS:
        return f"metric {metric!r} is unknown: use one of {', '.join(METRICS)}"
    if not np.isfinite(value):
        return f"{metric} is {value}: it must be a finite number"
    low, high = METRICS[metric]
    if value < low:
        return f"{metric} is {value:g}: it cannot be negative"
    if value > high:
        return f"{metric} is {value:g}: it cannot exceed {high:g} (fractions, not percent)"
    return None


def read_rows(path: Path, required: tuple[str, ...]) -> Read:
    """Reads a CSV as text, setting aside rows that were cut or have too many fields.

    Args:
        path: the file.
        required: columns that must be in the header.

    Returns:
        A frame of strings whose index holds the rows' line numbers, and the problems.

    Raises:
        InputError: the file cannot be read, has no header or no good row, or lacks a column.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            lines = f.read().replace("\r\n", "\n").split("\n")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}") from None
    header = _fields(lines[0])
    if not header or header == [""]:
        raise InputError(f"{path}: row 1: no header; is this a table?")
    for column in required:
        if column not in header:
            raise InputError(f"{path}: row 1: column {column!r} is missing; add it")
    if len(set(header)) < len(header):
        twice = next(c for c in header if header.count(c) > 1)
        raise InputError(f"{path}: row 1: column {twice!r} is there twice; remove one")
    numbers, rows, problems = [], [], []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        row = _fields(line)
        if row is None:
            problems.append(Problem(str(path), number, "a quote is not closed: correct the row"))
        elif len(row) != len(header):
            found = f"{len(row)} fields where the header has {len(header)}"
            problems.append(Problem(str(path), number, f"{found}: restore the row"))
        elif number == len(lines):  # nothing, not even a line end, follows it
            cut = "no line end: the file may be cut; add a line end if the row is whole"
            problems.append(Problem(str(path), number, cut))
        else:
            numbers.append(number)
            rows.append(row)
    if not rows:
        first = problems[0] if problems else Problem(str(path), None, "holds no rows")
        raise InputError(str(first))
    return Read(pd.DataFrame(rows, columns=header, index=numbers, dtype=str), problems)


def _fields(line: str) -> list[str] | None:
    """The cells of one line; None if a quote is left open.  No cell may span lines."""
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error:
        return None


def to_numbers(text: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Parses a column of text: float64 with NaN for empty cells, and a mask of unparsable ones."""
    stripped = text.str.strip()
    numbers = pd.to_numeric(stripped, errors="coerce").astype(float)
    spelled_nan = stripped.str.lower().isin(["nan", "inf", "-inf", "+inf", "infinity"])
    bad = (numbers.isna() & (stripped != "")) | spelled_nan
    return numbers, bad


def read(path: str | Path, strict: bool = False) -> Read:
    """Reads and checks a measurement table.

    Args:
        path: a `.csv` or `.parquet` file in the measurement schema.
        strict: raise if any row is bad, rather than set it aside.

    Returns:
        The good rows, in file order, with all of `COLUMNS`, the `OPTIONAL_COLUMNS` that the file
        has and a fresh index; and one `Problem` for each row set aside.

    Raises:
        InputError: unreadable file, missing column, or (strict) the first bad row.
    """
    path = Path(path)
    if _kind(path) == "csv":
        raw, problems = read_rows(path, COLUMNS)
        bad_rows = _BadRows(raw.index)
        frame = _parse(raw, bad_rows)
    else:
        frame, problems = _read_parquet(path), []
        bad_rows = _BadRows(frame.index)
    _check(frame, bad_rows)
    problems = sorted(problems + bad_rows.problems(str(path)), key=lambda p: p.row or 0)
    fail_if(problems, strict)
    good = frame.loc[bad_rows.fine, columns_of(frame)].reset_index(drop=True)
    return Read(good.astype({c: "Int64" for c in good if c in _INTEGERS}), problems)


def columns_of(frame: pd.DataFrame) -> list[str]:
    """The columns of a table that belong to the schema: `COLUMNS`, and the optional ones it has."""
    return [*COLUMNS, *(column for column in OPTIONAL_COLUMNS if column in frame)]


def fail_if(problems: list[Problem], strict: bool) -> None:
    """Raises for the first of the problems if `strict`."""
    if strict and problems:
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{others}")


def validate(frame: pd.DataFrame, source: str = "table") -> list[Problem]:
    """Problems of a frame in memory; rows count from 2, as if it had been written to a CSV."""
    missing = [c for c in COLUMNS if c not in frame.columns]
    if missing:
        return [Problem(source, 1, f"column {missing[0]!r} is missing; add it")]
    numbered = frame.set_axis(np.arange(2, len(frame) + 2))
    bad_rows = _BadRows(numbered.index)
    _check(numbered, bad_rows)
    return bad_rows.problems(source)


def write(frame: pd.DataFrame, path: str | Path) -> None:
    """Writes a measurement table, whole or not at all; floats keep every digit.

    Raises:
        InputError: the frame has a bad row, or the path cannot be written.
    """
    kind = _kind(Path(path))
    fail_if(validate(frame, str(path)), strict=True)
    frame = frame.loc[:, columns_of(frame)]
    write_atomically(
        path,
        (lambda p: frame.to_csv(p, index=False, lineterminator="\n"))
        if kind == "csv"
        else (lambda p: frame.to_parquet(p, index=False)),
    )


def _kind(path: Path) -> str:
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("csv", "parquet"):
        raise InputError(f"{path}: ends in neither .csv nor .parquet; rename it")
    return kind


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: cannot be read: {first_line(e)}") from None
    for column in columns_of(frame):
        if column not in frame.columns:
            raise InputError(f"{path}: row 1: column {column!r} is missing; add it")
        if column in _TEXT:
            frame[column] = frame[column].fillna("").astype(str).str.strip()
        elif frame[column].isna().all():
            frame[column] = np.nan
        elif not pd.api.types.is_numeric_dtype(frame[column].dtype):
            raise InputError(f"{path}: column {column!r} holds {frame[column].dtype}: use numbers")
    if frame.empty:
        raise InputError(f"{path}: holds no rows")
    return frame.set_axis(np.arange(2, len(frame) + 2))


class _BadRows:
    """The first problem of each row of a frame, by index label."""

    def __init__(self, index: pd.Index) -> None:
        self.index = index
        self.by_line: dict[int, str] = {}

    def add(self, mask: pd.Series, message: Callable[[int], str]) -> None:
        for line in mask.index[mask.to_numpy(bool)]:
            if line not in self.by_line:
                self.by_line[line] = message(line)

    @property
    def fine(self) -> pd.Series:
        return pd.Series(~self.index.isin(list(self.by_line)), index=self.index)

    def problems(self, source: str) -> list[Problem]:
        return [Problem(source, int(line), text) for line, text in sorted(self.by_line.items())]


def _parse(raw: pd.DataFrame, bad_rows: _BadRows) -> pd.DataFrame:
    """A frame of text, indexed by line, as numbers and text; notes cells that are not numbers."""
    frame = pd.DataFrame(index=raw.index)
    for column in columns_of(raw):
        if column in _TEXT:
            frame[column] = raw[column].str.strip()
        else:
            frame[column], bad = to_numbers(raw[column])
            bad_rows.add(bad, lambda i, c=column: f"{c} is {raw.at[i, c]!r}: write a number")
    return frame


def _check(frame: pd.DataFrame, bad_rows: _BadRows) -> None:
    """Notes every row of typed columns that breaks the schema."""
    for column in [c for c in columns_of(frame) if c not in _TEXT]:
        numbers = frame[column].astype(float)
        if column != "value":
            wrong = (numbers < 0) | numbers.isin([np.inf])
            bad_rows.add(wrong, lambda i, c=column: f"{c} is {frame.at[i, c]}: check the sign")
        if column in _INTEGERS:
            fraction = (numbers % 1 > 0) | (numbers > MAX_INTEGER)
            bad_rows.add(fraction, lambda i, c=column: f"{c} is {frame.at[i, c]}: no integer")
    for column in [c for c in ("n_params", "n_tokens", "unique_tokens") if c in frame]:
        zero = (frame[column] == 0).fillna(False)
        bad_rows.add(zero, lambda i, c=column: f"{c} is 0: leave it empty if unknown")
    for column in REQUIRED:
        empty = frame[column].isna() | (frame[column] == "")
        bad_rows.add(empty, lambda i, c=column: f"{c} is empty or NaN: write its value")
    known = list(METRICS)
    low, high = (frame["metric"].map({m: METRICS[m][k] for m in known}) for k in (0, 1))
    value = frame["value"].astype(float)
    wrong = ~((value >= low) & (value <= high) & np.isfinite(value))
    metric = frame["metric"].astype(str)
    bad_rows.add(wrong, lambda i: check_value(metric[i], value[i]) or "value is bad: correct it")
    _check_runs(frame, bad_rows)


def _check_runs(frame: pd.DataFrame, bad_rows: _BadRows) -> None:
    """Notes repeated measurements, and runs with two sizes, seeds or parameter counts."""
    ok = frame[bad_rows.fine]
    when = ok["step"].where(ok["step"].notna(), ok["n_tokens"])
    twice = ok[["run", "task", "metric"]].assign(when=when).duplicated()
    bad_rows.add(
        twice,
        lambda i: (
            f"run {ok.at[i, 'run']!r} has {ok.at[i, 'metric']} of {ok.at[i, 'task']!r} "
            f"at step {when[i]} a second time: remove one"
        ),
    )
    for column in [column for column in PER_RUN if column in ok]:
        values = ok[column].replace("", None) if column in _TEXT else ok[column]
        first = values.groupby(ok["run"]).transform("first")
        differs = (values.notna() & (values != first)).fillna(False)
        bad_rows.add(
            differs,
            lambda i, c=column, f=first: (
                f"{c} is {ok.at[i, c]} where run {ok.at[i, 'run']!r} began with {f[i]}: "
                "give each run one"
            ),
        )
