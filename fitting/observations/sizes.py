"""The sizes of a ladder's runs: by their labels, or by their numbers of parameters."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fitting.observations import select

SAME_SIZE = 1.05  # greatest ratio of neighbouring N of one size, where no label says it


def sizes_of(table: pd.DataFrame, runs: Sequence[str]) -> pd.DataFrame:
    """Size and number of parameters of each run: columns `size` and `n_params`, indexed by run.

    Runs without a label are sorted by N; a size begins where N is more than 5 % above the N before
    it, and is named by its largest N.

    Args:
        table: measurements, in the schema of `fitting.table`.
        runs: names of runs.

    Raises:
        InputError: runs have no n_params.
    """
    known = table.loc[table["run"].isin(list(runs)), ["run", "size", "n_params"]]
    known = known.astype({"size": object, "n_params": float}).groupby("run").first()
    known = known.loc[list(runs)]  # the first known values of each
    unknown = known.index[~(known["n_params"] > 0)].tolist()
    select.refuse({"no n_params": unknown}, "fill it in, or leave runs out with `exclude`")
    unlabelled = known["size"].isna() | (known["size"] == "")
    ordered = known.loc[unlabelled, "n_params"].sort_values()
    group = (ordered / ordered.shift() > SAME_SIZE).cumsum()
    largest = ordered.groupby(group).transform("max")
    known.loc[ordered.index, "size"] = largest.map("{:.3g}".format)
    return known
