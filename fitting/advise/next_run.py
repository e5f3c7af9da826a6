"""Advice on which run to train next, within a budget.

What a run would add comes from `fitting.design`; here are the candidates, what they cost, and the
best set of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fitting.advise import design
from fitting.advise.design import Outlook
from fitting.errors import InputError
from fitting.laws import CHINCHILLA
from fitting.observations import select
from fitting.observations.build import gather
from fitting.observations.select import MAIN_TASKS, POOLED, Target

ADVICE_COLUMNS = (
    "run", "n_params", "n_tokens", "flops", "width", "shrinkage", "shrinkage_per_flop",
    "affordable", "chosen",
)  # fmt: skip
HELPS = 0.01  # least shrinkage of the mean width that is worth a run
MULTIPLES = (1, 2, 5, 10, 20, 40)  # of Chinchilla's tokens
_TOKENS_PER_PARAM = 20
_SAME_TOKENS = 0.05  # relative difference up to which a run counts as trained
_FLOPS_PER_ND = 6.0  # where the table does not tell
_FEWEST = 3  # training runs, as of the methods that pool
_EXHAUSTIVE = 10  # candidates up to which every set is tried


@dataclass(frozen=True)
class Advice:
    """What each candidate would add, and the best set within the budget.

    Attributes:
        rows: `ADVICE_COLUMNS`, a row a candidate, best shrinkage first; widths are fractions of
            1, shrinkages relative to `now`.
        now: mean width of the targets' 95 % intervals before any candidate.
        chosen: names of the best set, cheapest first; empty if none is worth a run.
        cost: of the set, FLOPs.
        after: mean width once the set is measured.
    """

    rows: pd.DataFrame
    now: float
    chosen: tuple[str, ...]
    cost: float
    after: float


def advise(
    table: pd.DataFrame,
    train: Sequence[str],
    targets: Sequence[str | Target],
    candidates: Sequence[str | Target] | None,
    budget: float,
    tasks: Sequence[str] = ("main",),
    chance: Mapping[str, float] | None = None,
) -> Advice:
    """How much each candidate would narrow the targets' intervals, and the best set.

    Args:
        table: measurements, in the schema of `fitting.table`.
        train: shell patterns of run names.
        targets: as of `fitting.predict.forecast`.
        candidates: in the same form; None for `untrained` sizes and multiples.
        budget: FLOPs.
        tasks: labels; `main` stands for the paper's eight.
        chance: accuracies of guessing, by task, where labels do not tell.

    Raises:
        InputError: one line on what is missing or contradictory.
    """
    if not (math.isfinite(budget) and budget > 0):
        raise InputError(f"--flops {budget:g}: give a budget above 0")
    runs = select.select_runs(table, train)
    if len(runs) < _FEWEST:
        raise InputError(f"{len(runs)} runs: --train needs at least {_FEWEST} of them")
    known = table[table["run"].isin(runs)]
    goals = _parsed(table, targets, "--target", runs)
    if candidates is None:
        offered = untrained(known)
    else:
        offered = _parsed(table, candidates, "--candidate", runs)
    names = [goal.name for goal in (*goals, *offered)]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise InputError(f"{name} is named twice among targets and candidates: leave one out")
    if not goals or not offered:
        raise InputError("no target or no candidate: name one with --target and --candidate")
    everything = [costed(goal, known) for goal in (*goals, *offered)]
    labels = [t for label in tasks for t in (MAIN_TASKS if label == "main" else (label,))]
    data = [
        gather(
            table, task, runs, everything, POOLED["bpb"], CHINCHILLA, (chance or {}).get(task)
        ).points
        for task in dict.fromkeys(labels)
    ]
    if not data:
        raise InputError("--tasks names none: give labels, or main")
    return _advice(design.outlook(data, len(goals)), everything[len(goals) :], budget)


def _parsed(
    table: pd.DataFrame, given: Sequence[str | Target], flag: str, runs: Sequence[str]
) -> list[Target]:
    parsed = []
    for one in given:
        if (one if isinstance(one, str) else one.name) in runs:
            raise InputError(f"{flag} {one} is also in --train: leave it out of one")
        try:
            parsed.append(select.parse_target(table, one) if isinstance(one, str) else one)
        except InputError as e:
            raise InputError(str(e).replace("--target", flag, 1)) from None
    return parsed


def _advice(outlook: Outlook, offered: Sequence[Target], budget: float) -> Advice:
    costs, now = np.array([c.flops for c in offered]), outlook.width()
    best = best_set(outlook, costs, budget)
    rows = []
    for i, candidate in enumerate(offered):
        width = outlook.width([i])
        shrinkage = 1 - width / now
        rows.append(
            (candidate.name, candidate.n_params, candidate.n_tokens, candidate.flops, width,
             shrinkage, shrinkage / candidate.flops, bool(costs[i] <= budget), i in best)
        )  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(ADVICE_COLUMNS))
    frame = frame.sort_values("shrinkage", ascending=False, kind="stable", ignore_index=True)
    chosen = tuple(offered[i].name for i in best)
    return Advice(frame, now, chosen, float(costs[best].sum()), outlook.width(best))


def untrained(known: pd.DataFrame) -> list[Target]:
    """Every trained size at `MULTIPLES` of Chinchilla's tokens, less what has been trained.

    Args:
        known: measurements of the training runs.
    """
    ends = _ends(known)
    found = []
    for n_params in np.unique(ends["n_params"].dropna().to_numpy(float)).tolist():
        runs = ends[ends["n_params"] == n_params]
        label = runs["size"].iloc[0]
        size = f"{n_params:.3g}" if pd.isna(label) or label == "" else label
        for multiple in MULTIPLES:
            name, n_tokens = f"{size}-{multiple}xC", multiple * _TOKENS_PER_PARAM * n_params
            same = (runs["n_tokens"] / n_tokens - 1).abs() <= _SAME_TOKENS
            if not same.any() and name not in set(ends["run"]):
                found.append(Target(name, n_params, n_tokens, math.nan))
    return found


def costed(goal: Target, known: pd.DataFrame) -> Target:
    """The same run with its FLOPs: as given, else as of the training run nearest in size.

    FLOPs over N D are 6 and what attention takes, which depends on the size.
    """
    if math.isfinite(goal.flops):
        return goal
    ends = _ends(known)
    ratio = (ends["flops"] / (ends["n_params"] * ends["n_tokens"])).to_numpy(float)
    distance = np.abs(np.log(ends["n_params"].to_numpy(float) / goal.n_params))
    distance = np.where(np.isfinite(ratio) & np.isfinite(distance), distance, np.inf)
    nearest = int(np.argmin(distance))
    of_size = ratio[nearest] if np.isfinite(distance[nearest]) else _FLOPS_PER_ND
    return replace(goal, flops=float(of_size * goal.n_params * goal.n_tokens))


def _ends(known: pd.DataFrame) -> pd.DataFrame:
    """The last row of each run: run, size, n_params, n_tokens, flops."""
    names = ["n_params", "n_tokens", "flops"]
    plain = known[["run", "size", *names]].astype(dict.fromkeys(names, float))
    return plain.sort_values("n_tokens", kind="stable").groupby("run", sort=False).tail(1)


def best_set(outlook: Outlook, costs: np.ndarray, budget: float) -> list[int]:
    """The set of candidates within the budget that leaves the narrowest intervals.

    Every set is tried of up to ten affordable candidates.  Of more: sets grown one by one, by
    shrinkage and by shrinkage per FLOP, then mended by exchanges.

    Args:
        outlook: of the candidates.
        costs: FLOPs of each, shape (C,).
        budget: FLOPs.

    Returns:
        Positions of candidates, cheapest first; empty if none shrinks the mean width by `HELPS`.
    """
    affordable = [int(c) for c in np.flatnonzero(costs <= budget)]
    if len(affordable) <= _EXHAUSTIVE:
        sets = (
            list(s) for n in range(1, len(affordable) + 1)
            for s in itertools.combinations(affordable, n) if costs[list(s)].sum() <= budget
        )  # fmt: skip
        found = min(sets, key=outlook.width, default=[])
    else:
        mended = [_mend(outlook, costs, budget, affordable, power) for power in (0.0, 1.0)]
        found = min(mended, key=outlook.width)
    if not found or 1 - outlook.width(found) / outlook.width() < HELPS:
        return []
    return sorted(found, key=lambda c: costs[c])


def _grow(
    outlook: Outlook,
    costs: np.ndarray,
    budget: float,
    candidates: list[int],
    power: float,
    chosen: list[int],
) -> list[int]:
    """Adds whichever gains most per FLOPs ** power, as long as one fits into the budget."""
    while True:
        left = budget - costs[chosen].sum()
        open_ = [c for c in candidates if c not in chosen and costs[c] <= left]
        if not open_:
            return chosen
        now = outlook.width(chosen)
        gains = [(now - outlook.width([*chosen, c])) / costs[c] ** power for c in open_]
        chosen = [*chosen, open_[int(np.argmax(gains))]]


def _mend(
    outlook: Outlook, costs: np.ndarray, budget: float, candidates: list[int], power: float
) -> list[int]:
    """A grown set, with one swapped for another as long as that narrows the intervals."""
    chosen = _grow(outlook, costs, budget, candidates, power, [])
    best, improved = outlook.width(chosen), True
    while improved:
        improved = False
        for old, new in itertools.product(chosen, candidates):
            kept = [*(c for c in chosen if c != old), new]
            if new in chosen or costs[kept].sum() > budget:
                continue
            swapped = _grow(outlook, costs, budget, candidates, power, kept)
            width = outlook.width(swapped)
            if width < best * (1 - 1e-9):
                chosen, best, improved = swapped, width, True
                break
    return chosen
