"""Locks: hashes that show whether a forecast was changed after it was made.

A lock covers the forecast, the measurements it was made from, the config, and the version of the
program.  Columns that are measured afterwards are left out.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fitting.errors import InputError
from fitting.forecast.predict import MEASURED_COLUMNS, PREDICTION_COLUMNS, TaskForecast
from fitting.io import write_atomically
from fitting.table import COLUMNS, INTEGER_COLUMNS, REAL_COLUMNS

_FORECAST_COLUMNS = [c for c in PREDICTION_COLUMNS if c not in MEASURED_COLUMNS]
_KEYS = ("sha256", "data_sha256", "config_sha256", "config", "version", "columns")
_ORDER = ["run", "task", "metric", "step", "n_tokens"]


def config_of(
    forecasts: Sequence[TaskForecast], train: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of forecasts and the names that they selected, ready for JSON.

    Args:
        forecasts: the forecasts to lock, made by one call.
        train: patterns of the fitted runs.
        settings: fields of `fitting.forecast.ForecastSpec` other than train, targets and tasks.

    Returns:
        `settings`, `train`, and: `fitted`, names of runs; `targets`, name -> n_params, n_tokens,
        flops; `tasks`, label -> `loss` or `acc` -> (task, metric); names of the `law` and the
        `link`; `features` of a pooled posterior.
    """
    targets = forecasts[0].measured[["run", "n_params", "n_tokens", "flops"]]
    observed = [forecast.data.observations for forecast in forecasts]
    link = next((task.link.name for task in observed if task.link is not None), None)
    return dict(settings) | {
        "train": list(train),
        "fitted": list(dict.fromkeys(str(run) for f in forecasts for run in f.final["run"])),
        "targets": {
            str(target.pop("run")): {name: _json_number(value) for name, value in target.items()}
            for target in targets.to_dict("records")
        },
        "tasks": {f.task: {name: list(c) for name, c in f.columns.items()} for f in forecasts},
        "law": observed[0].law.name,
        "link": link,
        "features": list(forecasts[0].posteriors),
    }


def make(
    predictions: pd.DataFrame, measurements: pd.DataFrame, config: Any, version: str
) -> dict[str, Any]:
    """Makes the lock of a forecast.

    Args:
        predictions: in the pinned columns.
        measurements: the rows that were fitted, and no others.
        config: the settings of the forecast, ready for JSON; see `config_of`.
        version: version of the program.
    """
    parts = {
        "data_sha256": data_sha256(measurements),
        "config_sha256": _config_sha256(config),
        "config": config,
        "version": version,
        "columns": _FORECAST_COLUMNS,
    }
    made = {"sha256": _sha256(predictions, parts)} | parts
    return json.loads(json.dumps(made))  # equal to what will be read back


def hold(lock: dict[str, Any], path: Path) -> None:
    """Writes a lock, or checks that an existing one is equal.

    Raises:
        InputError: the existing lock differs; the message names the part that differs.
    """
    check(lock, path)
    if not path.is_file():
        text = json.dumps(lock, indent=2) + "\n"
        write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def check(lock: dict[str, Any], path: Path) -> None:
    """Checks that the lock at a path, if there is one, equals this one.

    Raises:
        InputError: the existing lock differs; the message names the part that differs.
    """
    if not path.is_file():
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path}: is damaged: restore it, or use another `out`") from None
    if stored != lock:
        known = stored if isinstance(stored, dict) else {}
        differs = next((k for k in reversed(lock) if known.get(k) != lock[k]), "keys")
        raise InputError(
            f"{path}: holds another forecast ({differs} differs), which cannot be replaced "
            "after the fact: use another `out`"
        )


def read(path: Path) -> dict[str, Any]:
    """Reads a lock.

    Raises:
        InputError: the file does not exist, or is damaged.
    """
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not found: `ladder predict --lock` makes it") from None
    except (OSError, ValueError):
        raise InputError(f"{path}: cannot be read as a lock: restore it") from None
    if not isinstance(lock, dict) or not isinstance(lock.get("config"), dict):
        raise InputError(f"{path}: is no lock of a forecast: name another file")
    lacking = [key for key in _KEYS if key not in lock]
    if lacking:
        raise InputError(f"{path}: lacks {', '.join(lacking)}: restore it")
    return lock


def verify(
    predictions: pd.DataFrame, lock: dict[str, Any], source: str | Path, path: str | Path
) -> None:
    """Checks that predictions are unchanged since they were locked.

    Args:
        predictions: in the pinned columns.
        lock: the result of `read`.
        source: path of the predictions, for messages.
        path: path of the lock, for messages.

    Raises:
        InputError: the predictions or the lock were changed.
    """
    parts = {key: value for key, value in lock.items() if key != "sha256"}
    if _config_sha256(lock["config"]) != lock["config_sha256"]:
        raise InputError(f"{path}: its config was changed after it was locked: restore it")
    if _sha256(predictions, parts) != lock["sha256"]:
        raise InputError(
            f"{source}: was changed after it was locked, or {path} is of another forecast: "
            "restore it"
        )


def data_sha256(measurements: pd.DataFrame) -> str:
    """Hash of measurements; it does not depend on the order of rows, nor on reading from a file."""
    types = dict.fromkeys(INTEGER_COLUMNS, "Int64") | dict.fromkeys(REAL_COLUMNS, "float64")
    frame = measurements[list(COLUMNS)].astype(types).sort_values(_ORDER, kind="stable")
    return _hash(frame.to_csv(index=False, lineterminator="\n"))


def _config_sha256(config: Any) -> str:
    return _hash(json.dumps(config, sort_keys=True))


def _sha256(predictions: pd.DataFrame, parts: dict[str, Any]) -> str:
    forecast = predictions[_FORECAST_COLUMNS].to_csv(index=False, lineterminator="\n")
    return _hash(json.dumps(parts, sort_keys=True) + "\n" + forecast)


def _json_number(value: float) -> float | None:
    """A number for JSON: None for NaN, which JSON lacks and which is not equal to itself."""
    return None if math.isnan(value) else float(value)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
