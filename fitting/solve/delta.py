"""Predictive intervals by the delta method: where a measured value will fall."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.special

from fitting.laws import Law, Link
from fitting.laws.curves import gradient, predict, slope
from fitting.solve.fit import Fit


@dataclass(frozen=True)
class Spread:
    """A predictive variance and the degrees of freedom behind its estimate."""

    variance: float
    dof: float

    def quantiles(self, p: np.ndarray) -> np.ndarray:
        """Quantiles of a Student-t distribution about 0, at probabilities p."""
        return scipy.special.stdtrit(self.dof, p) * math.sqrt(self.variance)


def law_spread(fit: Fit[Law], x: np.ndarray) -> Spread:
    """Spread of a new log loss at inputs x of shape (I,): delta method plus residual."""
    g = gradient(fit.curve, fit.theta, x)
    return Spread(float(g @ fit.covariance @ g) + fit.residual_sd**2, fit.dof)


def chained_spread(step1: Fit[Law], step2: Fit[Link], x: np.ndarray) -> Spread:
    """Spread of a new accuracy at inputs x, through both steps, with the residuals of both.

    The two fits are taken as independent.  The checkpoints of a run are correlated, so step 2's
    parameter part is too small; its residual part dominates.  Degrees of freedom are combined by
    Welch and Satterthwaite's rule.
    """
    loss = float(predict(step1.curve, step1.theta, x))
    g = gradient(step2.curve, step2.theta, loss)
    first = law_spread(step1, x)
    through = (slope(step2.curve, step2.theta, loss) * loss) ** 2 * first.variance
    own = float(g @ step2.covariance @ g) + step2.residual_sd**2
    total = through + own
    return Spread(total, total**2 / (through**2 / first.dof + own**2 / step2.dof))
