"""Pooled Bayesian forecasts: planted ladders, noise, too little data, and failed checks."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fitting.errors import InputError
from fitting.forecast import ForecastSpec, diagnose, distribution, predict
from fitting.laws.curves import predict as curve_value
from fitting.posterior import archive, bayes, calibration, curves, laplace, sampler
from fitting.posterior.draws import numerics
from fitting.table import validate

TARGET = "target=7e9,4e11"
TASKS = [f"task{t}" for t in range(4)]
CHANCE = dict(zip(TASKS, (0.25, 0.25, 0.5, 0.2), strict=True))


def as_table(seed=2, accuracy=None) -> pd.DataFrame:
    frame = calibration.as_table(calibration.simulate(seed))
    if accuracy is not None:
        frame.loc[frame["metric"] == "acc_per_char", "value"] = accuracy
    assert validate(frame) == []
    return frame


def forecast(frame, tasks=TASKS, method="laplace", target=TARGET, **settings):
    settings = {"chance": CHANCE, "levels": [0.5, 0.95]} | settings
    return predict.forecast(frame, ForecastSpec(["r*"], [target], tasks, method, **settings))


def width(made, level=0.95) -> float:
    rows = [row for f in made for row in f.rows if row["level"] == level]
    return float(np.mean([row["hi"] - row["lo"] for row in rows]))


@pytest.mark.parametrize("way", [{"feature": "bpb"}, {"feature": "bpb", "inputs": "c"},
                                 {"steps": "one"}, {"steps": "one", "inputs": "c"}])  # fmt: skip
def test_laws_and_links_are_the_curves_of_the_draws(way):
    """Where all draws are equal, the parameters of a law and a link give what is drawn."""
    made = forecast(as_table(), target=f"{TARGET},1.7e22", **way)
    (posterior,) = made[0].posteriors.values()

    def alike(draws):
        return draws and replace(draws, values={n: v[:, [3] * 9] for n, v in draws.values.items()})

    one = replace(posterior, step1=alike(posterior.step1), step2=alike(posterior.step2))
    series, x = posterior.series, made[0].data.targets.inputs
    feature = (np.log(x) - series.centre_x[:, None])[series.of_task]
    if one.step1 is not None:
        feature = bayes._log_loss(one, np.log(x) - series.centre_x[:, None])[0, series.of_task]
    with numerics():
        q = {name: v[0] for name, v in bayes.by_task(one.step2).items()}
        accuracy = np.asarray(one.model2.accuracy(q, feature))
    for t, task in enumerate(made):
        law, link = curves.at_means(one, task.data.observations, t)
        found = curve_value(law.curve, law.theta, x)
        if link is not None:
            loss = np.exp(feature[t] + series.centre_y[series.of_task[t]])
            np.testing.assert_allclose(found, loss, rtol=1e-10)
            found = curve_value(link.curve, link.theta, found)
        np.testing.assert_allclose(found, accuracy[t], rtol=1e-8)


@pytest.mark.slow
def test_laplace_intervals_nearly_hold_on_planted_ladders():
    hits = []
    for seed in range(30):
        ladder = calibration.simulate(seed)
        posterior = bayes.fit(ladder.data, laplace.sample, ladder.series)
        losses, accuracies = bayes.predict(posterior, ladder.targets)
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


def test_ways_are_mixed_evenly():
    frame = as_table()
    text = frame[(frame["task"] == "task0") & (frame["metric"] == "bpb")]
    text = text.assign(task="c4_en_val", metric="lm_loss", value=text["value"] ** 0.5)
    both = pd.concat([frame, text], ignore_index=True)
    alone = [forecast(both, **way) for way in (
        {"feature": "bpb"}, {"feature": "lm_loss"}, {"steps": "one"})]  # fmt: skip
    mixed = forecast(both)
    for *ways, m in zip(*alone, mixed, strict=True):
        each = [way.quantiles["acc"] for way in ways]
        expected = distribution.mixture(m.p, each, [1, 1, 1])
        np.testing.assert_allclose(m.quantiles["acc"], expected)
        np.testing.assert_array_equal(m.quantiles["loss"], ways[0].quantiles["loss"])
    assert list(mixed[0].posteriors) == ["bpb", "lm_loss", "inputs"]
    assert list(forecast(frame)[0].posteriors) == ["bpb", "inputs"]
    # A text's losses are one series, whatever the number of tasks.
    assert len(alone[1][0].posteriors["lm_loss"].series.centre_y) == 1


def test_draws_are_kept(tmp_path):
    made = forecast(as_table())
    tasks = {name: TASKS for name in made[0].posteriors}
    archive.write(made[0].posteriors, tasks, tmp_path / "draws.nc")
    tree = xr.open_datatree(tmp_path / "draws.nc", engine="h5netcdf")
    for feature, steps in (("bpb", {"step1", "step2"}), ("inputs", {"step2"})):
        assert set(tree[feature]) == steps
        kept = tree[f"{feature}/step2/posterior"]
        assert list(kept["task"].values) == TASKS
        theirs = made[0].posteriors[feature].step2.values["height"]
        np.testing.assert_array_equal(kept["height"].values, theirs)
    assert tree["inputs/step2/posterior"]["latent"].dims == ("chain", "draw", "law_parameter")
    with pytest.raises(InputError, match=r"must end in \.nc"):
        archive.write(made[0].posteriors, tasks, tmp_path / "draws.csv")
    with pytest.raises(InputError, match="draws from no posterior"):
        archive.write({}, {}, tmp_path / "d.nc")


def test_too_little_is_wide_or_refused():
    frame = as_table()
    whole, three = frame, frame[frame["run"].isin(["r0", "r4", "r8"])]
    sampled = [width(forecast(part, method="bayes", feature="bpb")) for part in (whole, three)]
    assert sampled[1] > sampled[0]
    one_size = forecast(frame[frame["run"].isin(["r0", "r1", "r2"])])
    assert width(one_size) > 2 * width(forecast(frame))
    assert any("one size" in note for note in diagnose.warnings(one_size))
    assert width(forecast(frame, tasks=["task0"])) > 0.02
    with pytest.raises(InputError, match="needs at least 3"):
        forecast(frame[frame["run"].isin(["r0", "r8"])])


def test_a_constant_accuracy_keeps_its_uncertainty():
    flat = forecast(as_table(accuracy=0.25), tasks=["task0"], chance={"task0": 0.25})
    (low, high) = (flat[0].rows[1][side] for side in ("lo", "hi"))
    assert low < 0.25 < high
    assert high - low > 0.01


def test_a_constant_accuracy_is_noted():
    flat = forecast(as_table(accuracy=0.25), tasks=["task0"], chance={"task0": 0.25})
    assert flat[0].rows[1]["lo"] < 0.25 < flat[0].rows[1]["hi"]
    assert any("rests on priors" in note for note in diagnose.warnings(flat))


def test_an_unknown_chance_is_noted():
    frame = as_table()
    known, unknown = forecast(frame), forecast(frame, chance={})
    assert any("accuracy of guessing" in note for note in diagnose.warnings(unknown))
    assert not any("accuracy of guessing" in note for note in diagnose.warnings(known))
