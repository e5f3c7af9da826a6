"""Simulation-based calibration: does the sampler recover parameters that the priors generated?

Parameters are drawn from the priors, a ladder is made from them, and the posterior is sampled.
The rank of each true value among its posterior draws is uniform if model and sampler agree (Talts
et al., arXiv 1804.06788).  This does not test whether the priors suit language models; a backtest
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
import numpyro
import pandas as pd
import scipy.stats
from scipy.special import expit, logit
from tqdm import tqdm

from fitting.laws import CHINCHILLA, HILL
from fitting.observations.arrays import Observations, Targets
from fitting.posterior import bayes
from fitting.posterior.bayes import Series
from fitting.posterior.draws import numerics
from fitting.posterior.hierarchy import COMMON_SITES, NOISE_DOF, Step1, Step2
from fitting.table import COLUMNS

N_RANKS = 20  # bins of a rank histogram
_CHANCE = (0.25, 0.25, 0.5, 0.2)  # of the simulated tasks
_SIZES, _MULTIPLES = np.array([1e8, 3e8, 1e9]), np.array([1.0, 3.0, 10.0])
_TARGET = (7e9, 4e11)  # n_params and n_tokens
_KINDS = {"mean": "mean", "tasks": "a task's"}
_RANKED = (*_KINDS, "level", "floor", "height")


class Ranks(NamedTuple):
    """Ranks of true values, and how many samplings failed.

    Attributes:
        frame: ranks as shares in (0, 1), one row per ladder and one column per quantity.  One task
            per ladder is kept for task parameters and forecasts: tasks of one ladder are not
            independent.
        failed: number of ladders on which the sampler's own checks failed.
    """

    frame: pd.DataFrame
    failed: int


@dataclass(frozen=True)
class Simulated:
    """A ladder from the priors.

    Attributes:
        data: observations of T tasks.
        targets: its one target, for each task.
        series: losses centred where the priors are, not at the means of what was drawn.
        feature: the law's true log losses at the runs, shape (T, R).
        truth: site -> true values, by step.
        loss: true losses of the target, shape (T,).
        accuracy: true accuracies of the target, shape (T,).
    """

    data: list[Observations]
    targets: list[Targets]
    series: Series
    feature: np.ndarray
    truth: dict[str, dict[str, np.ndarray]]
    loss: np.ndarray
    accuracy: np.ndarray


def simulate(seed: int, n_tasks: int = len(_CHANCE)) -> Simulated:
    """Makes a ladder of three sizes by three multiples, and a target of 14 times its compute."""
    rng = np.random.default_rng(seed)
    law = CHINCHILLA
    n_params, multiple = (v.ravel() for v in np.meshgrid(_SIZES, _MULTIPLES, indexing="ij"))
    x = np.stack([n_params, 20 * n_params * multiple], axis=-1)
    centre = np.log(x).mean(axis=0)
    log_x = np.broadcast_to(np.log(x) - centre, (n_tasks, *x.shape))
    ahead = np.broadcast_to(np.log([_TARGET]) - centre, (n_tasks, 1, 2))
    chance, none = np.resize(_CHANCE, n_tasks), np.zeros(n_tasks)
    weight, empty = np.zeros(len(x)), np.zeros((n_tasks, len(x)))
    step1, step2 = Step1(law.inputs), Step2()
    p = _prior(step1, seed, log_x, empty, weight)
    choices = np.ones(n_tasks)
    q = _prior(step2, seed + 1, empty, empty, weight, chance, none, choices)
    with numerics():
        feature, far = (np.asarray(step1.log_loss(p, at)) for at in (log_x, ahead))
        curve, reached = (np.asarray(step2.accuracy(q, at)) for at in (feature, far))
    sigma, run_sd = np.exp(p["log_sigma"])[:, None], np.exp(q["log_run_sd"])[:, None]
    log_loss = feature + sigma * rng.standard_t(NOISE_DOF, empty.shape)
    accuracy = curve + run_sd * rng.standard_t(NOISE_DOF, empty.shape)
    distance = float(np.log(_TARGET[0] * _TARGET[1] / x.prod(axis=1).max()))
    off = bayes.loss_discrepancy(sigma, distance)
    loss = far + off * rng.standard_normal(far.shape) + sigma * rng.standard_t(NOISE_DOF, far.shape)
    off = bayes.off_in_logit(reached, bayes.accuracy_discrepancy(run_sd, distance))
    off = off * rng.standard_normal(reached.shape)
    reached = expit(logit(np.clip(reached, 1e-9, 1 - 1e-9)) + off)
    reached = reached + run_sd * rng.standard_t(NOISE_DOF, reached.shape)
    data = [
        Observations(
            law=law, link=HILL, x=x, y=np.exp(log_loss[t]), run=np.arange(len(x)),
            feature=np.exp(log_loss[t]), accuracy=accuracy[t], final_accuracy=accuracy[t],
            chance=(float(chance[t]), 0.0), choices=True,
        )
        for t in range(n_tasks)
    ]  # fmt: skip
    target = Targets(np.array([_TARGET]), np.array([distance]))
    series = Series(
        log_x, log_loss, np.broadcast_to(centre, (n_tasks, 2)), none, np.arange(n_tasks)
    )
    return Simulated(
        data, [target] * n_tasks, series, feature, {"step 1": p, "step 2": q},
        np.exp(loss[:, 0]), np.clip(reached[:, 0], 0, 1),
    )  # fmt: skip


def as_table(ladder: Simulated) -> pd.DataFrame:
    """A simulated ladder as measurements: runs `r0` to `r8` and tasks `task0`, `task1`, ..."""
    rows = []
    for t, data in enumerate(ladder.data):
        for i, (n, tokens) in enumerate(data.x):
            known = {
                "run": f"r{i}", "size": f"{n / 1e6:.0f}M", "multiple": tokens / n / 20, "seed": 0,
                "step": 1000, "n_params": int(n), "n_params_total": int(n),
                "n_tokens": int(tokens), "flops": 6 * n * tokens, "task": f"task{t}",
                "n_examples": 1000,
            }  # fmt: skip
            acc = float(np.clip(data.final_accuracy[i], 0, 1))
            rows.append(known | {"metric": "bpb", "value": float(data.y[i])})
            rows.append(known | {"metric": "acc_per_char", "value": acc})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _prior(model: Step1 | Step2, seed: int, *arguments: np.ndarray) -> dict[str, np.ndarray]:
    """One draw of a model's sites."""
    with numerics():
        seeded = numpyro.handlers.seed(model, jax.random.key(seed))
        trace = numpyro.handlers.trace(seeded).get_trace(*arguments)
    return {
        name: np.asarray(site["value"])
        for name, site in trace.items()
        if site["type"] == "deterministic" or not site.get("is_observed", True)
    }


def ranks(
    seeds: Sequence[int],
    sample: bayes.Sampler,
    n_draws: int = 199,
    n_tasks: int = len(_CHANCE),
    progress: bool = True,
) -> Ranks:
    """Ranks of true values among posterior draws.

    The parameters of step 2 are drawn given the true losses of the law, for which the model was
    made; a forecast takes the law's posterior mean in their place, as always.

    Args:
        seeds: of the ladders.
        sample: a sampler, as `bayes.fit` takes it.
        n_draws: kept of each posterior, evenly spaced.
        n_tasks: of each ladder.
        progress: shows a bar.
    """
    rows, failed = [], 0
    for seed in tqdm(seeds, desc="ladders", unit="ladder", disable=not progress):
        ladder = simulate(seed, n_tasks)
        posterior = bayes.fit(ladder.data, sample, ladder.series)
        assert posterior.step1 is not None
        given = sample(Step2(), bayes.step2_arguments(ladder.data, ladder.feature), seed)
        failed += bool(posterior.problems or given.problems)
        drawn = {"step 1": posterior.step1.flat(), "step 2": given.flat()}
        task = seed % len(ladder.data)
        row = {}
        for step, sites in ladder.truth.items():
            for name in sorted(set(_RANKED) & set(sites)):
                row |= _ranks_of(step, name, drawn[step][name], sites[name], task, n_draws)
        losses, accuracies = bayes.predict(posterior, ladder.targets)
        assert losses is not None
        assert accuracies is not None
        row["forecast, loss"] = _rank(losses[:, :, 0], ladder.loss, task, n_draws)
        row["forecast, accuracy"] = _rank(accuracies[:, :, 0], ladder.accuracy, task, n_draws)
        rows.append(row)
    return Ranks(pd.DataFrame(rows), failed)


def _ranks_of(
    step: str, site: str, draws: np.ndarray, true: np.ndarray, task: int, n_draws: int
) -> dict[str, float]:
    """Ranks by name: one a site, or one per population of a common site."""
    if site not in COMMON_SITES:
        return {f"{step}, {site}": _rank(draws, true, task, n_draws)}
    model = Step1(CHINCHILLA.inputs) if step == "step 1" else Step2()
    return {
        f"{step}, {population.name}, {_KINDS[site]}": _rank(draws[:, i], true[i], task, n_draws)
        for i, population in enumerate(model.populations)
    }


def _rank(draws: np.ndarray, true: np.ndarray, task: int, n_draws: int) -> float:
    if draws.ndim == 2:
        draws, true = draws[:, task], true[task]
    kept = draws[np.linspace(0, len(draws) - 1, n_draws).astype(int)]
    ties = np.random.default_rng(task).random() * np.sum(kept == true)
    return float((np.sum(kept < true) + ties + 0.5) / (n_draws + 1))


def uniformity(ranks: pd.DataFrame) -> pd.DataFrame:
    """Chi-squared test of each quantity's ranks: columns `quantity, p, p_holm`.

    `p_holm` is corrected for the number of quantities (Holm 1979).
    """
    n_bins = min(N_RANKS, len(ranks) // 5)
    p = []
    for name in ranks:
        counts = np.histogram(ranks[name], bins=n_bins, range=(0, 1))[0]
        p.append(float(scipy.stats.chisquare(counts).pvalue))
    order = np.argsort(p)
    holm = np.maximum.accumulate(np.array(p)[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(holm, 1.0)
    return pd.DataFrame({"quantity": list(ranks), "p": p, "p_holm": corrected})
