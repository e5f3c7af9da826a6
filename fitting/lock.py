"""Forecasts that cannot be changed unseen between their making and what they are held against.

A lock is a hash over everything a forecast says, the measurements it was made from, the config and
the version that made it.  Columns that are measured afterwards are left out.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from fitting.predict import MEASURED_COLUMNS, PREDICTION_COLUMNS
from fitting.table import COLUMNS, InputError, write_atomically

_FORECAST_COLUMNS = [c for c in PREDICTION_COLUMNS if c not in MEASURED_COLUMNS]


def make(
    predictions: pd.DataFrame, measurements: pd.DataFrame, config: Any, version: str
) -> dict[str, Any]:
    """The lock of a forecast.

    Args:
        predictions: in the pinned columns.
        measurements: the rows that were fitted, and no others.
        config: what decided the forecast beside them, JSON-ready.
        version: of the program.
    """
    parts = {
        "data_sha256": _hash(measurements[list(COLUMNS)].to_csv(index=False, lineterminator="\n")),
        "config_sha256": _hash(json.dumps(config, sort_keys=True)),
        "config": config,
        "version": version,
        "columns": _FORECAST_COLUMNS,
    }
    forecast = predictions[_FORECAST_COLUMNS].to_csv(index=False, lineterminator="\n")
    made = {"sha256": _hash(json.dumps(parts, sort_keys=True) + "\n" + forecast)} | parts
    return json.loads(json.dumps(made))  # as it will be read back


def hold(lock: dict[str, Any], path: Path) -> None:
    """Writes a lock; one that stands already must say the same.

    Raises:
        InputError: it says otherwise, naming what differs.
    """
    if path.is_file():
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(f"{path}: is damaged: restore it, or use another --out") from None
        if theirs != lock:
            known = theirs if isinstance(theirs, dict) else {}
            differs = next((k for k in reversed(lock) if known.get(k) != lock[k]), "keys")
            raise InputError(
                f"{path}: holds another forecast ({differs} differs), which cannot be replaced "
                "after the fact: use another --out"
            )
        return
    text = json.dumps(lock, indent=2) + "\n"
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
