"""Preparation of features for fitting: the choice of checkpoints, and their averages.

`PAPER` holds the preparations of arXiv 2412.04403, `POOLED` those of the
pooled methods.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fitting.laws import HILL, LOG_SIGMOID, SIGMOID, Link

MAIN_TASKS = (
    "mmlu_avg_test_rc_5shot",
    "hellaswag_val_rc_5shot",
    "arc_challenge_test_rc_5shot",
    "arc_easy_test_rc_5shot",
    "piqa_val_rc_5shot",
    "csqa_val_rc_5shot",
    "socialiqa_val_rc_5shot",
    "openbookqa_test_rc_5shot",
)  # the paper's eight, in its order
TEXT_FEATURE = "lm_loss"  # the loss of one text, which all tasks share
REACH = 0.15  # share of a run's tokens that an average may span


@dataclass(frozen=True)
class Preparation:
    """Settings for preparing a feature (arXiv 2412.04403, Sections 2 and 4, and its code).

    Attributes:
        metric: metric of the feature.
        task: the task or text that the feature is measured on; None means the forecast task itself.
        final_window: number of last checkpoints that are averaged to a run's observation of step 1,
            if they lie in the last `reach` of its tokens.
        skip: share of a run's first checkpoints that step 2 leaves out.
        smooth: number of trailing checkpoints that are averaged to one observation of step 2, also
            within `reach`.
        link: link of step 2.
        reach: greatest share of a run's tokens that an average spans.  The limit has no effect on
            the paper's runs, which have at least 36 checkpoints; without it, an average could span
            most of the training of a run with six checkpoints.
    """

    metric: str
    task: str | None
    final_window: int
    skip: float
    smooth: int
    link: Link
    reach: float = REACH


PAPER = {
    "bpb": Preparation("bpb", None, 5, 0.1, 5, SIGMOID),
    "lm_loss": Preparation("lm_loss", "c4_en_val", 5, 0.1, 5, SIGMOID),
    "task_ce": Preparation("task_ce", None, 1, 0.5, 1, LOG_SIGMOID),
}
POOLED = {
    name: replace(preparation, final_window=5, skip=0.1, smooth=5, link=HILL)
    for name, preparation in PAPER.items()
}  # the pooled methods prepare all features in the same way


def trailing_mean(values: np.ndarray, at: np.ndarray, window: int, reach: float) -> np.ndarray:
    """Means of each value and its predecessors: at most `window` values, all within `reach`.

    Args:
        values: shape (M,).
        at: positions of the values, ascending, shape (M,).
        window: greatest number of values in a mean.
        reach: greatest distance, in the units of `at`.
    """
    own = np.arange(len(values))
    first = np.maximum(own + 1 - window, np.searchsorted(at, at - reach))
    total = np.zeros(len(values))
    for back in range(window - 1, -1, -1):  # oldest first, as a plain mean adds them
        total += np.where(own - back >= first, values[np.maximum(own - back, 0)], 0.0)
    return total / (own + 1 - first)


def final_observation(checkpoints: pd.DataFrame, run: str, preparation: Preparation) -> dict:
    """A run's observation of step 1: its last inputs, and loss and accuracy averaged at its end.

    Args:
        checkpoints: checkpoints of the run, from `select.checkpoints`.
        run: name of the run.
        preparation: settings for preparing the feature.
    """
    last = checkpoints.iloc[-1]
    at = checkpoints["n_tokens"].to_numpy(float)
    numbers = ("multiple", "n_params", "n_tokens", "flops", "n_examples")
    return {
        "run": run,
        "size": last["size"],
        **{name: as_float(last[name]) for name in numbers},
    } | {
        name: trailing_mean(
            checkpoints[name].to_numpy(float),
            at,
            preparation.final_window,
            preparation.reach * at[-1],
        )[-1]
        for name in ("loss", "acc")
        if name in checkpoints
    }


def smoothed(checkpoints: pd.DataFrame, preparation: Preparation) -> pd.DataFrame:
    """A run's observations of step 2: columns loss and acc, one row per checkpoint.

    The first checkpoints are left out; each of the others is averaged with those just before it.
    """
    kept = checkpoints.iloc[math.ceil(preparation.skip * len(checkpoints)) :]
    if kept.empty:
        kept = checkpoints.iloc[-1:]
    at = kept["n_tokens"].to_numpy(float)
    return pd.DataFrame(
        {
            name: trailing_mean(
                kept[name].to_numpy(float), at, preparation.smooth, preparation.reach * at[-1]
            )
            for name in ("loss", "acc")
        }
    )


def as_float(cell) -> float:
    """A cell of a table as a float, NaN where it is empty."""
    return math.nan if pd.isna(cell) else float(cell)
