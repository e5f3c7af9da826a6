"""Finds paper-mode fits whose results depend on rounding, by changing inputs in the last bits.

Command:  python -m experiments.task_ladders.rounding [--out rounding.csv]
Hardware: one CPU core.  Time: 7 minutes.
Expected: README.md, "Decided by rounding"; the results of those fits, not their list, depend on the
          processor.

A paper-mode fit has one start and ends where L-BFGS-B (or, for a link, trust-region least squares)
stops.  Processors differ in the last bits of exp and log.  To imitate other processors, every input
and observation is multiplied by 1 + k 2^-52, with k a small random integer.  If the result of a fit
then moves by more than the tests allow, its digits mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from experiments.task_ladders import subladders
from experiments.task_ladders.config import CHANCE
from experiments.task_ladders.study import TARGETS, VARIANTS, PublishedRuns
from fitting.errors import InputError
from fitting.forecast import predict
from fitting.forecast.predict import TaskForecast
from fitting.io import write_csv
from fitting.laws.curves import predict as value_of
from fitting.observations.build import TaskData
from fitting.observations.preparation import MAIN_TASKS
from fitting.solve import subsets
from ladder_jax.downloads import public_runs
from ladder_jax.measurements.olmo_ladder import from_olmo_ladder
from ladder_jax.runtime import compilation
from ladder_jax.runtime.paths import cache_dir

WIDEST = 1e-4  # of an accuracy: .01 point; of a loss: relative
CELL = ["variant", "task", "target", "what"]
CUTS = [("N", "760M"), ("N", "1.3B"), ("xC", "2"), ("xC", "5"), ("xC", "10")]


def changed(data: TaskData, seed: int) -> TaskData:
    """Multiplies every number of the observations by 1 + k 2^-52; targets are not changed.

    Args:
        data: observations of one task.
        seed: seed of the random integers k, -4 to 4; 0 returns the data unchanged.
    """
    if seed == 0:
        return data
    rng, frames = np.random.default_rng(seed), []
    for frame in (data.final, data.curve):
        frame = frame.copy()
        for name in ("n_params", "n_tokens", "flops", "loss", "acc"):
            if name in frame:
                k = rng.integers(-4, 5, len(frame))
                frame[name] = frame[name].to_numpy(float) * (1 + k * 2.0**-52)
        frames.append(frame)
    return replace(data, final=frames[0], curve=frames[1])


class End(NamedTuple):
    """The result of a refit: its prediction, and the objective of the last fit that it used."""

    variant: str
    task: str
    target: str
    what: str  # step1 (a loss, or an accuracy), chained, or step2 from the measured feature
    pred: float
    objective: float


def ends(study: PublishedRuns, variant: str, tasks: tuple[str, ...], seed: int) -> list[End]:
    """The results of one refit of every task and, for bits per byte, of the cut ladders."""
    data = [changed(d, seed) for d in study.data(variant, tasks)]
    found = [e for f in predict.of_tasks(data, "paper") for e in ends_of(study, variant, f)]
    if variant == "bpb":
        labels, chosen = subladders.cuts(study.data(variant, tasks)[0].final)
        found += _of_cuts(data, chosen[[labels.index(cut) for cut in CUTS]])
    return found


def ends_of(study: PublishedRuns, variant: str, forecast: TaskForecast) -> list[End]:
    """The results of the fits of a paper-mode forecast."""
    found = []
    for row, measured in zip(forecast.rows, forecast.measured.to_dict("records"), strict=True):
        cell = variant, forecast.task, str(row["target"])
        first = row["pred"] if forecast.step2 is None else row["pred_loss"]
        found.append(End(*cell, "step1", first, forecast.step1.objective))
        if forecast.step2 is not None:
            found.append(End(*cell, "chained", row["pred"], forecast.step2.objective))
        if forecast.step2 is not None and forecast.task in CHANCE:
            link = study.link(forecast, "paper")
            through = float(value_of(link.curve, link.theta, measured["loss"]))
            found.append(End(*cell, "step2", through, link.objective))
    return found


def _of_cuts(data: list[TaskData], chosen: np.ndarray) -> list[End]:
    """Results for 7B-4T from the ladders of `CUTS`; `chosen` has their runs, (B, R) booleans."""
    fits = subsets.fit([d.observations for d in data], chosen, "paper")
    x = np.array([d.targets.inputs[:1] for d in data])
    guess = subsets.forecast(fits, [d.observations for d in data], x, np.ones((len(data), 1)))
    assert fits.second_objective is not None
    found = []
    for b, (vary, value) in enumerate(CUTS):
        for t, d in enumerate(data):
            cell = f"bpb, {vary} up to {value}", d.task, TARGETS[0]
            objectives = float(fits.first_objective[b, t]), float(fits.second_objective[b, t])
            found.append(End(*cell, "step1", float(guess.first[b, t, 0]), objectives[0]))
            found.append(End(*cell, "chained", float(guess.second[b, t, 0]), objectives[1]))
    return found


def bands(found: list[End]) -> pd.DataFrame:
    """The bands of each cell's predictions and objectives, one row per cell.

    Args:
        found: results of `ends`; those of a variant's unchanged inputs come first.

    Returns:
        `pred` and `objective` of the unchanged inputs; the bands of both (`low`, `high`); the band
        of `pred` without the lowest and highest tenth (`usual_`); `width` of the band of `pred`,
        relative for a loss; `moved`, the share of results that differ from `pred` by more than
        `WIDEST`; and `decided` (by rounding): whether `width` exceeds `WIDEST`.
    """
    frame = pd.DataFrame(found)
    of_accuracy = [VARIANTS[v.split(",")[0]][0].of_accuracy for v in frame["variant"]]
    is_loss = (frame["what"] == "step1") & ~np.array(of_accuracy)
    unchanged = frame.groupby(CELL, sort=False)["pred"].transform("first")
    frame["unit"] = unchanged.where(is_loss, 1.0)
    frame["off"] = (frame["pred"] - unchanged).abs() > WIDEST * frame["unit"]
    spans = frame.groupby(CELL, sort=False).agg(
        pred=("pred", "first"), low=("pred", "min"), high=("pred", "max"),
        usual_low=("pred", lambda p: p.quantile(0.1)),
        usual_high=("pred", lambda p: p.quantile(0.9)),
        objective=("objective", "first"), objective_low=("objective", "min"),
        objective_high=("objective", "max"), moved=("off", "mean"), width=("unit", "first"),
    ).reset_index()  # fmt: skip
    spans["width"] = (spans["high"] - spans["low"]) / spans["width"]
    return spans.assign(decided=spans["width"] > WIDEST)


def main(arguments: list[str] | None = None) -> int:
    """Prints and writes the bands; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.task_ladders.rounding", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python -m experiments.task_ladders.rounding --variants task_ce "
               "--perturbations 5 --out rounding.csv",
    )  # fmt: skip
    parser.add_argument("--runs", metavar="DIR", help="the CSVs (default: what was downloaded)")
    parser.add_argument("--out", metavar="FILE", help="CSV, one row per prediction")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--tasks", nargs="+", default=list(MAIN_TASKS), metavar="TASK")
    parser.add_argument("--perturbations", type=int, default=20, metavar="N")
    args = parser.parse_args(arguments)
    try:
        table, problems = from_olmo_ladder(Path(args.runs or public_runs.olmo_ladder()))
        if problems:
            raise InputError(problems[0])
        compilation.keep(cache_dir())
        study, found = PublishedRuns(table), []
        todo = [(v, seed) for v in args.variants for seed in range(args.perturbations + 1)]
        for variant, seed in tqdm(todo, desc="refits", disable=None):
            found += ends(study, variant, tuple(args.tasks), seed)
        frame = bands(found)
        if args.out:
            write_csv(frame, args.out)
    except InputError as e:
        print(f"{parser.prog}: {e}", file=sys.stderr)
        return 2
    print(frame.to_string(index=False))
    print(f"\nbands wider than {WIDEST:g} (accuracy; a loss: relative):")
    print(frame[frame["decided"]].to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
