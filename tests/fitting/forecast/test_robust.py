"""Pooled forecasts of planted ladders: noisy losses, a bad run, ceilings, few measurements."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fitting.errors import InputError
from fitting.forecast import ForecastSpec, cautions, diagnose, forecast, parts
from fitting.laws import CHINCHILLA, HILL
from fitting.laws.curves import predict
from fitting.posterior import laplace, sampler
from fitting.solve.multistart import best_links
from fitting.table import COLUMNS

LAW = np.array([4.0, 6.0, 0.25, 0.3, 0.5])
AHEAD = (7e9, 2.8e11)
TARGET = f"new={AHEAD[0]},{AHEAD[1]}"
CHANCE = {f"task{t}": 0.25 for t in range(3)}


def loss_of(n: float, d: float) -> float:
    return float(predict(CHINCHILLA, LAW, np.array([n, d])))


def accuracy_of(loss: float, task: int) -> float:
    return 0.25 + 0.75 / (1 + (loss / (0.75 + 0.05 * task)) ** 8)


def ladder(noise=0.0, seed=0, accuracy=accuracy_of, text=False, own=True, shift=None):
    """Sixteen runs of three tasks; measured losses carry noise that accuracies do not."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, (n, m) in enumerate((n, m) for n in (1e8, 3e8, 6e8, 1.2e9) for m in (10, 20, 40, 80)):
        known = {"run": f"r{i}", "n_params": int(n), "n_tokens": int(n * m), "flops": 6 * n * n * m}
        true = loss_of(n, n * m) * (1 + (shift or {}).get(i, 0.0))
        if text:
            rows.append(known | {"task": "web", "metric": "lm_loss", "value": true})
        for t in range(3):
            value = accuracy(loss_of(n, n * m), t) + 0.003 * rng.standard_normal()
            rows.append(known | {"task": f"task{t}", "metric": "acc", "value": max(value, 0.0)})
            if own:
                value = true * np.exp(noise * rng.standard_normal())
                rows.append(known | {"task": f"task{t}", "metric": "bpb", "value": value})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def made(frame, method="laplace", tasks=tuple(CHANCE), **settings):
    spec = ForecastSpec(["r*"], [TARGET], tasks, method, **{"chance": CHANCE} | settings)
    return forecast(frame, spec)


def test_noise_of_losses_does_not_flatten_the_link():
    """The feature is the loss of the law, an instrument; a curve of noisy losses is too flat."""
    pooled, ahead = made(ladder(noise=0.08), feature="bpb"), loss_of(*AHEAD)
    truth = np.array([accuracy_of(ahead, t) for t in range(3)])
    rows = [one.rows[0] for one in pooled]
    assert all(row["lo"] < true < row["hi"] for row, true in zip(rows, truth, strict=True))
    assert np.abs([row["pred"] for row in rows] - truth).mean() < 0.05
    noisy = best_links([replace(one.data.observations, link=HILL) for one in pooled])
    at_true_loss = [float(predict(fit.curve, fit.theta, ahead)) for fit in noisy]
    assert np.mean(at_true_loss) < truth.mean() - 0.05


def test_a_loss_that_says_nothing_does_not_narrow_the_forecast():
    frame = ladder()
    noise = np.random.default_rng(1).uniform(1.0, 3.0, len(frame))
    frame["value"] = frame["value"].where(frame["metric"] != "bpb", noise)
    for one, inputs in zip(made(frame), made(frame, steps="one"), strict=True):
        (row,), (straight,) = one.rows, inputs.rows
        task = int(one.task[-1])
        assert row["lo"] < accuracy_of(loss_of(*AHEAD), task) < row["hi"]
        assert row["hi"] - row["lo"] > straight["hi"] - straight["lo"]


def test_an_outlier_moves_little_and_is_named():
    good, bad = (made(ladder(text=True, own=False, shift=s), tasks=["web"])[0]
                 for s in (None, {5: 0.2}))  # fmt: skip
    assert bad.rows[0]["loss_lo"] < good.rows[0]["pred_loss"] < bad.rows[0]["loss_hi"]
    assert bad.rows[0]["pred_loss"] == pytest.approx(good.rows[0]["pred_loss"], rel=0.02)
    assert any("r5: loss 20 % above" in text for c in cautions.CAUTIONS for text in c(bad))


def test_a_task_that_is_no_choice_has_a_ceiling():
    def saturating(loss: float, task: int) -> float:
        return 0.5 / (1 + (loss / 1.3) ** 12)

    frame = ladder(accuracy=saturating)
    open_ = made(frame, chance=dict.fromkeys(CHANCE, 0.0), steps="one")
    closed = made(frame, chance=dict.fromkeys(CHANCE, 0.25), steps="one")
    true = saturating(loss_of(*AHEAD), 0)
    assert abs(open_[0].rows[0]["pred"] - true) < abs(closed[0].rows[0]["pred"] - true)
    assert open_[0].rows[0]["lo"] < true < open_[0].rows[0]["hi"]


def test_an_accuracy_of_0_is_fitted():
    frame = ladder(own=False)
    frame.loc[(frame["run"] == "r0") & (frame["task"] == "task1"), "value"] = 0.0
    (one,) = made(frame, tasks=["task1"], chance={"task1": 0.0})
    assert np.isfinite(one.rows[0]["pred"])
    with pytest.raises(InputError, match="accuracy of 0"):
        made(frame, "bootstrap", tasks=["task1"], steps="one")


@pytest.mark.parametrize(("settings", "expected"), [
    ({}, ["bpb", "inputs"]),
    ({"text": True}, ["bpb", "lm_loss of web", "inputs"]),
    ({"text": True, "own": False}, ["lm_loss of web", "inputs"]),
    ({"own": False}, ["inputs"]),
])  # fmt: skip
def test_the_ways_that_a_table_allows(settings, expected):
    frame = ladder(**settings)
    spec = ForecastSpec(["r*"], [TARGET], list(CHANCE), "laplace", chance=CHANCE)
    assert [part.feature for part in parts.prepare(frame, spec)] == expected
    if "text" in settings:
        (web,) = parts.prepare(frame, replace(spec, tasks=["web"]))
        assert web.feature == parts.TEXTS
        named = replace(spec, feature="lm_loss", feature_task="web")
        assert [part.feature for part in parts.prepare(frame, named)] == ["lm_loss of web"]
    other = replace(spec, method="bootstrap")
    if expected == ["inputs"]:
        with pytest.raises(InputError, match="use `steps` one"):
            parts.prepare(frame, other)
    else:
        assert [part.feature for part in parts.prepare(frame, other)] == expected[:1]


def test_a_task_without_bits_per_byte_takes_the_other_ways():
    frame = ladder()
    frame = frame[~((frame["task"] == "task2") & (frame["metric"] == "bpb"))]
    found = {f.task: list(f.posteriors) for f in made(frame)}
    assert found == {"task0": ["bpb", "inputs"], "task1": ["bpb", "inputs"], "task2": ["inputs"]}


def test_a_sampler_that_fails_says_what_took_its_place(monkeypatch):
    model, given = sampler.run_nuts, []

    def failing(*args, **kwargs):
        given.append(kwargs)
        found = model(*args, **kwargs | {"n_warmup": 20, "n_draws": 30})
        return replace(found, problems=("it is a test",), health=found.health | {"r_hat": 1.02})

    monkeypatch.setattr(sampler, "run_nuts", failing)
    (one, *_) = made(ladder(own=False), "bayes")
    (posterior,) = one.posteriors.values()
    assert len(given) == 2
    assert given[1]["n_draws"] > sampler.N_DRAWS
    assert posterior.step2.attempts
    assert not posterior.step2.stats
    notes = diagnose.warnings([one])
    assert any("Laplace's approximation is used" in n and "it is a test" in n for n in notes)


def test_without_a_posterior_the_bootstrap_is_used(monkeypatch):
    plain = laplace.sample

    def lost(*args, **kwargs):
        return replace(plain(*args, **kwargs), problems=("no mode",))

    monkeypatch.setattr("fitting.forecast.pooled.laplace.sample", lost)
    found = made(ladder())
    assert {f.method for f in found} == {"bootstrap"}
    assert any("the bootstrap is used" in note for note in diagnose.warnings(found))


def test_r_hat_is_printed_so_that_it_differs_from_its_limit():
    health = {"r_hat": 1.01004, "ess": 1e3, "divergent": 0.0, "bfmi": 1.0}
    assert sampler._problems(health) == ("r_hat 1.010040 above 1.01",)


def test_distance_counts_compute_and_tokens_per_parameter():
    spec = ForecastSpec(["r*"], ["a=1.2e9,9.6e10", "b=2.4e9,9.6e10", "c=1e8,1.6e10"],
                        ["task0"], "laplace", chance=CHANCE)  # fmt: skip
    data = parts.prepare(ladder(), spec)[0].data[0]
    np.testing.assert_allclose(data.targets.extrapolation, [0.0, np.log(2), np.log(2)], atol=1e-6)
