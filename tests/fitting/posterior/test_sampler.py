"""Attempts of NUTS: longer chains, then Laplace's approximation, all noted; and the checks."""

import numpy as np
import pytest

from fitting.posterior import laplace, sampler
from fitting.posterior.draws import Draws
from fitting.posterior.hierarchy import Step1

GOOD = {"r_hat": 1.002, "ess": 900.0, "divergent": 0.0, "bfmi": 0.9}


def drawn(health, n_chains, n_draws, **more):
    values = {"a": np.arange(n_chains * n_draws, dtype=float).reshape(n_chains, n_draws)}
    stats = {"energy": values["a"].copy()}
    return Draws(values, stats, health, sampler._problems(health), **more)


@pytest.fixture
def attempts(monkeypatch):
    """Runs `nuts` on chains of given r_hats; returns its draws and the settings of each attempt."""

    def run(*r_hats):
        asked, left = [], list(r_hats)

        def run_nuts(model, arguments, seed, n_draws=sampler.N_DRAWS, **settings):
            asked.append(settings | {"seed": seed, "n_draws": n_draws})
            return drawn(GOOD | {"r_hat": left.pop(0)}, sampler.N_CHAINS, n_draws)

        def at_mode(model, arguments, seed):
            return Draws({"a": np.zeros((1, 5))}, {}, {}, ())

        monkeypatch.setattr(sampler, "run_nuts", run_nuts)
        monkeypatch.setattr(laplace, "sample", at_mode)
        found = sampler.nuts(lambda: None, (), 7)
        assert left == []
        return found, asked

    return run


def test_chains_that_pass_are_kept(attempts):
    found, asked = attempts(1.004)
    assert found.attempts == ()
    assert len(asked) == 1
    assert found.values["a"].shape == (sampler.N_CHAINS, sampler.N_DRAWS)


def test_chains_that_nearly_pass_are_repeated_longer(attempts):
    found, (first, second) = attempts(1.02, 1.003)
    assert found.attempts == ("NUTS: r_hat 1.020 above 1.01",)
    assert found.problems == ()
    assert second["n_draws"] == 3 * first["n_draws"]
    assert second["n_warmup"] == 3 * sampler.N_WARMUP
    assert second["target"] > 0.95
    assert second["seed"] != first["seed"]
    # As many draws as the other step has, evenly spaced: the steps are paired by position.
    expected = np.arange(4 * 3 * sampler.N_DRAWS).reshape(4, -1)[:, ::3]
    np.testing.assert_array_equal(found.values["a"], expected)
    np.testing.assert_array_equal(found.stats["energy"], expected)


def test_laplace_comes_last(attempts):
    found, asked = attempts(1.02, 1.015)
    assert len(asked) == 2
    assert found.attempts == (
        "NUTS: r_hat 1.020 above 1.01", "NUTS, 3 times as long: r_hat 1.015 above 1.01"
    )  # fmt: skip
    assert not found.stats
    assert found.flat()["a"].shape == (5,)


def test_laplace_has_as_many_draws_as_nuts():
    """The draws of two steps are paired, whatever the sampler of each."""
    chains = sampler.N_CHAINS * sampler.N_DRAWS
    model, log_x = Step1(("flops",)), np.linspace(-1, 1, 8)[None, :, None]
    drawn_ = laplace.sample(model, (log_x, -0.1 * log_x[..., 0], np.ones(8)), 0)
    assert drawn_.flat()["level"].shape == (chains, 1)


@pytest.mark.parametrize("r_hat", [1.8, np.nan])
def test_chains_in_different_places_are_not_repeated(attempts, r_hat):
    found, asked = attempts(r_hat)
    assert len(asked) == 1
    assert len(found.attempts) == 1
    assert not found.stats


@pytest.mark.parametrize(
    ("r_hat", "text"),
    [(1.01004, "1.01004"), (1.0100007, "1.01000070"), (1.012, "1.012"), (1.4, "1.400")],
)
def test_a_failed_r_hat_does_not_look_like_its_limit(r_hat, text):
    (problem,) = sampler._problems(GOOD | {"r_hat": r_hat})
    assert problem.split()[1].startswith(text[:7])
    assert float(problem.split()[1]) > 1.01
    assert problem.endswith(" above 1.01")


def test_values_at_their_limits_pass():
    limits = {"r_hat": 1.01, "ess": 400.0, "divergent": 0.002, "bfmi": 0.3}
    assert sampler._problems(limits) == ()
    for name, worse in (("ess", 399.0), ("divergent", 0.003), ("bfmi", 0.29), ("r_hat", np.nan)):
        assert len(sampler._problems(limits | {name: worse})) == 1
