"""The score store: one row per (document, choice), from which every metric can be recomputed.

A store's `attrs`, kept in the file's metadata, say what was scored: `weights`, their fingerprint;
`cells`, the run's columns of the measurement table; by task, `keys`, a hash of its requests and
rows, so that nothing is scored twice, and `conditions`, a hash of the tokenizer and settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow

from fitting.errors import InputError, first_line
from fitting.io import write_atomically
from ladder_jax.eval.requests import Requests
from ladder_jax.tasks.task import Task

COLUMNS = (
    "task", "doc", "choice", "gold", "loglik", "loglik_unconditional", "n_chars", "n_bytes",
    "leading_space", "n_tokens", "prompt_hash",
)  # fmt: skip


def make(tasks: Sequence[Task], requests: Requests, loglik: np.ndarray) -> pd.DataFrame:
    """Rows in the order of tasks, documents and choices.

    Args:
        tasks: scored tasks.
        requests: those of the tasks.
        loglik: summed log-likelihood of each request in nats, shape (n_requests,).
    """
    rows = []
    for task in tasks:
        for i, document in enumerate(task.documents):
            for k, choice in enumerate(document.choices):
                text = choice.removeprefix(" ")
                rows.append(
                    (task.name, i, k, k == document.gold, len(text), len(text.encode()),
                     len(choice) - len(text), document.prompt_hash)
                )  # fmt: skip
    names = [c for c in COLUMNS if c not in ("loglik", "loglik_unconditional", "n_tokens")]
    frame = pd.DataFrame(rows, columns=names)
    frame["loglik"] = loglik[requests.conditional]
    apart = requests.unconditional
    frame["loglik_unconditional"] = np.where(apart < 0, np.nan, loglik[apart])
    frame["n_tokens"] = requests.n_tokens
    return frame[list(COLUMNS)]


def replaced(held: pd.DataFrame | None, frame: pd.DataFrame) -> pd.DataFrame:
    """A store in which `frame` replaces the tasks of the same names; keeps the attrs of `held`."""
    if held is None:
        return frame
    kept = held[~held["task"].isin(frame["task"].unique())]
    joined = pd.concat([kept, frame], ignore_index=True)
    joined.attrs = dict(held.attrs)
    return joined


def write(frame: pd.DataFrame, path: Path) -> None:
    """Writes a store as Parquet, whole or not at all."""
    write_atomically(path, lambda p: frame.to_parquet(p, index=False))


def read(path: Path) -> pd.DataFrame:
    """Reads a store.

    Raises:
        InputError: it cannot be read, or lacks a column.
    """
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError, pyarrow.ArrowException) as e:
        raise InputError(f"{path}: cannot be read: {first_line(e)}") from None
    for column in COLUMNS:
        if column not in frame.columns:
            raise InputError(f"{path}: column {column!r} is missing: score the checkpoint again")
    return frame
