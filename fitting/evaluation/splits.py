"""Splits of a ladder by size: the smaller sizes are fitted, the larger ones are held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from fitting.errors import InputError
from fitting.observations.sizes import sizes_of

FEWEST_SIZES = 3  # two to fit and one to hold out
_FEW_SIZES, _USUAL_SPLITS = 5, 4  # with more sizes than the first, the second many splits


class Split(NamedTuple):
    """Names of the runs that are fitted, and of those that are forecast."""

    train: Sequence[str]
    held_out: Sequence[str]


def splits(
    table: pd.DataFrame, runs: Sequence[str], at_most: int | None = None
) -> dict[str, Split]:
    """Splits by size: each fits the sizes up to a limit, and holds out the larger ones.

    At least two sizes and half of all are fitted, and at least one is held out.

    Args:
        table: measurements, in the schema of `fitting.table`.
        runs: names of the ladder's runs.
        at_most: number of splits, whose limits are spread evenly; the last one, which holds out
            the largest size alone, is always among them.  None: all splits of up to five sizes,
            four of more.

    Raises:
        InputError: the runs have fewer than three sizes, or no n_params.
    """
    known = sizes_of(table, runs)
    sizes = known.groupby("size")["n_params"].max().sort_values()
    if len(sizes) < FEWEST_SIZES:
        raise InputError(
            f"the runs of `train` have {len(sizes)} size{'s' if len(sizes) != 1 else ''}: a "
            "backtest needs three, two to fit and one to hold out"
        )
    found = {}
    for last in _limits(len(sizes), at_most):
        small = set(sizes.index[: last + 1])
        below = [name for name in runs if known["size"][name] in small]
        above = [name for name in runs if known["size"][name] not in small]
        found[f"up to {sizes.index[last]}"] = Split(below, above)
    return found


def _limits(n_sizes: int, at_most: int | None) -> list[int]:
    """Positions of the largest fitted sizes, ascending."""
    if at_most is None:
        at_most = n_sizes if n_sizes <= _FEW_SIZES else _USUAL_SPLITS
    last, first = n_sizes - 2, max(2, math.ceil(n_sizes / 2)) - 1
    n = last - first + 1
    kept = min(at_most, n)
    return sorted(last - i * n // kept for i in range(kept))
