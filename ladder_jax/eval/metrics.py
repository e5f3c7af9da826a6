"""Metrics from a score store; a name keeps its exact definition for ever.

Characters and bytes leave out a leading space unless the name says otherwise.  Ties go to the first
choice, and identical requests share one score.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd


def of_store(store: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The metrics of every task of a store: task -> metric -> value."""
    return {str(task): of_task(rows) for task, rows in store.groupby("task", sort=False)}


def of_task(rows: pd.DataFrame) -> dict[str, float]:
    """All metrics of one task, each the mean over its documents."""
    return {metric: float(np.mean(values)) for metric, values in items(rows).items()}


def standard_errors(rows: pd.DataFrame) -> dict[str, float]:
    """Standard errors of one task's metrics over its documents; NaN for a single document."""
    return {
        metric: float(np.std(values, ddof=1) / math.sqrt(len(values)))
        if len(values) > 1
        else math.nan
        for metric, values in items(rows).items()
    }


def items(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """The value of every metric for each document, shape (documents,).

    Documents with one choice have only bits per byte; `acc_uncond` needs an unconditional score of
    every choice.

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
    gold_bits = -loglik[index, gold] / math.log(2)
    found = {
        "bpb": gold_bits / n_bytes[index, gold],
        "bpb_with_space": gold_bits / (n_bytes + space)[index, gold],
    }
    if shape[1] == 1:
        return found
    per_char = loglik / chars
    gold_log_prob = per_char[index, gold] - np.logaddexp.reduce(per_char, axis=1)
    ranked = {
        "acc": loglik,
        "acc_per_char": per_char,
        "acc_per_char_with_space": loglik / (chars + space),
        "acc_per_byte": loglik / n_bytes,
        "acc_per_token": loglik / tokens,
    }
    if "loglik_unconditional" in rows and rows["loglik_unconditional"].notna().all():
        ranked["acc_uncond"] = loglik - table(rows["loglik_unconditional"], 0.0)
    right = {
        metric: (score.argmax(axis=1) == gold).astype(float) for metric, score in ranked.items()
    }
    return found | right | {"choice_prob": np.exp(gold_log_prob), "task_ce": -gold_log_prob}
