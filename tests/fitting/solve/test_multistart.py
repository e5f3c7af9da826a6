"""Fits from many starts: weights of zero."""

import numpy as np

from fitting.laws import COMPUTE_ONLY
from fitting.laws.curves import predict as curve_value
from fitting.observations.arrays import Observations
from fitting.solve import multistart
from tests.planted_compute import LAW


def test_a_run_of_weight_zero_has_no_effect():
    x = np.geomspace(1e12, 1e15, 9)[:, None]
    y = curve_value(COMPUTE_ONLY, LAW, x)
    y[3] *= 1.5
    none = np.zeros(0)
    data = Observations(COMPUTE_ONLY, None, x, y, none, none, none, none, (0.25, 0.0), True)
    weights = np.ones((1, 9))
    weights[0, 3] = 0
    starts = COMPUTE_ONLY.starts(np.log(x), np.log(y))[None]
    found = multistart.laws([data], weights, starts)
    np.testing.assert_allclose(found.theta[0, 0], LAW, rtol=1e-3)
