"""Reads a map: a JSON file, or a shipped one of a public table (in `maps/`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fitting.errors import InputError, first_line
from fitting.table import METRICS, TEXT_COLUMNS
from ladder_jax.measurements.column_forms import (
    OPERATIONS,
    Combined,
    Condition,
    Constant,
    Form,
    Lookup,
    Number,
    Template,
)
from ladder_jax.measurements.column_map import PER_ROW, ColumnMap, Measure, nearest

FORMULAS = {
    ("flops", "6nd"): {"product": [6, "n_params", "n_tokens"]},
    ("n_tokens", "flops/6n"): {"quotient": ["flops", {"product": [6, "n_params"]}]},
}  # column and word -> what it stands for, in columns of the measurement table
_MEASURE_KEYS = ("column", "times", "task", "metric", "n_examples", "scale")


def read_map(name: str) -> ColumnMap:
    """Reads a map.

    Args:
        name: a JSON file, or the name of a shipped map.

    Raises:
        InputError: it cannot be read, or has an unknown key or form; the message has the nearest.
    """
    content = _content(name)
    names = [name]
    while isinstance(content, dict) and "base" in content:
        names.append(str(content.pop("base")))
        if names[-1] in names[:-1]:
            raise InputError(f"{name}: base {names[-1]!r} leads back to itself: remove it")
        base = _content(names[-1])
        content = base | content if isinstance(base, dict) else base
    return _Parser(name).map(content)


def shipped() -> list[str]:
    """The names of the maps of public tables."""
    folder = resources.files("ladder_jax.measurements") / "maps"
    return sorted(file.name.removesuffix(".json") for file in folder.iterdir())


def _content(name: str) -> Any:
    try:
        return json.loads(_text(name), object_pairs_hook=_unique, parse_constant=_no_constant)
    except ValueError as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"{name}: is no map in JSON: {first_line(e)}") from None


def _text(name: str) -> str:
    path = Path(name)
    try:
        if name.endswith(".json") or path.is_file():
            return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{name}: cannot be read: {first_line(e)}") from None
    if name not in shipped():
        known = ", ".join(shipped())
        text = (
            f"is neither a file nor shipped; the nearest of {known} is {nearest(name, shipped())!r}"
        )
        raise InputError(f"`map` {name!r} {text}")
    file = resources.files("ladder_jax.measurements") / "maps" / f"{name}.json"
    return file.read_text(encoding="utf-8")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"{key!r} is there twice: remove one")
    return dict(pairs)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


@dataclass(frozen=True)
class _Parser:
    """Makes forms of JSON; every error begins with the map's name and the place in it."""

    name: str

    def fail(self, place: str, text: str) -> NoReturn:
        raise InputError(f"{self.name}: {place}: {text}" if place else f"{self.name}: {text}")

    def keys(self, place: str, given: Any, allowed: Sequence[str], required: Sequence[str]) -> None:
        """Refuses what is no object, keys that are not allowed, and the lack of required ones."""
        if not isinstance(given, dict):
            self.fail(place, f"is {json.dumps(given)}: write an object with {', '.join(allowed)}")
        for key in given:
            if key not in allowed:
                self.fail(
                    place, f"key {key!r} is unknown; the nearest is {nearest(key, allowed)!r}"
                )
        for key in required:
            if key not in given:
                self.fail(place, f"{key!r} is missing: add it")

    def map(self, content: Any) -> ColumnMap:
        allowed = ("base", "note", "where", *PER_ROW, "measure")
        self.keys("", content, allowed, ("run", "measure"))
        note = content.get("note", "")
        if not isinstance(note, str):
            self.fail("note", "write a text")
        where = content.get("where", {})
        if not isinstance(where, dict):
            self.fail("where", 'write an object, as {"dataset": ["rpj"]}')
        measures = content["measure"]
        if not isinstance(measures, list) or not measures:
            self.fail("measure", "write a list of at least one object")
        return ColumnMap(
            self.name,
            note,
            tuple(self.condition(column, given) for column, given in where.items()),
            self.fields({key: content[key] for key in PER_ROW if key in content}),
            tuple(self.measure(f"measure {k}", m) for k, m in enumerate(measures, start=1)),
        )

    def condition(self, column: str, given: Any) -> Condition:
        place = f"where {column!r}"
        if isinstance(given, list) and given:
            if not all(isinstance(value, str | int | float | bool) for value in given):
                self.fail(place, "write a list of texts, numbers, true or false")
            return Condition(column, tuple(given))
        if not isinstance(given, dict) or not given:
            self.fail(place, 'write a list of values, or a range as {"min": 1, "max": 9}')
        self.keys(place, given, ("min", "max"), ())
        low, high = given.get("min", -np.inf), given.get("max", np.inf)
        return Condition(column, low=self.constant(place, low), high=self.constant(place, high))

    def fields(self, given: dict[str, Any]) -> dict[str, Form]:
        """The columns that all measurements of a row share; formulas last, since they use them."""
        formulas = {column: FORMULAS.get((column, str(word))) for column, word in given.items()}
        found = {
            column: self.text(column, form, column_name=True)
            if column in TEXT_COLUMNS
            else self.number(column, form)
            for column, form in given.items()
            if formulas[column] is None
        }
        made = {
            column: self.formula(f"{column} {given[column]!r}", formula, found)
            for column, formula in formulas.items()
            if formula is not None
        }
        return found | made

    def formula(self, place: str, formula: Any, fields: dict[str, Form]) -> Form:
        if isinstance(formula, dict):
            ((operation, terms),) = formula.items()
            return Combined(operation, tuple(self.formula(place, term, fields) for term in terms))
        if isinstance(formula, int):
            return Constant(formula)
        if formula not in fields:
            self.fail(place, f"needs {formula!r}: map a column to it")
        return fields[formula]

    def constant(self, place: str, given: Any) -> float:
        if isinstance(given, bool) or not isinstance(given, int | float):
            self.fail(place, f"{json.dumps(given)} is no number")
        return float(given)

    def number(self, place: str, given: Any) -> Form:
        if isinstance(given, str):
            return Number(given)
        if not isinstance(given, dict):
            return Constant(self.constant(place, given))
        self.keys(place, given, ("column", "times", "values", *OPERATIONS), ())
        operation = next((key for key in given if key in OPERATIONS), None)
        if operation is None:
            self.keys(place, given, ("column", "times", "values"), ("column",))
            times = self.constant(place, given.get("times", 1))
            column = self.column(place, given["column"])
            if "values" not in given:
                return Number(column, times)
            values = self.values(place, given["values"])
            return Lookup(column, {k: self.constant(place, v) * times for k, v in values.items()})
        self.keys(place, given, (operation,), ())
        terms = given[operation]
        if not isinstance(terms, list) or len(terms) < 2:
            self.fail(place, f"{operation!r}: write a list of two or more columns or numbers")
        return Combined(operation, tuple(self.number(place, term) for term in terms))

    def text(self, place: str, given: Any, column_name: bool) -> Form:
        """A template or lookup; text without braces is a column name, or stands for itself."""
        if isinstance(given, str) and given:
            bare = "{" not in given and "}" not in given
            template = Template(f"{{{given}}}" if bare and column_name else given)
            left = template.text
            for column in template.placeholders:
                left = left.replace(f"{{{column}}}", "", 1)
            if "{" in left or "}" in left:
                self.fail(place, f"{given!r} has a brace without its other one: write '{{column}}'")
            return template
        if not isinstance(given, dict):
            self.fail(place, f"is {json.dumps(given)}: write a text as '{{dataset}}-{{model}}'")
        self.keys(place, given, ("column", "values"), ("column",))
        column = self.column(place, given["column"])
        if "values" not in given:
            return Template(f"{{{column}}}")
        values = self.values(place, given["values"])
        if not all(isinstance(value, str) for value in values.values()):
            self.fail(place, "'values' has a value that is no text")
        return Lookup(column, values, empty="")

    def column(self, place: str, given: Any) -> str:
        if not isinstance(given, str) or not given:
            self.fail(place, f"'column' is {json.dumps(given)}: write the name of a column")
        return given

    def values(self, place: str, given: Any) -> dict[str, Any]:
        if not isinstance(given, dict) or not given:
            self.fail(place, "'values' is no object: write one entry for each value of the column")
        return given

    def measure(self, place: str, given: Any) -> Measure:
        self.keys(place, given, _MEASURE_KEYS, ("column", "task", "metric"))
        metric = self.text(f"{place}: metric", given["metric"], column_name=False)
        named = metric.table.values() if isinstance(metric, Lookup) else [given["metric"]]
        for word in [] if isinstance(metric, Template) and metric.columns else named:
            if word not in METRICS:
                text = f"metric {word!r} is unknown; the nearest is {nearest(str(word), METRICS)!r}"
                self.fail(place, f"{text}, of {', '.join(METRICS)}")
        times = self.constant(place, given.get("times", 1)) * self.constant(
            place, given.get("scale", 1)
        )
        column = self.column(place, given["column"])
        n_examples = given.get("n_examples")
        return Measure(
            column,
            self.text(f"{place}: task", given["task"], column_name=False),
            metric,
            Number(column, times),
            Constant(np.nan) if n_examples is None else self.number(place, n_examples),
        )
