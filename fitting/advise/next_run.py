"""Advice on which run to train next, within a budget.

`fitting.advise.design` computes how much a run would narrow the intervals; this file lists the
candidates, their costs, and the best set of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fitting.advise import design
from fitting.advise.design import CandidateModel
from fitting.errors import InputError
from fitting.forecast import parts
from fitting.forecast.spec import ForecastSpec
from fitting.observations import select
from fitting.observations.select import TargetRun
from fitting.observations.sizes import sizes_of

ADVICE_COLUMNS = (
    "run", "n_params", "n_tokens", "flops", "width", "shrinkage", "shrinkage_per_flop",
    "affordable", "chosen",
)  # fmt: skip
WORTHWHILE = 0.01  # least shrinkage of the mean width that is worth a run
_MOST_RUNS = 8  # of a set, where not every set is tried
_IDLE = 0.005  # a run that narrows by less, beside the others of a set, is left out
MULTIPLES = (1, 2, 5, 10, 20, 40)  # of Chinchilla's tokens
_TOKENS_PER_PARAM = 20
_SAME_TOKENS = 0.05  # relative difference up to which a run counts as trained
_FLOPS_PER_ND = 6.0  # where the table has no FLOPs
_FEWEST = 3  # training runs, as for the pooled methods
_EXHAUSTIVE = 10  # candidates up to which every set is tried


@dataclass(frozen=True)
class Advice:
    """The candidates, the shrinkage of the intervals by each, and the best set within the budget.

    Attributes:
        rows: `ADVICE_COLUMNS`, one row per candidate, best shrinkage first; shrinkages are relative
            to `now`.
        now: mean width of the targets' 95 % intervals before any candidate.
        chosen: names of the best set, cheapest first; empty if none is worth a run.
        cost: cost of the set, FLOPs.
        after: mean width once the set is measured.
        of_losses: whether widths are of log losses, as no task has an accuracy; else they are of
            accuracies, as fractions.
    """

    rows: pd.DataFrame
    now: float
    chosen: tuple[str, ...]
    cost: float
    after: float
    of_losses: bool = False


def advise(
    table: pd.DataFrame,
    spec: ForecastSpec,
    budget: float,
    candidates: Sequence[str | TargetRun] | None = None,
) -> Advice:
    """Computes how much each candidate would narrow the targets' intervals, and the best set.

    Args:
        table: measurements, in the schema of `fitting.table`.
        spec: runs, targets, tasks, feature, steps and chance.  Advice uses Laplace's approximation,
            whatever the method, and the first of the ways to accuracy that the table allows (see
            `fitting.forecast.parts`).  Tasks are either all accuracies, or all losses of texts.
        budget: FLOPs.
        candidates: in the form of targets; None for `untrained` sizes and multiples.

    Raises:
        InputError: one line on what is missing or contradictory.
    """
    if not (math.isfinite(budget) and budget > 0):
        raise InputError(f"`budget` {budget:g}: give a budget above 0")
    if spec.inputs != "nd" or spec.law is not None:
        raise InputError("advice uses N and D: leave out `inputs` and `law`")
    runs = select.select_runs(table, spec.train)
    if len(runs) < _FEWEST:
        raise InputError(f"{len(runs)} runs: `train` needs at least {_FEWEST} of them")
    known = table[table["run"].isin(runs)]
    targets = select.target_runs(table, spec.targets, runs)
    if candidates is None:
        offered = untrained(known)
    else:
        offered = select.target_runs(table, candidates, runs, "candidates")
    names = [run.name for run in (*targets, *offered)]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise InputError(f"{name} is named twice among targets and candidates: leave one out")
    if not targets or not offered:
        raise InputError("no target or no candidate: name one in `targets` and `candidates`")
    everything = [with_flops(run, known) for run in (*targets, *offered)]
    data = parts.prepare(table, replace(spec, targets=everything, method="laplace"))[0].data
    if len(data) < len(select.task_labels(spec.tasks)):
        raise InputError(
            "advice is for accuracies, or for losses alone, as their widths cannot be added, and "
            "through one feature that all tasks have: leave out the other `tasks`"
        )
    model = design.candidate_model(
        [task.observations for task in data], [task.targets for task in data], len(targets)
    )
    return _advice(model, everything[len(targets) :], budget)


def _advice(model: CandidateModel, offered: Sequence[TargetRun], budget: float) -> Advice:
    costs, now = np.array([c.flops for c in offered]), model.width()
    best = best_set(model, costs, budget)
    rows = []
    for i, candidate in enumerate(offered):
        width = model.width([i])
        shrinkage = 1 - width / now
        rows.append(
            (candidate.name, candidate.n_params, candidate.n_tokens, candidate.flops, width,
             shrinkage, shrinkage / candidate.flops, bool(costs[i] <= budget), i in best)
        )  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(ADVICE_COLUMNS))
    frame = frame.sort_values("shrinkage", ascending=False, kind="stable", ignore_index=True)
    chosen = tuple(offered[i].name for i in best)
    cost, of_losses = float(costs[best].sum()), model.joint.accuracy is None
    return Advice(frame, now, chosen, cost, model.width(best), of_losses)


def untrained(known: pd.DataFrame) -> list[TargetRun]:
    """Every trained size at `MULTIPLES` of Chinchilla's tokens, without the runs that exist.

    Args:
        known: measurements of the training runs.

    Raises:
        InputError: runs have no n_params.
    """
    ends = _ends(known).set_index("run")
    sizes = sizes_of(known, list(ends.index))
    largest = sizes.groupby("size")["n_params"].max().sort_values()
    found = []
    for size, n_params in largest.items():
        trained = ends.loc[sizes.index[sizes["size"] == size], "n_tokens"]
        for multiple in MULTIPLES:
            name, n_tokens = f"{size}-{multiple}xC", multiple * _TOKENS_PER_PARAM * n_params
            same = (trained / n_tokens - 1).abs() <= _SAME_TOKENS
            if not same.any() and name not in ends.index:
                found.append(TargetRun(name, n_params, n_tokens, math.nan))
    return found


def with_flops(run: TargetRun, known: pd.DataFrame) -> TargetRun:
    """Adds FLOPs to a run that has none, from FLOPs / (N D) of the run nearest in size.

    FLOPs / (N D) is 6 plus the part of attention, which depends on the size.

    Args:
        run: a target or candidate.
        known: measurements of the training runs.
    """
    if math.isfinite(run.flops):
        return run
    ends = _ends(known)
    ratio = (ends["flops"] / (ends["n_params"] * ends["n_tokens"])).to_numpy(float)
    distance = np.abs(np.log(ends["n_params"].to_numpy(float) / run.n_params))
    distance = np.where(np.isfinite(ratio) & np.isfinite(distance), distance, np.inf)
    nearest = int(np.argmin(distance))
    flops_per_nd = ratio[nearest] if np.isfinite(distance[nearest]) else _FLOPS_PER_ND
    return replace(run, flops=float(flops_per_nd * run.n_params * run.n_tokens))


def _ends(known: pd.DataFrame) -> pd.DataFrame:
    """The last row of each run: run, size, n_params, n_tokens, flops."""
    names = ["n_params", "n_tokens", "flops"]
    plain = known[["run", "size", *names]].astype(dict.fromkeys(names, float))
    return plain.sort_values("n_tokens", kind="stable").groupby("run", sort=False).tail(1)


def best_set(model: CandidateModel, costs: np.ndarray, budget: float) -> list[int]:
    """The set of candidates within the budget that leaves the narrowest intervals.

    With up to ten affordable candidates every set is tried.  With more, two sets are grown one run
    at a time to at most eight, by shrinkage and by shrinkage per FLOP, then improved by exchanging
    runs.  Runs without which the intervals are less than half a percent wider are left out.

    Args:
        model: effects of the candidates.
        costs: FLOPs of each candidate, shape (C,).
        budget: FLOPs.

    Returns:
        Positions of candidates, cheapest first; empty if the mean width shrinks by less than
        `WORTHWHILE`.
    """
    affordable = [int(c) for c in np.flatnonzero(costs <= budget)]
    if len(affordable) <= _EXHAUSTIVE:
        sets = (
            list(s) for n in range(1, len(affordable) + 1)
            for s in itertools.combinations(affordable, n) if costs[list(s)].sum() <= budget
        )  # fmt: skip
        found = min(sets, key=model.width, default=[])
    else:
        exchanged = [_exchange(model, costs, budget, affordable, power) for power in (0.0, 1.0)]
        found = min(exchanged, key=model.width)
    if not found or 1 - model.width(found) / model.width() < WORTHWHILE:
        return []
    return sorted(_without_idle(model, found), key=lambda c: costs[c])


def _without_idle(model: CandidateModel, chosen: list[int]) -> list[int]:
    """Leaves out runs, one at a time, that hardly narrow the intervals beside the others."""
    while len(chosen) > 1:
        rests = [[c for c in chosen if c != one] for one in chosen]
        least = min(rests, key=model.width)
        if model.width(least) > (1 + _IDLE) * model.width(chosen):
            break
        chosen = least
    return chosen


def _grow(
    model: CandidateModel,
    costs: np.ndarray,
    budget: float,
    candidates: list[int],
    power: float,
    chosen: list[int],
) -> list[int]:
    """Adds the run that narrows most per FLOPs ** power, while one fits into the budget."""
    while True:
        left = budget - costs[chosen].sum()
        open_ = [c for c in candidates if c not in chosen and costs[c] <= left]
        if not open_ or len(chosen) == _MOST_RUNS:
            return chosen
        now = model.width(chosen)
        gains = [(now - model.width([*chosen, c])) / costs[c] ** power for c in open_]
        chosen = [*chosen, open_[int(np.argmax(gains))]]


def _exchange(
    model: CandidateModel, costs: np.ndarray, budget: float, candidates: list[int], power: float
) -> list[int]:
    """Improves a set: exchanges runs one by one while that narrows the intervals."""
    chosen = _grow(model, costs, budget, candidates, power, [])
    best, improved = model.width(chosen), True
    while improved:
        improved = False
        for old, new in itertools.product(chosen, candidates):
            kept = [*(c for c in chosen if c != old), new]
            if new in chosen or costs[kept].sum() > budget:
                continue
            swapped = _grow(model, costs, budget, candidates, power, kept)
            width = model.width(swapped)
            if width < best * (1 - 1e-9):
                chosen, best, improved = swapped, width, True
                break
    return chosen
