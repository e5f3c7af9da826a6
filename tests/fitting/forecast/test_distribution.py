"""Scores and mixtures of predictive distributions, against closed forms."""

import numpy as np
from scipy.stats import norm

from fitting.forecast import distribution


def test_crps_of_a_normal_is_its_closed_form():
    p, mean, sd = distribution.probabilities([0.95]), 0.4, 0.05
    actual = np.array([0.4, 0.43, 0.3])
    z = (actual - mean) / sd
    known = sd * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    quantiles = np.tile(norm.ppf(p, mean, sd), (3, 1))
    np.testing.assert_allclose(distribution.crps(p, quantiles, actual), known, rtol=0.002)


def test_a_mixture_of_a_distribution_with_itself_is_itself():
    p = distribution.probabilities([0.95])
    own = norm.ppf(p, [[0.4], [0.6]], 0.05)
    np.testing.assert_allclose(distribution.mixture(p, [own, own], [1, 3]), own, atol=1e-12)
    apart = distribution.mixture(p, [own - 1, own + 1], [1, 3])
    assert (apart[0][p < 0.24] < 0).all()
    assert (apart[0][p > 0.26] > 0.9).all()


def test_the_interval_score_by_hand():
    low, high = np.full(3, 0.4), np.full(3, 0.5)
    found = distribution.interval_score(low, high, np.array([0.45, 0.38, 0.53]), 0.8)
    np.testing.assert_allclose(found, [0.1, 0.1 + 10 * 0.02, 0.1 + 10 * 0.03])
