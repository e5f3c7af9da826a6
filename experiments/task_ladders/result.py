"""The output of an analysis, and its summary in lines."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

from experiments.task_ladders.study import VARIANT_WORDS


@dataclass(frozen=True)
class Result:
    """The output of an analysis.

    Attributes:
        tables: file stem -> table.
        figures: file stem -> figure.
        lines: lines to print.
    """

    tables: dict[str, pd.DataFrame]
    figures: dict[str, Figure] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def mean_errors(frame: pd.DataFrame, column: str, by: list[str]) -> list[str]:
    """Mean absolute errors of each target, one line per group.

    Args:
        frame: predictions, with `target`.
        column: `abs_error` (points of accuracy) or a relative error, as a fraction.
        by: columns that define the groups.
    """
    unit = " points" if column == "abs_error" else " %"
    lines = []
    for key, group in frame.groupby(by, sort=False):
        errors = [
            f"{target} {100 * rows[column].abs().mean():.2f}{unit}"
            for target, rows in group.groupby("target", sort=False)
        ]
        words = [VARIANT_WORDS.get(str(k), str(k)) for k in key]
        lines.append(f"{', '.join(words)}: mean error " + ", ".join(errors))
    return lines
