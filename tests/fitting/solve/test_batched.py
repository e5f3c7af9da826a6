"""Many fits at once: minima no worse than scipy's, weights as repeated points, bounds kept."""

import numpy as np
import pytest

from fitting.laws import CHINCHILLA, COMPUTE_ONLY, RISING, SIGMOID
from fitting.laws.curves import predict
from fitting.solve import batched
from fitting.solve.lbfgs import fit_law, fit_link
from fitting.solve.objectives import HUBER_DELTA

N, D = np.meshgrid([2e8, 4e8, 8e8, 1.3e9], [1.0, 2.0, 5.0, 10.0])
X = np.stack([N.ravel(), 20 * N.ravel() * D.ravel()], axis=-1)
TRUTH = np.array([5.0, 6.5, 0.32, 0.28, 0.6])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def observed(noise, rng):
    return predict(CHINCHILLA, TRUTH, X) * np.exp(noise * rng.standard_normal(len(X)))


def weighted_huber(theta, weights, y):
    r = np.log(predict(CHINCHILLA, theta, X)) - np.log(y)
    size = np.minimum(np.abs(r), HUBER_DELTA)
    return np.sum(weights * size * (np.abs(r) - size / 2))


def solve_law(y, weights):
    return batched.solve(
        CHINCHILLA.log_mean,
        CHINCHILLA.bounds,
        CHINCHILLA.starts(np.log(X), np.log(y))[None],
        np.log(X)[None],
        np.log(y)[None],
        weights,
        HUBER_DELTA,
        CHINCHILLA.pivot(np.log(X)),
    )


def test_a_law_without_noise_is_recovered(rng):
    found = solve_law(observed(0.0, rng), np.ones((1, 16)))
    np.testing.assert_allclose(found.theta[0], TRUTH, rtol=1e-5)
    assert found.converged.all()


@pytest.mark.parametrize(
    "noise",
    [pytest.param(0.002, marks=pytest.mark.slow), 0.01, pytest.param(0.05, marks=pytest.mark.slow)],
)
def test_minima_are_no_worse_than_those_of_l_bfgs_b(noise, rng):
    for _ in range(5):
        y = observed(noise, rng)
        theirs = fit_law(CHINCHILLA, X, y).objective
        assert solve_law(y, np.ones((1, 16))).objective[0] <= theirs * (1 + 1e-6)


def test_weights_act_as_repeated_points_and_zero_as_none(rng):
    y = observed(0.01, rng)
    counts = rng.multinomial(16, np.full(16, 1 / 16), 3) + np.eye(3, 16, dtype=int)
    found = solve_law(y, counts)
    for theta, objective, count in zip(found.theta, found.objective, counts, strict=True):
        assert objective == pytest.approx(weighted_huber(theta, count, y), rel=1e-9)
        repeated = np.repeat(np.arange(16), count)
        theirs = fit_law(CHINCHILLA, X[repeated], y[repeated]).objective
        assert objective <= theirs * (1 + 1e-6)


def test_bounds_hold_and_the_better_start_wins():
    c = np.geomspace(1e18, 1e21, 9)[:, None]
    y = 3.0 * c[:, 0] ** -0.05  # E = 0 is on its bound
    found = batched.solve(
        COMPUTE_ONLY.log_mean,
        COMPUTE_ONLY.bounds,
        np.array([[[0.0, 1.0, 3.0], [3.0, 0.1, 1.0]]]),
        np.log(c)[None],
        np.log(y)[None],
        np.ones((1, 9)),
        HUBER_DELTA,
    )
    assert found.theta[0] == pytest.approx([np.log(3.0), 0.05, 0.0], abs=1e-4)
    assert (found.theta >= COMPUTE_ONLY.bounds[0]).all()


def test_a_link_by_least_squares_equals_scipys(rng):
    x = np.linspace(0.5, 1.4, 60)
    y = predict(SIGMOID, np.array([-0.7, 0.8, 6.0, 0.97]), x) + 0.01 * rng.standard_normal(60)
    theirs = fit_link(SIGMOID, x, y)
    xs, ys = np.append(x, 0.0), np.append(y, 1.0)
    ours = batched.solve(
        SIGMOID.mean,
        SIGMOID.bounds,
        SIGMOID.start[None, None],
        xs[None],
        ys[None],
        np.ones((1, 61)),
    )
    assert 2 * ours.objective[0] <= theirs.objective * (1 + 1e-9)
    np.testing.assert_allclose(ours.theta[0], theirs.theta, rtol=1e-4)


def test_more_problems_than_places_come_out_in_their_order(rng):
    """Problems with different points, starts and weights: each has the result of a single fit."""
    n = 3 * batched._PLACES + 5
    y = np.stack([observed(0.01, rng) for _ in range(n)])
    weights = rng.dirichlet(np.ones(16), n) * 16
    starts = np.stack([CHINCHILLA.starts(np.log(X), np.log(row))[[13, 22]] for row in y])
    together = batched.solve(
        CHINCHILLA.log_mean, CHINCHILLA.bounds, starts, np.log(X)[None], np.log(y), weights,
        HUBER_DELTA, CHINCHILLA.pivot(np.log(X)),
    )  # fmt: skip
    for i in (0, batched._PLACES, n - 1):
        alone = batched.solve(
            CHINCHILLA.log_mean, CHINCHILLA.bounds, starts[i : i + 1], np.log(X)[None],
            np.log(y[i : i + 1]), weights[i : i + 1], HUBER_DELTA, CHINCHILLA.pivot(np.log(X)),
        )  # fmt: skip
        np.testing.assert_allclose(together.theta[i], alone.theta[0], rtol=1e-9, atol=1e-12)
        assert together.objective[i] == pytest.approx(alone.objective[0], rel=1e-9)


def test_interpolation_with_fewer_points_than_parameters_ends(rng):
    weights = np.zeros((1, 16))
    weights[0, :3] = 1
    found = solve_law(observed(0.05, rng), weights)
    assert found.objective[0] < 1e-12


def test_points_of_weight_zero_are_as_good_as_absent(rng):
    """Twelve runs are padded to sixteen with points at which this law is not positive."""
    x, theta = X[:12], np.array([2.0, 2.0, 0.15, 0.17, 0.95])
    y = predict(RISING, theta, x) * np.exp(0.005 * rng.standard_normal(12))
    starts = RISING.starts(np.log(x), np.log(y))[None]

    def fit(log_x, log_y, weights):
        return batched.solve(
            RISING.log_mean, RISING.bounds, starts, log_x[None], log_y[None], weights[None],
            HUBER_DELTA, RISING.pivot(np.log(x)),
        ).objective[0]  # fmt: skip

    padded = fit(np.log(x), np.log(y), np.ones(12))
    inside = np.concatenate([np.log(x), np.log(x[:4])])
    within = fit(inside, np.concatenate([np.log(y), np.log(y[:4])]), np.repeat([1.0, 0.0], (12, 4)))
    assert padded == pytest.approx(within, rel=1e-4)
    assert padded <= weighted_sum(RISING, theta, x, y)


def weighted_sum(law, theta, x, y):
    r = np.abs(np.log(predict(law, theta, x)) - np.log(y))
    inner = np.minimum(r, HUBER_DELTA)
    return np.sum(inner * (r - inner / 2))
