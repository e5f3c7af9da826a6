"""Pooled Bayesian forecasts: planted ladders, noise, too little data, and failed checks."""

import jax
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fitting.errors import InputError
from fitting.forecast import ForecastSpec, diagnose, distribution, predict
from fitting.posterior import archive, bayes, calibration, sampler
from fitting.posterior.hierarchy import Step1, Step2
from fitting.table import validate

TARGET = "target=7e9,4e11"
TASKS = [f"task{t}" for t in range(4)]
CHANCE = dict(zip(TASKS, (0.25, 0.25, 0.5, 0.2), strict=True))


def as_table(seed=0, accuracy=None) -> pd.DataFrame:
    frame = calibration.as_table(calibration.simulate(seed))
    if accuracy is not None:
        frame.loc[frame["metric"] == "acc_per_char", "value"] = accuracy
    assert validate(frame) == []
    return frame


def forecast(frame, train="r*", tasks=TASKS, method="laplace", **settings):
    settings = {"chance": CHANCE, "levels": [0.5, 0.95]} | settings
    return predict.forecast(frame, ForecastSpec([train], [TARGET], list(tasks), method, **settings))


def width(made, level=0.95) -> float:
    rows = [row for f in made for row in f.rows if row["level"] == level]
    return float(np.mean([row["hi"] - row["lo"] for row in rows]))


def test_numpy_and_jax_agree():
    rng = np.random.default_rng(0)
    p = {name: rng.normal(size=(5, 3)) for name in (
        "logit_floor", "logit_share", "log_exponent_n_params", "log_exponent_n_tokens", "floor",
        "height", "log_steepness")}  # fmt: skip
    x = rng.normal(size=(3, 4, 2))
    inputs = ("n_params", "n_tokens")
    theirs = jax.vmap(lambda one: Step1(inputs).shape(one, x))(p)
    np.testing.assert_allclose(bayes.shape(p, x, inputs), theirs, rtol=2e-5, atol=1e-6)
    theirs = jax.vmap(lambda one: Step2().hill(one, x[..., 0]))(p)
    np.testing.assert_allclose(bayes.hill(p, x[..., 0]), theirs, rtol=2e-5)


@pytest.mark.slow
def test_laplace_intervals_nearly_hold_on_planted_ladders():
    hits = []
    for seed in range(30):
        ladder = calibration.simulate(seed)
        posterior = bayes.fit(ladder.data, laplace.sample, ladder.series)
        losses, accuracies = bayes.predict(posterior, ladder.data, ladder.targets)
        for drawn, true in ((losses, ladder.loss), (accuracies, ladder.accuracy)):
            low, high = np.quantile(drawn[:, :, 0], [0.1, 0.9], axis=0)
            hits.append((low <= true) & (true <= high))
    # Of 80 % intervals.  A mode takes noise for smaller than it is: Laplace is the rougher method.
    assert 0.6 < np.mean(hits) < 0.9


@pytest.mark.slow
def test_nuts_ranks_are_uniform():
    def few(*arguments):
        return sampler.run_nuts(*arguments, n_chains=1, n_warmup=250, n_draws=300)

    ranks, _ = calibration.ranks(range(30), few, n_tasks=2, progress=False)
    tests = calibration.uniformity(ranks).set_index("quantity")
    assert tests["p_holm"].min() > 0.01, tests
    assert {"forecast, loss", "forecast, accuracy"} <= set(tests.index)
    assert not calibration.uniformity(ranks**2).set_index("quantity")["p_holm"].min() > 0.01


def test_failed_checks_are_noted(monkeypatch):
    monkeypatch.setattr(sampler, "MIN_ESS", 1e9)
    monkeypatch.setattr(sampler, "N_WARMUP", 50)

    def short(model, arguments, seed):
        return sampler.run_nuts(model, arguments, seed, 2, 50, 50)

    monkeypatch.setattr(sampler, "nuts", short)
    made = forecast(as_table(), method="bayes")
    frame = predict.to_frame(made)
    assert set(frame["method"]) == {"bayes (not converged)"}
    notes = [note for note in diagnose.warnings(made) if "effective sample size" in note]
    assert [note.split(":")[0] for note in notes] == [
        "not converged (bpb, step 1", "not converged (bpb, step 2"
    ]  # fmt: skip


def test_new_items_widen_an_interval_by_their_sampling():
    frame = as_table()
    same, new = forecast(frame), forecast(frame, new_items=True)
    assert width(new) > width(same)
    few = frame.assign(n_examples=50)
    assert width(forecast(few, new_items=True)) > 1.5 * width(same)
    with pytest.raises(InputError, match="and 3 more have no n_examples of 'task0'"):
        forecast(frame.assign(n_examples=np.nan), new_items=True)
    with pytest.raises(InputError, match="`new_items` needs `method`"):
        forecast(frame, method="least-squares", new_items=True)


def test_a_nan_among_draws_fails_the_checks():
    rng = np.random.default_rng(0)
    values = {"a": rng.normal(size=(4, 100)), "b": np.ones((4, 100))}
    stats = {"diverging": np.zeros((4, 100)), "energy": rng.normal(size=(4, 100))}
    assert sampler._health(values, stats)["r_hat"] < 1.1
    values["a"][0, 0] = np.nan
    assert any(
        "r_hat nan" in message for message in sampler._problems(sampler._health(values, stats))
    )


def test_a_targets_rate_is_the_runs_unless_it_is_known():
    frame = as_table()

    def fractions(made):
        data = [f.data for f in made]
        return bayes.lr_fractions([d.observations for d in data], [d.targets for d in data])

    np.testing.assert_allclose(fractions(forecast(frame)), 0.1)
    measured = frame[frame["run"] == "r8"].assign(run="annealed", lr=0.0)
    both = pd.concat([frame, measured], ignore_index=True)
    spec = ForecastSpec(["r*"], ["annealed"], TASKS, "laplace", chance=CHANCE)
    np.testing.assert_allclose(fractions(predict.forecast(both, spec)), 0.0)
    no_peak = both.assign(lr_peak=0.0)
    np.testing.assert_allclose(fractions(predict.forecast(no_peak, spec)), 0.1)


def test_features_are_mixed_where_a_text_is_known(monkeypatch):
    frame = as_table()
    text = frame[(frame["task"] == "task0") & (frame["metric"] == "bpb")]
    text = text.assign(task="c4_en_val", metric="lm_loss", value=text["value"] ** 0.5)
    both = pd.concat([frame, text], ignore_index=True)
    one, other = forecast(both, feature="bpb"), forecast(both, feature="lm_loss")
    mixed = forecast(both)
    for a, b, m in zip(one, other, mixed, strict=True):
        expected = distribution.mixture(a.p, [a.quantiles["acc"], b.quantiles["acc"]], [1, 1])
        np.testing.assert_allclose(m.quantiles["acc"], expected)
        np.testing.assert_array_equal(m.quantiles["loss"], a.quantiles["loss"])
    assert list(mixed[0].posteriors) == ["bpb", "lm_loss"]
    assert list(forecast(frame)[0].posteriors) == ["bpb"]
    # A text's losses are one series, whatever the number of tasks.
    assert len(other[0].posteriors["lm_loss"].series.centre_y) == 1


def test_draws_are_kept(tmp_path):
    made = forecast(as_table())
    archive.write(made[0].posteriors, [f.task for f in made], tmp_path / "draws.nc")
    tree = xr.open_datatree(tmp_path / "draws.nc", engine="h5netcdf")
    kept = tree["bpb/step2/posterior"]
    assert list(kept["task"].values) == TASKS
    theirs = made[0].posteriors["bpb"].step2.values["height"]
    np.testing.assert_array_equal(kept["height"].values, theirs)
    with pytest.raises(InputError, match=r"must end in \.nc"):
        archive.write(made[0].posteriors, [f.task for f in made], tmp_path / "draws.csv")
    with pytest.raises(InputError, match="draws from no posterior"):
        archive.write({}, TASKS, tmp_path / "d.nc")


def test_too_little_is_wide_or_refused():
    frame = as_table()
    whole = width(forecast(frame))
    three = frame[frame["run"].isin(["r0", "r4", "r8"])]
    assert width(forecast(three)) > whole
    one_size = frame[frame["run"].isin(["r0", "r1", "r2"])]
    made = forecast(one_size)
    assert width(made) > whole
    assert any("one size" in note for note in diagnose.warnings(made))
    assert width(forecast(frame, tasks=["task0"])) > 0.02
    with pytest.raises(InputError, match="needs at least 3"):
        forecast(frame[frame["run"].isin(["r0", "r8"])])
    with pytest.raises(InputError, match="cannot fit the law Acc"):
        forecast(frame, steps="one")


def test_a_constant_accuracy_keeps_its_uncertainty():
    flat = forecast(as_table(accuracy=0.25), tasks=["task0"], chance={"task0": 0.25})
    (low, high) = (flat[0].rows[1][side] for side in ("lo", "hi"))
    assert low < 0.25 < high
    assert high - low > 0.01
    assert any("rests on priors" in note for note in diagnose.warnings(flat))


def test_an_unknown_chance_is_noted():
    frame = as_table()
    known, unknown = forecast(frame), forecast(frame, chance={})
    assert any("accuracy of guessing" in note for note in diagnose.warnings(unknown))
    assert not any("accuracy of guessing" in note for note in diagnose.warnings(known))
