"""The forecasting methods: each fits observations, and the fitted model predicts targets.

`METHODS["bayes"].fit(observations).predict(targets, p)`: fitting needs no target, and one fitted
model predicts any number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fitting.errors import InputError
from fitting.forecast import delta_intervals, pooled, resampled
from fitting.forecast.fitted import FittedModel
from fitting.laws import Law
from fitting.observations.arrays import Observations
from fitting.posterior.hierarchy import check_law

_FEWEST_POOLED = 3  # runs; with so few, the forecast depends mainly on the priors


@dataclass(frozen=True)
class Method:
    """A way to fit the two steps and to estimate the error of a forecast.

    Attributes:
        name: value of `method` in a forecast.
        pools: whether tasks are fitted together and learn from one another.
        fit_tasks: observations of the tasks, which share their runs and law -> fitted model.
    """

    name: str
    pools: bool
    fit_tasks: Callable[[Sequence[Observations]], FittedModel]

    def check_law(self, law: Law) -> None:
        """Checks that the law can be fitted by this method.

        Raises:
            InputError: the method cannot fit the law.
        """
        if self.name not in law.methods:
            usable = ", ".join(law.methods)
            raise InputError(f"`method` {self.name} cannot fit the law {law.name}: use {usable}")
        if self.pools:
            check_law(law)

    def fit(self, observations: Sequence[Observations]) -> FittedModel:
        """Fits T tasks that share their runs and law.

        Raises:
            InputError: this method cannot fit the law, or there are too few runs.
        """
        law, n_runs = observations[0].law, len(observations[0].y)
        self.check_law(law)
        if self.pools and n_runs < _FEWEST_POOLED:
            raise InputError(f"{n_runs} runs: `train` needs at least {_FEWEST_POOLED} of them")
        if not self.pools and n_runs <= len(law.params):
            pooled = "bayes" in law.methods or law.of_accuracy  # which has its own law of accuracy
            other = ", or `method` bayes" if pooled else ""
            raise InputError(
                f"{n_runs} runs cannot fit the {len(law.params)} parameters of {law.name} and say "
                f"how well: `train` needs at least {len(law.params) + 1}{other}"
            )
        return self.fit_tasks(observations)


METHODS = {
    method.name: method
    for method in (
        Method("paper", False, delta_intervals.fit_as_published),
        Method("least-squares", False, delta_intervals.fit_best),
        Method("bootstrap", False, resampled.fit_resampled),
        Method("bayes", True, pooled.fit_sampled),
        Method("laplace", True, pooled.fit_at_mode),
    )
}
POOLING = tuple(name for name, method in METHODS.items() if method.pools)
