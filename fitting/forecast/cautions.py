"""What makes a forecast doubtful in its runs, its fit or its targets, in words.

Each function takes one task's forecast and returns sentences; `CAUTIONS` lists them all.  Arguments
of a forecast stand in backquotes, as in an `InputError`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import scipy.stats

from fitting.forecast.predict import TaskForecast
from fitting.laws import Law
from fitting.laws.curves import predict
from fitting.observations import select
from fitting.solve.fit import Fit
from fitting.solve.multistart import best_laws

_ALIKE = 0.98  # correlation of ln N and ln D from which their effects cannot be told apart
_ONE_RATIO = 1.2  # largest D/N over the smallest that counts as one ratio
_ELSEWHERE = 1.5  # factor by which a target's D/N may lie outside the runs'
_FEWEST_RUNS = 8  # with fewer, residuals tell nothing
_TREND_T = 3.0  # t value of a rank correlation
_LEAST_TREND = 0.002  # of log residuals over the range, below which a trend does not matter
_OUTLIER = 4.0  # robust standard deviations
_LEAST_OUTLIER = 0.002  # of a log residual, below which it does not matter
_NAMED = 6  # runs named
_STALLED = 1.05  # objective over that of the best minimum
_REPEATED = 1.01  # tokens over unique tokens


def below_a_smaller_run(forecast: TaskForecast) -> list[str]:
    """Targets forecast worse than a training run that has no more parameters and tokens."""
    found = []
    for g, target in enumerate(forecast.measured.to_dict("records")):
        smaller = forecast.final[
            (forecast.final["n_params"] <= target["n_params"])
            & (forecast.final["n_tokens"] <= target["n_tokens"])
            & (
                (forecast.final["n_params"] < target["n_params"])
                | (forecast.final["n_tokens"] < target["n_tokens"])
            )
        ]
        for side, quantiles in forecast.quantiles.items():
            if smaller.empty:
                continue
            middle = float(np.interp(0.5, forecast.p, quantiles[g]))
            values = smaller.set_index("run")[side]
            if side == "acc" and middle < values.max():
                found.append(
                    f"{target['run']}: the forecast {middle:.1%} is below the {values.max():.1%} "
                    f"that the smaller run {values.idxmax()} has reached"
                )
            elif side == "loss" and middle > values.min():
                found.append(
                    f"{target['run']}: the forecast loss {middle:.4g} is above the "
                    f"{values.min():.4g} that the smaller run {values.idxmin()} has reached"
                )
    return found


def size_and_tokens_together(forecast: TaskForecast) -> list[str]:
    """Targets at another D/N than runs whose N and D rise together."""
    if not {"n_params", "n_tokens"} <= set(forecast.step1.curve.inputs):
        return []
    log_n, log_d = (np.log(forecast.final[c].to_numpy(float)) for c in ("n_params", "n_tokens"))
    low, high = np.exp([(log_d - log_n).min(), (log_d - log_n).max()])
    together = high / low <= _ONE_RATIO
    if np.ptp(log_n) > 0 and np.ptp(log_d) > 0 and len(log_n) > 2:
        together |= bool(np.corrcoef(log_n, log_d)[0, 1] > _ALIKE)
    found = []
    for target in forecast.measured.to_dict("records"):
        ratio = target["n_tokens"] / target["n_params"]
        if together and not low / _ELSEWHERE <= ratio <= high * _ELSEWHERE:
            found.append(
                f"{target['run']}: the effect of N cannot be told from that of D, as both rise "
                f"together in the runs, and its D/N is {ratio:.3g} where theirs is "
                f"{_span(low, high)}: train runs at other D/N"
            )
    return found


def _span(low: float, high: float) -> str:
    first, last = f"{low:.3g}", f"{high:.3g}"
    return first if first == last else f"{first} to {last}"


def trending_residuals(forecast: TaskForecast) -> list[str]:
    """The strongest trend of step 1's residuals along N, D, D/N or compute, if there is one.

    Spearman's rank correlation finds it and the median of the pairs' slopes is its size, so that a
    few runs off the law make none.
    """
    residuals = _residuals(forecast, forecast.step1)
    if len(residuals) < _FEWEST_RUNS:
        return []
    final, steepest, text = forecast.final, _TREND_T, []
    for words, values in (
        ("N", final["n_params"]),
        ("D", final["n_tokens"]),
        ("D/N", final["n_tokens"] / final["n_params"]),
        ("compute", final["flops"]),
    ):
        at = np.log(values.to_numpy(float))
        if not np.isfinite(at).all() or np.ptp(at) < np.log(_ONE_RATIO):
            continue
        rank = float(np.asarray(scipy.stats.spearmanr(at, residuals))[0])
        t = abs(rank) * np.sqrt((len(at) - 2) / max(1 - rank**2, 1e-12))
        change = float(np.asarray(scipy.stats.theilslopes(residuals, at))[0]) * np.ptp(at)
        if t > steepest and abs(change) > _LEAST_TREND:
            steepest = t
            text = [
                f"step 1: residuals {'rise' if change > 0 else 'fall'} by {_percent(change)} over "
                f"the runs' range of {words}: the law does not follow them"
            ]
    return text


def runs_off_the_law(forecast: TaskForecast) -> list[str]:
    """Runs that lie more than four robust standard deviations off a robust fit of the law.

    The scale is the median of absolute residuals, leaving out as many of the smallest as the law
    has parameters, which a robust fit may pass through exactly (as in MATLAB's `robustfit`).
    """
    n_params = len(forecast.step1.curve.params)
    if len(forecast.final) < max(_FEWEST_RUNS, 2 * n_params):
        return []
    residuals = _residuals(forecast, _best_law(forecast))
    left = np.sort(np.abs(residuals))[n_params:]
    scale = np.median(left) / scipy.stats.norm.ppf(0.75)
    off = np.abs(residuals) > max(_OUTLIER * scale, _LEAST_OUTLIER)
    order = sorted(np.flatnonzero(off), key=lambda i: -abs(residuals[i]))
    if not order:
        return []
    side = next(iter(forecast.columns))
    runs = forecast.final["run"].tolist()
    named = [
        f"{runs[i]}: {side} {_percent(residuals[i])} "
        f"{'above' if residuals[i] > 0 else 'below'} the law"
        for i in order[:_NAMED]
    ]
    more = f" and {len(order) - _NAMED} more" if len(order) > _NAMED else ""
    patterns = " ".join(map(repr, select.literal([runs[i] for i in order[:_NAMED]])))
    several = len(order) > 1
    return [
        f"step 1: run{'s' if several else ''} {', '.join(named)}{more}; `exclude` {patterns} "
        f"leaves {'them' if several else 'it'} out"
    ]


def stalled(forecast: TaskForecast) -> list[str]:
    """Whether the published optimiser stopped well above the best minimum of its objective."""
    if forecast.method != "paper":
        return []
    best = _best_law(forecast)
    if forecast.step1.objective <= _STALLED * best.objective:
        return []
    reached, least = (f"{fit.objective:.3g}".lstrip("0") for fit in (forecast.step1, best))
    return [
        f"step 1 stalled: objective {reached} against {least}, the least that was found: use "
        "`method` least-squares"
    ]


def repeated_text(forecast: TaskForecast) -> list[str]:
    """Training runs and targets that read their text more than once, where that is known."""
    found = []
    fitted = _epochs(forecast.final)
    if len(fitted):
        n = len(fitted)
        found.append(
            f"{n} of the runs fitted read{'s' if n == 1 else ''} {'its' if n == 1 else 'their'} "
            f"text up to {fitted.max():.3g} times: the law knows of no repetition"
        )
    return found + [
        f"{run} reads its text {epochs:.3g} times: the law knows of no repetition"
        for run, epochs in _epochs(forecast.measured).items()
    ]


def _epochs(runs: pd.DataFrame) -> pd.Series:
    """Tokens over unique tokens, by run, of the runs that repeat their text."""
    epochs = runs.set_index("run")["n_tokens"] / runs.set_index("run")["unique_tokens"]
    return epochs[epochs > _REPEATED]


def _best_law(forecast: TaskForecast) -> Fit[Law]:
    """The law at the best minimum of the Huber sum, whatever the method."""
    (best,) = best_laws([forecast.data.observations])
    return best


def _residuals(forecast: TaskForecast, fit: Fit[Law]) -> np.ndarray:
    """Log residuals of a fit to the observations of step 1, one per training run."""
    data = forecast.data.observations
    return np.log(data.y) - np.log(predict(fit.curve, fit.theta, data.x))


def _percent(log_ratio: float) -> str:
    return f"{100 * abs(np.expm1(log_ratio)):.2g} %"


Caution = Callable[[TaskForecast], list[str]]
CAUTIONS: tuple[Caution, ...] = (
    below_a_smaller_run,
    size_and_tokens_together,
    trending_residuals,
    runs_off_the_law,
    stalled,
    repeated_text,
)
