"""Separate fits and predictions, laws that a method cannot fit, and settings of a forecast."""

from dataclasses import replace

import numpy as np
import pytest

from fitting import table
from fitting.errors import InputError
from fitting.forecast import ForecastSpec, forecast, to_frame
from fitting.forecast.distribution import probabilities
from fitting.forecast.methods import METHODS
from fitting.forecast.predict import of_model
from fitting.laws import CHINCHILLA, COMPUTE_ONLY, RISING, SINGLE_STEP, Law
from fitting.observations import build, select
from fitting.observations.preparation import PAPER, POOLED
from fitting.posterior import bayes, laplace, sampler
from tests.planted import LADDER, TARGET, planted

FIRST, SECOND = [TARGET, "near=2e9,4e11"], ["far=2e10,8e12"]
OWN_LAW = Law("mine", CHINCHILLA.inputs, CHINCHILLA.params, CHINCHILLA.log_mean,
              CHINCHILLA.starts, CHINCHILLA.terms, "none")  # fmt: skip


@pytest.fixture(scope="module")
def frame():
    return planted(0, 0.004, 0.004)


def short_nuts(model, arguments, seed):
    """Few draws, whose checks would fail: a forecast would then take the bootstrap."""
    return replace(sampler.run_nuts(model, arguments, seed, 1, 20, 20), problems=())


@pytest.mark.parametrize("method", METHODS)
def test_a_model_fitted_without_targets_predicts_any_targets(frame, method, monkeypatch):
    monkeypatch.setattr(sampler, "nuts", short_nuts)
    preparation = (POOLED if METHODS[method].pools else PAPER)["bpb"]
    runs = select.select_runs(frame, LADDER)
    fitted = build.observe(frame, "t", runs, preparation, CHINCHILLA)
    assert fitted.measured.empty
    model = METHODS[method].fit([fitted.observations])
    for names in (FIRST, SECOND):
        data = build.with_targets(fitted, frame, select.target_runs(frame, names, runs))
        (later,) = of_model(model, [data], method)
        (alone,) = forecast(frame, ForecastSpec(LADDER, names, ["t"], method, feature="bpb"))
        np.testing.assert_array_equal(later.step1.theta, alone.step1.theta)
        for side in ("loss", "acc"):
            assert later.quantiles[side].shape[0] == len(names)
            np.testing.assert_array_equal(later.quantiles[side], alone.quantiles[side])


def test_predictions_say_what_they_are_of(frame):
    runs, p = select.select_runs(frame, LADDER), probabilities([0.5])
    targets = select.target_runs(frame, [TARGET], runs)
    for law, known in ((CHINCHILLA, {"loss", "accuracy"}), (RISING, {"accuracy"})):
        data = build.observe(frame, "t", runs, PAPER["bpb"], law)
        model = METHODS["least-squares"].fit([data.observations])
        assert model.posterior is None
        (one,) = model.predict([build.with_targets(data, frame, targets).targets], p)
        assert {name for name in ("loss", "accuracy") if getattr(one, name) is not None} == known


def test_a_method_refuses_a_law_that_it_cannot_fit(frame):
    runs = select.select_runs(frame, LADDER)
    for law in (OWN_LAW, SINGLE_STEP, RISING):
        assert law.methods == ("paper", "least-squares", "bootstrap")
        data = build.observe(frame, "t", runs, POOLED["bpb"], law).observations
        for method in ("bayes", "laplace"):
            says = f"`method` {method} cannot fit the law"
            with pytest.raises(InputError, match=says):
                ForecastSpec(LADDER, [TARGET], ["t"], method, law=law)
            with pytest.raises(InputError, match=says):
                METHODS[method].fit([data])
        with pytest.raises(InputError, match="the pooled model cannot fit the law"):
            bayes.fit([data], laplace.sample)
    assert {"bayes", "laplace"} <= set(CHINCHILLA.methods) & set(COMPUTE_ONLY.methods)


def test_a_law_of_ones_own_is_fitted_by_the_other_methods(frame):
    for method in OWN_LAW.methods:
        ours, theirs = (
            to_frame(forecast(frame, ForecastSpec(LADDER, [TARGET], ["t"], method, law=law)))
            for law in (OWN_LAW, CHINCHILLA)
        )
        np.testing.assert_array_equal(ours["pred"], theirs["pred"])


def test_settings_are_lists_and_a_dict(frame, tmp_path):
    settings = {"method": "paper", "levels": [0.5, 0.95], "chance": {"t": 0.25}}
    spec = ForecastSpec(train=LADDER, targets=[TARGET], **{"tasks": ["t"]} | settings)
    assert spec.levels == (0.5, 0.95)
    assert spec == replace(spec, levels=(0.5, 0.95))
    table.write(frame, tmp_path / "m.csv")
    measurements, _ = table.read(tmp_path / "m.csv")
    made = to_frame(forecast(measurements, spec))
    assert made["level"].tolist() == [0.5, 0.95]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"train": "2e*"}, r"`train` is '2e\*': give a list"),
        ({"tasks": []}, "`tasks` names none"),
        ({"method": "guess"}, "`method` guess: not known; use paper"),
        ({"inputs": "n"}, "`inputs` n: not known; use nd, c"),
        ({"steps": "three"}, "`steps` three: not known; use two, one"),
        ({"chance": {"t": 25}}, "`chance` of 't' is 25: must lie from 0 to below 1"),
        ({"new_items": True, "method": "paper"}, "`new_items` needs `method` bayes or laplace"),
    ],
)
def test_bad_settings_get_one_line(settings, says):
    with pytest.raises(InputError, match=says):
        ForecastSpec(**settings)


def test_a_forecast_needs_runs_and_targets(frame):
    with pytest.raises(InputError, match="`train` names no run"):
        forecast(frame, ForecastSpec(targets=[TARGET], tasks=["t"]))
    with pytest.raises(InputError, match="`targets` names no run"):
        forecast(frame, ForecastSpec(LADDER, tasks=["t"]))


@pytest.mark.parametrize("method", ["bayes", "laplace"])
def test_a_law_changed_from_a_pooled_one_is_refused(method):
    """The pooled model has curves of its own: it would fit them in place of this law's."""
    mine = replace(CHINCHILLA, name="mine", log_mean=lambda theta, log_x: theta[0] + log_x[..., 0])
    with pytest.raises(InputError, match="cannot fit the law mine"):
        ForecastSpec(train=["a"], targets=["b"], law=mine, method=method)
