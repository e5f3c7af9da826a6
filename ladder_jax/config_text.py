"""Configs as text, with draccus: JSON files, dotted overrides, and the id of a run.

A `RunConfig` round-trips through JSON, takes overrides (`--optim.lr_peak 3e-4`), and hashes to the
id of its run.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import draccus
from draccus.utils import DraccusException

from fitting.errors import InputError
from ladder_jax.config import EXECUTION, RunConfig

T = TypeVar("T")


def to_json(config: Any) -> str:
    """The canonical JSON text of a config, as it is stored in a run's directory."""
    normal = draccus.decode(type(config), draccus.encode(config))  # an int in a float field: 1.0
    return json.dumps(draccus.encode(normal), indent=2, sort_keys=True) + "\n"


def identity(run: RunConfig) -> dict[str, Any]:
    """Fields that decide a run's numbers and differ from their defaults, as a nested dict.

    Defaults are left out so that a field added to a config changes no run's id.  Fields of
    `EXECUTION`, which change results by rounding only, are left out too.
    """
    defaults = _values(type(run)())
    found: dict[str, Any] = {}
    for key, value in _values(run).items():
        if value != defaults[key]:
            *parents, leaf = key.split(".")
            node = found
            for part in parents:
                node = node.setdefault(part, {})
            node[leaf] = value
    return found


class Difference(NamedTuple):
    """A dotted key at which two configs differ, and its values in both."""

    key: str
    there: Any
    here: Any


def difference(there: RunConfig, here: RunConfig) -> Difference | None:
    """The first field, by name, in which the identities of two runs differ; None if in none."""
    a, b = _values(there), _values(here)
    for key in sorted({*a, *b}):
        if a.get(key) != b.get(key):
            return Difference(key, a.get(key), b.get(key))
    return None


def _values(run: RunConfig) -> dict[str, Any]:
    """Dotted key -> value of every field that is not one of `EXECUTION`."""
    leaves = _leaves(json.loads(to_json(run)))
    skipped = tuple(f"{key}." for key in EXECUTION)
    return {key: value for key, value in leaves.items() if not f"{key}.".startswith(skipped)}


def config_hash(run: RunConfig) -> str:
    """Twelve hexadecimal digits that name a run: SHA-256 of its identity as JSON."""
    text = json.dumps(identity(run), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def from_dict(cls: type[T], tree: dict[str, Any], source: str = "config") -> T:
    """Builds a config from a nested dict.

    Raises:
        InputError: one line that names `source` and the unknown or ill-typed field.
    """
    try:
        for key, value in _leaves(tree).items():
            if value is None:
                raise InputError(f"{key} cannot be None")
        config = draccus.decode(cls, tree)
        expected = _leaves(draccus.encode(config))
        for key, value in _leaves(tree).items():
            if not _same_kind(value, expected[key]):
                raise InputError(f"{key} cannot be {value!r}")
        return config
    except (DraccusException, InputError) as e:
        cause: BaseException = e
        while cause.__cause__ is not None and not isinstance(cause, InputError):
            cause = cause.__cause__  # draccus wraps the errors of our validation
        reason = cause if isinstance(cause, InputError) else e
        raise InputError(f"{source}: {' '.join(str(reason).split())}") from None


def load_json(cls: type[T], path: str | Path) -> T:
    """Reads a config that `to_json` wrote; raises what `from_dict` raises, or if it is no JSON."""
    try:
        tree = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror}") from None
    except ValueError as e:
        raise InputError(f"{path}: not valid JSON: {e}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: holds a {type(tree).__name__}; a config is a JSON object")
    return from_dict(cls, tree, str(path))


def override(config: T, arguments: Sequence[str]) -> T:
    """Applies dotted overrides such as `["--optim.lr_peak", "3e-4"]` to a config.

    Raises:
        InputError: one line that names the unknown or ill-typed key.
    """
    tree = draccus.encode(config)
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    for key in _leaves(tree):
        parser.add_argument(f"--{key}", dest=key, default=argparse.SUPPRESS)
    try:
        values, unknown = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as e:
        raise InputError(f"config: {e}") from None
    if unknown:
        near = _closest(unknown[0].lstrip("-").split("=")[0], list(_leaves(tree)))
        raise InputError(f"config: unknown key {unknown[0]!r}; did you mean --{near}?")
    for key, text in vars(values).items():
        *parents, leaf = key.split(".")
        node = tree
        for part in parents:
            node = node[part]
        node[leaf] = text if isinstance(node[leaf], str) else _literal(text)
    return from_dict(type(config), tree)


def _same_kind(given: Any, decoded: Any) -> bool:
    """Whether decoding kept the type: draccus also accepts true for 1, and text for a list."""
    if isinstance(decoded, float):
        return type(given) in (int, float) and math.isfinite(given)
    return type(given) is type(decoded)


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _closest(word: str, known: list[str]) -> str:
    return max(known, key=lambda k: difflib.SequenceMatcher(None, word, k).ratio())
