"""Simulation-based calibration: does the sampler recover parameters that the priors generated?

Parameters are drawn from the priors, a ladder is made from them, and the posterior is sampled.
The rank of each true value among its posterior draws is uniform if model and sampler agree (Talts
et al., arXiv 1804.06788).  This does not test whether the priors suit language models; a backtest
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
import numpyro
import pandas as pd
import scipy.stats
from scipy.special import expit, logit
from tqdm import tqdm

from fitting.laws import CHINCHILLA, HILL
from fitting.observations.arrays import Observations, Targets, Windows
from fitting.posterior import bayes, sampler
from fitting.posterior.bayes import Series
from fitting.posterior.hierarchy import ANNEALED, COMMON_SITES, Step1, Step2
from fitting.table import COLUMNS

N_RANKS = 20  # bins of a rank histogram
_CHANCE = (0.25, 0.25, 0.5, 0.2)  # of the simulated tasks
_SIZES, _MULTIPLES = np.array([1e8, 3e8, 1e9]), np.array([1.0, 3.0, 10.0])
_TARGET = (7e9, 4e11)  # n_params and n_tokens
_KINDS = {"mean": "mean", "spread": "spread", "tasks": "a task's"}
_SHARES = (0.4, 0.6, 0.8, 1.0)  # of a run's tokens at which it is evaluated


@dataclass(frozen=True)
class Simulated:
    """A ladder from the priors.

    Attributes:
        data: observations of T tasks.
        targets: its one target, for each task.
        series: losses centred where the priors are, not at the means of what was drawn.
        truth: site -> true values.
        loss: true losses of the target, shape (T,).
        accuracy: true accuracies of the target, shape (T,).
    """

    data: list[Observations]
    targets: list[Targets]
    series: Series
    truth: dict[str, np.ndarray]
    loss: np.ndarray
    accuracy: np.ndarray


def simulate(seed: int, n_tasks: int = len(_CHANCE)) -> Simulated:
    """Makes a ladder of three sizes by three multiples, and a target of 14 times its compute."""
    rng = np.random.default_rng(seed)
    law = CHINCHILLA
    n_params, multiple = (v.ravel() for v in np.meshgrid(_SIZES, _MULTIPLES, indexing="ij"))
    tokens = 20 * n_params * multiple
    x = np.stack([n_params, tokens], axis=-1)
    centre = np.log(x).mean(axis=0)
    chance = np.resize(_CHANCE, n_tasks)
    p = _prior(Step1(law.inputs), seed, np.zeros((n_tasks, len(x), 2)), np.zeros((n_tasks, len(x))),
               np.zeros(len(x)))  # fmt: skip
    level = 0.1 * rng.standard_normal(n_tasks)

    def log_loss(at: np.ndarray) -> np.ndarray:  # (..., 2) -> (T, ...)
        flat = np.broadcast_to(np.log(at).reshape(-1, 2) - centre, (n_tasks, at.size // 2, 2))
        return (level[:, None] + bayes.shape(_one(p), flat, law.inputs)[0]).reshape(
            n_tasks, *at.shape[:-1]
        )

    sigma = np.exp(p["log_sigma"])
    noise = sigma[:, None] * rng.standard_normal((n_tasks, len(x)))
    log_final = log_loss(x) + noise
    shares = np.array(_SHARES)
    along = np.stack(np.broadcast_arrays(n_params[:, None], tokens[:, None] * shares), axis=-1)
    log_curve = log_loss(along) + noise[..., None]
    lr_fraction = np.broadcast_to(1 - 0.9 * shares, log_curve.shape[1:])  # linear, to a tenth
    shape2 = (n_tasks, len(x), len(shares))
    q = _prior(Step2(), seed + 1, *(np.zeros(shape2),) * 4, chance, np.zeros(n_tasks))
    effect = np.exp(q["log_run_sd"])[:, None] * rng.standard_normal((n_tasks, len(x)))
    own = np.exp(q["log_window_sd"])[:, None, None] * rng.standard_normal(shape2)
    accuracy = _accuracy(q, log_curve, lr_fraction) + effect[..., None] + own
    extrapolation = float(np.log(_TARGET[0] * _TARGET[1] / (n_params * tokens).max()))
    sd = np.hypot(sigma, bayes.LOSS_DISCREPANCY * extrapolation)
    target = log_loss(np.array([_TARGET]))[:, 0] + sd * rng.standard_normal(n_tasks)
    off = bayes.LOGIT_DISCREPANCY * extrapolation * rng.standard_normal(n_tasks)
    reached = _accuracy(q, target[:, None, None], np.full((1, 1), ANNEALED), off)[:, 0, 0]
    sd = np.hypot(np.exp(q["log_run_sd"]), np.exp(q["log_window_sd"]))
    reached = reached + sd * rng.standard_normal(n_tasks)
    data = [
        Observations(
            law=law, link=HILL, x=x, y=np.exp(log_final[t]), run=np.arange(len(x)),
            feature=np.exp(log_final[t]), accuracy=accuracy[t, :, -1],
            windows=Windows(
                np.repeat(np.arange(len(x)), len(shares)), np.exp(log_curve[t]).ravel(),
                accuracy[t].ravel(), lr_fraction.ravel(),
            ),
            chance=(float(chance[t]), 0.0),
        )
        for t in range(n_tasks)
    ]  # fmt: skip
    targets = Targets(np.array([_TARGET]), np.array([extrapolation]), np.array([ANNEALED]))
    known = (*COMMON_SITES, "floor", "height")
    truth = {f"step {k}, {n}": v for k, s in ((1, p), (2, q)) for n, v in s.items() if n in known}
    series = Series(
        np.broadcast_to(np.log(x) - centre, (n_tasks, *x.shape)), log_final,
        np.broadcast_to(centre, (n_tasks, 2)), np.zeros(n_tasks), np.arange(n_tasks),
    )  # fmt: skip
    return Simulated(
        data, [targets] * n_tasks, series, truth, np.exp(target), np.clip(reached, 0, 1)
    )


def as_table(ladder: Simulated) -> pd.DataFrame:
    """A simulated ladder as measurements: runs `r0` to `r8` and tasks `task0`, `task1`, ..."""
    rows = []
    for t, data in enumerate(ladder.data):
        w = data.windows
        for i, (n, tokens) in enumerate(data.x):
            for share, j in zip(_SHARES, np.flatnonzero(w.run == i), strict=True):
                known = {
                    "run": f"r{i}", "size": f"{n / 1e6:.0f}M", "multiple": tokens / n / 20,
                    "seed": 0, "step": int(1000 * share), "n_params": int(n),
                    "n_params_total": int(n), "n_tokens": int(tokens * share),
                    "flops": 6 * n * tokens * share, "lr": w.lr_fraction[j], "lr_peak": 1.0,
                    "task": f"task{t}", "n_examples": 1000,
                }  # fmt: skip
                acc = float(np.clip(w.accuracy[j], 0, 1))
                rows.append(known | {"metric": "bpb", "value": float(w.feature[j])})
                rows.append(known | {"metric": "acc_per_char", "value": acc})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _prior(model: Step1 | Step2, seed: int, *arguments: np.ndarray) -> dict[str, np.ndarray]:
    """One draw of a model's sites."""
    with sampler.numerics():
        seeded = numpyro.handlers.seed(model, jax.random.key(seed))
        trace = numpyro.handlers.trace(seeded).get_trace(*arguments)
    return {
        name: np.asarray(site["value"])
        for name, site in trace.items()
        if site["type"] == "deterministic" or not site.get("is_observed", True)
    }


def _one(p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: v[None] for name, v in p.items()}


def _accuracy(
    q: dict[str, np.ndarray],
    log_x: np.ndarray,
    lr_fraction: np.ndarray,
    off: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Mean accuracy at log_x (T, R, W), its logit off by `off` (T,): shape (T, R, W)."""
    f = bayes.hill(_one(q), log_x.reshape(len(log_x), -1))[0].reshape(log_x.shape)
    if np.ndim(off):
        f = expit(logit(np.clip(f, 1e-12, 1 - 1e-12)) + np.asarray(off)[:, None, None])
    return f + q["slope"][:, None, None] * f * (1 - f) * (lr_fraction - ANNEALED)


def ranks(
    seeds: Sequence[int],
    sample: bayes.Sampler,
    n_draws: int = 199,
    n_tasks: int = len(_CHANCE),
    progress: bool = True,
) -> tuple[pd.DataFrame, int]:
    """Ranks of true values among posterior draws.

    Args:
        seeds: of the ladders.
        sample: a sampler, as `bayes.fit` takes it.
        n_draws: kept of each posterior, evenly spaced.
        n_tasks: of each ladder.
        progress: shows a bar.

    Returns:
        Ranks as shares in (0, 1), one row per ladder and one column per quantity; and the number of
        ladders on which the sampler's own checks failed.  One task per ladder is kept for task
        parameters and forecasts: tasks of one ladder are not independent.
    """
    rows, failed = [], 0
    for seed in tqdm(seeds, desc="ladders", unit="ladder", disable=not progress):
        ladder = simulate(seed, n_tasks)
        posterior = bayes.fit(ladder.data, sample, ladder.series)
        failed += bool(posterior.problems)
        losses, accuracies = bayes.predict(posterior, ladder.data, ladder.targets)
        assert posterior.step2 is not None
        assert accuracies is not None
        task = seed % len(ladder.data)
        drawn = {f"step 1, {n}": v for n, v in posterior.step1.flat().items()}
        drawn |= {f"step 2, {n}": v for n, v in posterior.step2.flat().items()}
        row = {}
        for name, true in ladder.truth.items():
            if name in drawn:
                row |= _ranks_of(name, drawn[name], true, task, n_draws)
        row["forecast, loss"] = _rank(losses[:, :, 0], ladder.loss, task, n_draws)
        row["forecast, accuracy"] = _rank(accuracies[:, :, 0], ladder.accuracy, task, n_draws)
        rows.append(row)
    return pd.DataFrame(rows), failed


def _ranks_of(
    name: str, draws: np.ndarray, true: np.ndarray, task: int, n_draws: int
) -> dict[str, float]:
    """Ranks by name: one a site, or one per population of a common site."""
    step, site = name.split(", ")
    if site not in COMMON_SITES:
        return {name: _rank(draws, true, task, n_draws)}
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
