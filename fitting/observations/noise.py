"""Noise of evaluations between checkpoints, and its size with fewer test items."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.stats

from fitting.errors import InputError
from fitting.observations import select
from fitting.observations.preparation import Preparation


def checkpoint_noise(
    table: pd.DataFrame, run: str, tasks: Sequence[str], preparation: Preparation, last: int = 10
) -> pd.DataFrame:
    """Noise of a run's last checkpoints (arXiv 2412.04403, Eq. 3): one row per task.

    Columns: `loss_sd, acc_sd` (standard deviation, SD), `loss_cv, acc_cv` (SD over mean),
    `acc_mean`, `n_examples`, and `binomial_sd`: SD of an accuracy on as many newly drawn items.

    Raises:
        InputError: the run has fewer checkpoints, or no checkpoint of a task.
    """
    rows = table[table["run"] == run]
    found = []
    for task in tasks:
        columns = select.columns_of(table, task, [run], preparation, two_steps=True)
        evaluations = select.checkpoints(rows, run, columns)
        if len(evaluations) < last:
            raise InputError(
                f"run {run!r} has {len(evaluations)} checkpoints of {task}, not {last}"
            )
        tail = evaluations.iloc[-last:]
        mean, n = tail["acc"].mean(), float(tail["n_examples"].iloc[-1])
        row = {"task": task}
        for name in ("loss", "acc"):
            sd = float(np.std(tail[name].to_numpy(float)))
            row |= {f"{name}_sd": sd, f"{name}_cv": sd / tail[name].mean()}
        found.append(row | {
            "acc_mean": mean, "n_examples": n, "binomial_sd": math.sqrt(mean * (1 - mean) / n),
        })  # fmt: skip
    return pd.DataFrame(found)


def with_fewer_items(noise: pd.DataFrame, sizes: Sequence[int]) -> pd.DataFrame:
    """The SDs that accuracies would have on fewer test items: one row per (task, size).

    Accuracy is a mean over items, so checkpoint noise falls with the square root of their number;
    so does the binomial error of drawing the items.
    """
    rows = []
    for row in noise.to_dict("records"):
        for n in [*(n for n in sizes if n < row["n_examples"]), int(row["n_examples"])]:
            factor = math.sqrt(row["n_examples"] / n)
            rows.append(
                {
                    "task": row["task"],
                    "n_examples": n,
                    "checkpoint_sd": row["acc_sd"] * factor,
                    "binomial_sd": row["binomial_sd"] * factor,
                }
            )
    return pd.DataFrame(rows)


def correlations(
    frame: pd.DataFrame, noise: Sequence[str], errors: Sequence[str], groups: dict[str, pd.Series]
) -> pd.DataFrame:
    """Pearson's r between noise and size of error, over groups of tasks, with its p value.

    Args:
        frame: one row per task.
        noise: columns of noise.
        errors: columns of errors; their signs are dropped.
        groups: name -> mask of the frame's rows.
    """
    rows = []
    for group, mask in groups.items():
        part = frame[mask]
        for a in noise:
            for b in errors:
                r, p = scipy.stats.pearsonr(part[a], part[b].abs())
                rows.append(
                    {"tasks": group, "n": len(part), "noise": a, "error": b, "r": r, "p": p}
                )
    return pd.DataFrame(rows)
