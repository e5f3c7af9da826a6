"""The score store: one row per (document, choice), from which every accuracy can be recomputed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fitting.table import InputError, write_atomically
from ladder_jax.eval.tasks import Task

COLUMNS = (
    "task", "doc", "choice", "gold", "loglik", "n_chars", "n_bytes", "leading_space", "n_tokens",
    "prompt_hash",
)  # fmt: skip


def make(tasks: Sequence[Task], loglik: np.ndarray, n_tokens: np.ndarray) -> pd.DataFrame:
    """Rows in request order; identical choices of a document share the first one's score.

    Args:
        tasks: in the order that was scored.
        loglik: summed log-likelihood of each request in nats.
        n_tokens: tokens of each continuation.
    """
    rows, first = [], []
    for task in tasks:
        for i, document in enumerate(task.documents):
            for k, choice in enumerate(document.choices):
                text = choice.removeprefix(" ")
                first.append(len(rows) - k + document.choices.index(choice))
                rows.append(
                    (task.name, i, k, k == document.gold, len(text), len(text.encode()),
                     len(choice) - len(text), document.prompt_hash)
                )  # fmt: skip
    names = [c for c in COLUMNS if c not in ("loglik", "n_tokens")]
    frame = pd.DataFrame(rows, columns=names)
    frame["loglik"], frame["n_tokens"] = loglik[first], n_tokens
    return frame[list(COLUMNS)]


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
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: cannot be read: {str(e).splitlines()[0]}") from None
    for column in COLUMNS:
        if column not in frame.columns:
            raise InputError(f"{path}: column {column!r} is missing: score the checkpoint again")
    return frame
