"""A map guessed from the columns of a CSV: `ladder measure --from csv --example`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from fitting.table import COLUMNS, METRICS, TEXT_COLUMNS, read_rows, to_numbers
from ladder_jax.measurements.column_map import FILL_IN

# What columns are called elsewhere, as words in lower case; the likelier pattern first.
_NAMES = {
    "run": (r"run( name| id)?", r"model( name)?", "checkpoint", "name"),
    "size": ("size",),
    "multiple": ("multiple", "multiplier"),
    "seed": ("seed",),
    "step": (r"(optimi[sz]er )?steps?", "iterations?"),
    "n_params": (r"n params", r"(num |n )?(params|parameters)", "param count", "model size", "n",
                 r".*\bparam(s|eters)?\b.*"),
    "n_params_total": (r"(n params total|total params)",),
    "n_tokens": (r"n tokens", r"(num |training |train )?tokens( seen)?", ".*data size", "d",
                 r".*\btokens\b.*"),
    "flops": (r"(training )?flops?", "compute", "c", r".*\bflops?\b.*"),
    "lr": ("lr", "learning rate"),
    "lr_peak": (r"lr peak|peak lr|max lr",),
}  # fmt: skip
_UNITS = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}  # at a name's end: Model Size (B)
_LEAST = {"n_params": 1e5, "n_tokens": 1e6}  # smaller numbers count something else
_NEEDED = ("run", "n_params", "n_tokens")  # by a forecast
_METRICS = (
    (r"(val|valid|validation|heldout|train) bpb", "lm_bpb"),
    (r"bpb|bits per byte", "bpb"),
    (r"acc norm", "acc_per_char"),
    (r"acc|accuracy", "acc"),
    (r"loss|nll|cross entropy", "lm_loss"),
)  # words in a column's name -> metric; the first that matches
_OF_METRICS = re.compile(r"(^|[_\W])(acc_norm|accuracy|acc|loss|nll|bpb)(?=$|[_\W])", re.I)
_SPREAD = re.compile(r"\b(std|stderr|se|error|sem)\b")


def of(file: str | Path) -> str:
    """A map of a file as JSON text, to be corrected by hand.

    A column is recognised by its name and by whether it holds numbers.  What a forecast needs and
    no column seems to hold begins with `FILL IN`, which the reader of maps refuses.

    Raises:
        InputError: the file cannot be read.
    """
    raw = read_rows(Path(file), ()).frame
    parsed = {str(column): to_numbers(raw[column]) for column in raw.columns}
    numbers = {column: cells for column, (cells, bad) in parsed.items() if not bad.any()}
    header = list(parsed)
    fields = _fields(header, numbers)
    used = {form if isinstance(form, str) else form["column"] for form in fields.values()}
    free = {column: cells for column, cells in numbers.items() if column not in used}
    return _written(fields, _measures(header, free))


def _words(column: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9]+", " ", column.lower()).split())


def _fields(header: list[str], numbers: dict[str, pd.Series]) -> dict[str, Any]:
    """Column of the measurement table -> the form guessed, in the table's order."""
    found: dict[str, Any] = {}
    used: set[str] = set()
    for field, patterns in _NAMES.items():
        columns = header if field in TEXT_COLUMNS else numbers
        forms = {column: _form(column) for column in columns if column not in used}
        for column, (_, times) in list(forms.items()):
            if field in _LEAST and not numbers[column].max() * times >= _LEAST[field]:
                del forms[column]
        matches = (
            column
            for pattern in patterns
            for column, (words, _) in forms.items()
            if re.fullmatch(pattern, words)
        )
        if (column := next(matches, None)) is not None:
            times = forms[column][1]
            found[field] = column if times == 1 else {"column": column, "times": times}
            used.add(column)
    if "n_tokens" not in found and {"flops", "n_params"} <= set(found):
        found["n_tokens"] = "flops/6n"
    missing = {field: f"{FILL_IN}: a column with {field}" for field in _NEEDED}
    missing["run"] = f"{FILL_IN}: a column, or a text with columns in braces"
    found = missing | {"flops": "6nd"} | found
    return {field: found[field] for field in COLUMNS if field in found}


def _form(column: str) -> tuple[str, float]:
    """The words of a column's name without a unit at the end, and the unit."""
    words, _, last = _words(column).rpartition(" ")
    if len(words) > 1 and last in _UNITS and last.upper() in column:
        return words, _UNITS[last]
    if len(words) > 1 and re.fullmatch(r"1e\d+", last):
        return words, float(last)
    return _words(column), 1


def _measures(header: list[str], numbers: dict[str, pd.Series]) -> list[dict[str, Any]]:
    """A measure for each column whose name speaks of a metric, else of those that hold shares."""
    metrics = {column: _metric(column) for column in numbers}
    if not any(metrics.values()):
        metrics = {
            column: "acc" if cells.dropna().between(0, 1).all() and cells.nunique() > 2 else None
            for column, cells in numbers.items()
        }
    named = next((column for column in header if _words(column) in ("task", "task name")), None)
    found = [
        {
            "column": column,
            "task": {"column": named} if named else _task(column),
            "metric": metric,
        }
        for column, metric in metrics.items()
        if metric
    ]
    open_ = {"column": f"{FILL_IN}: a column of values", "task": "TASK", "metric": "acc"}
    return found or [open_]


def _metric(column: str) -> str | None:
    """The metric that a column's name speaks of; None for errors of values, and other columns."""
    words = _words(column)
    if _SPREAD.search(words):
        return None
    if column in METRICS:
        return column
    return next((m for pattern, m in _METRICS if re.search(rf"\b({pattern})\b", words)), None)


def _task(column: str) -> str:
    """A column's name without its metric; all of it if it has no other part."""
    left = re.sub(r"[{}]", "", _OF_METRICS.sub(r"\1", column)).strip(" _-./:,|")
    return left or column


def _written(fields: dict[str, Any], measures: list[dict[str, Any]]) -> str:
    """JSON with a line for each field and measure."""
    lines = [f"  {json.dumps(field)}: {json.dumps(form)}" for field, form in fields.items()]
    body = ",\n    ".join(json.dumps(measure) for measure in measures)
    return "{\n" + ",\n".join([*lines, f'  "measure": [\n    {body}\n  ]']) + "\n}"
