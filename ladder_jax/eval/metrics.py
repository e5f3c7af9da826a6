"""Pinned metrics from a score store, exactly as defined (design: names are versioned by meaning).

Characters and bytes leave out a leading space unless the name says otherwise.  Ties go to the first
choice, and identical choices of a document share one score.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd


def of_store(store: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Task -> metric -> value, for every task of a store."""
    return {str(task): of_task(rows) for task, rows in store.groupby("task", sort=False)}


def of_task(rows: pd.DataFrame) -> dict[str, float]:
    """All metrics of one task, means over its documents.

    Args:
        rows: a store's rows of one task, a row a (document, choice).
    """
    doc = pd.factorize(rows["doc"])[0]
    choice = rows["choice"].to_numpy()
    shape = (doc.max() + 1, choice.max() + 1)

    def table(values, empty: float) -> np.ndarray:
        filled = np.full(shape, empty)
        filled[doc, choice] = values
        return filled

    loglik = table(rows["loglik"], -np.inf)
    chars, n_bytes = table(rows["n_chars"], 1.0), table(rows["n_bytes"], 1.0)
    space, tokens = table(rows["leading_space"], 0.0), table(rows["n_tokens"], 1.0)
    gold = table(rows["gold"], 0.0).argmax(axis=1)
    index = np.arange(shape[0])
    per_char = loglik / chars
    normaliser = np.logaddexp.reduce(per_char, axis=1)
    gold_log_prob = per_char[index, gold] - normaliser
    gold_bits = -loglik[index, gold] / math.log(2)

    def accuracy(score: np.ndarray) -> float:
        return float(np.mean(score.argmax(axis=1) == gold))

    return {
        "bpb": float(np.mean(gold_bits / n_bytes[index, gold])),
        "bpb_with_space": float(np.mean(gold_bits / (n_bytes + space)[index, gold])),
        "acc": accuracy(loglik),
        "acc_per_char": accuracy(per_char),
        "acc_per_char_with_space": accuracy(loglik / (chars + space)),
        "acc_per_byte": accuracy(loglik / n_bytes),
        "acc_per_token": accuracy(loglik / tokens),
        "choice_prob": float(np.mean(np.exp(gold_log_prob))),
        "task_ce": float(-np.mean(gold_log_prob)),
    }
