"""Posterior draws in a file that ArviZ and xarray read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import arviz_base
import numpy as np
import xarray as xr

from fitting.errors import InputError
from fitting.io import write_atomically
from fitting.posterior.bayes import Posterior
from fitting.posterior.draws import Draws
from fitting.posterior.hierarchy import COMMON_SITES, Step1


def write(
    posteriors: Mapping[str, Posterior], tasks: Mapping[str, Sequence[str]], path: str | Path
) -> None:
    """Writes posterior draws as netCDF.

    Groups `FEATURE/step1` and `FEATURE/step2`, each with `posterior` and `sample_stats`; parameters
    of tasks lie along `task`, those of populations along `population`.  Read it with
    `xarray.open_datatree`.

    Args:
        posteriors: by feature.
        tasks: by feature, their labels in the order in which they were fitted.
        path: of the file.

    Raises:
        InputError: the path does not end in .nc, or there are no posteriors.
    """
    if Path(path).suffix != ".nc":
        raise InputError(f"`draws` {str(path)!r} must end in .nc")
    if not posteriors:
        raise InputError("`draws`: this method draws from no posterior; use `method` bayes")
    groups = {}
    for feature, posterior in posteriors.items():
        for name, tree in _steps(posterior, list(tasks[feature])).items():
            groups[f"{feature}/{name}"] = tree
    tree = xr.DataTree.from_dict(groups)
    write_atomically(Path(path), lambda p: tree.to_netcdf(p, engine="h5netcdf"))


def _steps(posterior: Posterior, tasks: list[str]) -> dict[str, xr.DataTree]:
    of_task = posterior.series.of_task
    series = [
        "+".join(t for t, s in zip(tasks, of_task, strict=True) if s == i)
        for i in range(len(posterior.series.centre_y))
    ]
    labels = {"step 1": series, "step 2": [tasks[t] for t in posterior.linked]}
    models = {"step 1": Step1(posterior.inputs), "step 2": posterior.model2}
    trees = {}
    for step, draws in posterior.steps.items():
        populations = [population.name for population in models[step].populations]
        trees[step.replace(" ", "")] = _tree(draws, labels[step], populations)
    return trees


def _tree(draws: Draws, tasks: list[str], populations: list[str]) -> xr.DataTree:
    kept = {n: v for n, v in draws.values.items() if n != "tasks"}  # its rows have names
    dims = {n: ["population"] if n in COMMON_SITES else ["task"] for n in kept} | {
        "latent": ["law_parameter"]
    }
    content: dict[str, dict[str, np.ndarray]] = {"posterior": kept}
    if draws.stats:
        content["sample_stats"] = draws.stats
    coords = {"task": tasks, "population": populations}
    return arviz_base.from_dict(content, coords=coords, dims=dims)
