"""Laws and links: gradients against finite differences, values by hand, planted laws recovered."""

import jax
import numpy as np
import pytest

from fitting.laws import (
    CHINCHILLA,
    COMPUTE_ONLY,
    HILL,
    LATENT_COMPUTE,
    LATENT_LOSS,
    LAWS,
    LINKS,
    LOG_SIGMOID,
    RISING,
    SIGMOID,
    SINGLE_STEP,
)
from fitting.laws.curves import gradient, predict, slope
from fitting.solve.fit import huber_inflation
from fitting.solve.lbfgs import fit_law, fit_link

GRID = np.array(
    [[n, 20 * n * m] for n in (1.9e8, 3.7e8, 7.6e8, 1.3e9) for m in (1, 2, 5, 10)]
)  # (16, 2)
THETA = {
    CHINCHILLA: [4.0, 6.0, 0.25, 0.3, 0.5],
    COMPUTE_ONLY: [6.0, 0.15, 0.6],
    SINGLE_STEP: [7.0, 6.0, 0.35, 0.25, -1.0, -0.7, 0.95],
    RISING: [2.0, 2.0, 0.15, 0.17, 1.0],
    LATENT_LOSS: [6.0, 5.5, 0.35, 0.28, 0.6, 4.0, 0.25, 0.9],
    LATENT_COMPUTE: [6.5, 0.16, 0.5, 4.0, 0.25, 0.9],
    SIGMOID: [-0.7, 0.8, 5.0, 0.98],
    LOG_SIGMOID: [-0.07, 0.97, 20.0],
    HILL: [0.25, 0.8, 5.0],
}
POINT = {
    CHINCHILLA: np.array([1e9, 2e10]),
    COMPUTE_ONLY: np.array([1e20]),
    SINGLE_STEP: np.array([1e9, 2e10]),
    RISING: np.array([1e9, 2e10]),
    LATENT_LOSS: np.array([1e9, 2e10]),
    LATENT_COMPUTE: np.array([1e20]),
    SIGMOID: np.float64(0.9),
    LOG_SIGMOID: np.float64(1.1),
    HILL: np.float64(0.9),
}


@pytest.mark.parametrize("curve", LAWS + LINKS, ids=lambda c: c.name)
def test_gradients_agree_with_finite_differences(curve):
    theta, x = np.array(THETA[curve]), POINT[curve]
    exact = gradient(curve, theta, x)

    def value(t):
        v = float(predict(curve, t, x))
        return np.log(v) if curve in LAWS else v

    steps = 1e-6 * np.maximum(1, np.abs(theta)) * np.eye(len(theta))
    numeric = [(value(theta + h) - value(theta - h)) / (2 * h.sum()) for h in steps]
    np.testing.assert_allclose(exact, numeric, rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("link", LINKS, ids=lambda c: c.name)
def test_the_slope_is_the_derivative_in_the_feature(link):
    theta, x = np.array(THETA[link]), float(POINT[link])
    rise = predict(link, theta, np.array([x - 1e-6, x + 1e-6]))
    assert slope(link, theta, x) == pytest.approx((rise[1] - rise[0]) / 2e-6, rel=1e-6)
    assert slope(link, theta, x) < 0


def test_chinchilla_by_hand_and_smooth_at_no_floor():
    theta = np.array([np.log(400.0), np.log(1000.0), 0.3, 0.3, 0.0])
    n, d = 1e9, 1e10
    assert predict(CHINCHILLA, theta, np.array([n, d])) == pytest.approx(
        400 / n**0.3 + 1000 / d**0.3, rel=1e-13
    )
    assert np.isfinite(gradient(CHINCHILLA, theta, np.array([n, d]))).all()


@pytest.mark.parametrize("law", [CHINCHILLA, COMPUTE_ONLY], ids=lambda c: c.name)
def test_a_planted_law_is_recovered(law):
    x = GRID if law is CHINCHILLA else 6 * GRID.prod(axis=1, keepdims=True)
    truth = np.array(THETA[law])
    fit = fit_law(law, x, predict(law, truth, x))
    np.testing.assert_allclose(fit.theta, truth, rtol=2e-2)
    far = np.array([[7e9, 4e12]]) if law is CHINCHILLA else np.array([[1.7e23]])
    assert predict(law, fit.theta, far) == pytest.approx(predict(law, truth, far), rel=1e-4)
    assert fit.converged


@pytest.mark.parametrize("law", LAWS, ids=lambda c: c.name)
def test_the_pivot_separates_scales_from_exponents(law):
    """With pivoted parameters, a change of an exponent leaves the term's value at the centre."""
    x = POINT[law] * np.exp(np.random.default_rng(0).normal(size=(40, len(law.inputs))))
    log_x = np.log(x)
    theta = np.array(THETA[law])
    unpivot = np.linalg.inv(law.pivot(log_x))
    centre = np.exp(log_x.mean(axis=0))
    for _, exponent, _ in law.terms:
        turned = theta + 0.02 * unpivot[:, exponent]
        assert predict(law, turned, centre) == pytest.approx(predict(law, theta, centre), rel=1e-9)
        assert abs(predict(law, turned, 2 * centre) / predict(law, theta, 2 * centre) - 1) > 1e-4


@pytest.mark.parametrize("link", LINKS, ids=lambda c: c.name)
def test_a_planted_link_is_recovered(link):
    x = np.linspace(0.9, 1.9, 400) if link is not LOG_SIGMOID else np.linspace(1.0, 1.4, 400)
    truth = np.array([-0.75, 0.7, 5.0, 1.0]) if link is SIGMOID else np.array(THETA[link])
    fit = fit_link(link, x, predict(link, truth, x))
    there = predict(link, truth, x)
    np.testing.assert_allclose(predict(link, fit.theta, x), there, atol=2e-3)


def test_the_covariance_is_that_of_repeated_experiments():
    rng = np.random.default_rng(0)
    truth, target = np.array(THETA[CHINCHILLA]), np.array([7e9, 4e12])
    clean, found, claimed = predict(CHINCHILLA, truth, GRID), [], []
    for _ in range(60):
        fit = fit_law(CHINCHILLA, GRID, clean * np.exp(0.003 * rng.normal(size=16)))
        g = gradient(CHINCHILLA, fit.theta, target)
        found.append(np.log(predict(CHINCHILLA, fit.theta, target)))
        claimed.append(g @ fit.covariance @ g)
    assert np.sqrt(np.median(claimed)) == pytest.approx(np.std(found), rel=0.4)


def test_fits_are_in_float64_and_leave_the_default_alone():
    fit = fit_law(CHINCHILLA, GRID, predict(CHINCHILLA, np.array(THETA[CHINCHILLA]), GRID))
    assert fit.theta.dtype == np.float64
    assert jax.numpy.ones(1).dtype == np.float32


@pytest.mark.parametrize("k", [0.05, 0.5, 1.5])
def test_the_variance_of_a_huber_location_fit(k):
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(4000, 50))
    centre = np.median(samples, axis=1)
    for _ in range(60):
        centre += np.clip(samples - centre[:, None], -k, k).sum(axis=1) / np.maximum(
            (np.abs(samples - centre[:, None]) < k).sum(axis=1), 5
        )
    assert centre.var() * 50 == pytest.approx(huber_inflation(k, 1.0), rel=0.12)


def test_whole_numbers_are_numbers():
    n = np.array([[10, 1000], [10, 2000], [20, 1000], [20, 4000], [40, 1000], [40, 8000]])
    y = np.array([9, 8, 7, 6, 5, 4])
    whole, real = fit_law(CHINCHILLA, n, y), fit_law(CHINCHILLA, n.astype(float), y.astype(float))
    np.testing.assert_array_equal(whole.theta, real.theta)
    assert whole.theta.any()
