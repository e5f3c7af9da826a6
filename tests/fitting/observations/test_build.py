"""Observations of a task: all runs that lack a number in one line, and accuracies of 0."""

from dataclasses import replace

import numpy as np
import pytest

from fitting.errors import InputError
from fitting.forecast import ForecastSpec, forecast, to_frame
from fitting.laws import CHINCHILLA, COMPUTE_ONLY, RISING
from fitting.observations import build, select
from fitting.observations.preparation import PAPER
from fitting.posterior import sampler
from tests.planted import LADDER, TARGET, planted


@pytest.fixture
def frame():
    return planted(0, 0.004, 0.004)


def observed(frame, law=CHINCHILLA):
    return build.observe(frame, "t", select.select_runs(frame, LADDER), PAPER["bpb"], law)


def refusal(frame, **settings):
    with pytest.raises(InputError) as caught:
        observed(frame, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_runs_without_a_number_are_named_at_once(frame):
    of = frame["run"]
    frame.loc[of.isin(["2e+08-1xC", "2e+08-2xC"]), "n_params"] = np.nan
    frame.loc[of == "4e+08-1xC", "n_tokens"] = np.nan
    lacks = of.str.startswith(("8e+08", "1e+09")) & (frame["metric"] == "bpb")
    assert refusal(frame[~lacks]) == (
        "run '4e+08-1xC' has no n_tokens; runs '8e+08-1xC', '8e+08-2xC', '8e+08-5xC', "
        "'8e+08-10xC', '1e+09-1xC', '1e+09-2xC' and 2 more have no bpb of 't'; runs '2e+08-1xC', "
        "'2e+08-2xC' have no n_params: fill it in, or leave out the task or, with `exclude`, the "
        "runs"
    )


def test_all_targets_without_an_input_are_named_at_once(frame):
    runs = select.select_runs(frame, LADDER)
    data = build.observe(frame, "t", runs, PAPER["bpb"], COMPUTE_ONLY)
    targets = select.target_runs(frame, [TARGET, "a=1e10,1e12", "b=1e11,1e12"], runs)
    with pytest.raises(InputError, match="runs 'a', 'b' have no flops: fill it in"):
        build.with_targets(data, frame, targets)


def test_an_accuracy_of_0_is_fitted_where_its_logarithm_is_not_taken(frame):
    zero = (frame["run"] == "2e+08-1xC") & (frame["metric"] == "acc_per_char")
    frame.loc[zero, "value"] = 0.0
    for method in ("least-squares", "laplace"):
        made = to_frame(forecast(frame, ForecastSpec(LADDER, [TARGET], ["t"], method)))
        assert np.isfinite(made["pred"]).all()
    assert refusal(frame, law=RISING) == (
        "run '2e+08-1xC' has an accuracy of 0 for 't': its logarithm is fitted: leave out "
        "with `exclude`"
    )
    frame.loc[frame["run"].str.startswith("4e") & (frame["metric"] == "bpb"), "value"] = 0.0
    assert "runs '4e+08-1xC', '4e+08-2xC', '4e+08-5xC', '4e+08-10xC' have a loss of 0" in refusal(
        frame
    )


def short_nuts(model, arguments, seed):
    return replace(sampler.run_nuts(model, arguments, seed, 1, 20, 20), problems=())


@pytest.mark.parametrize(
    ("method", "ask"),
    [pytest.param("bayes", {}, marks=pytest.mark.slow), ("laplace", {}),
     ("bayes", {"steps": "one"}), ("laplace", {"steps": "one", "inputs": "c"})],
)  # fmt: skip
def test_an_accuracy_of_0_is_fitted_by_pooled_methods(frame, ask, method, monkeypatch):
    monkeypatch.setattr(sampler, "nuts", short_nuts)
    accuracy = frame["metric"] == "acc_per_char"
    frame.loc[accuracy & frame["run"].isin(["2e+08-1xC", "2e+08-2xC"]), "value"] = 0.0
    (one,) = forecast(frame, ForecastSpec(LADDER, [TARGET], ["t"], method, **ask))
    assert one.method == method
    assert (one.final["acc"] == 0).sum() == 2
    assert np.isfinite(to_frame([one])[["pred", "lo", "hi"]]).all(axis=None)


def distances(frame, *targets):
    """Extrapolation to (N, D[, FLOPs]) from runs of up to 1.3e9 parameters at D/N of 20 to 200."""
    runs = select.select_runs(frame, LADDER)
    named = [f"x{i}=" + ",".join(map(str, target)) for i, target in enumerate(targets)]
    data = build.observe(frame, "t", runs, PAPER["bpb"], CHINCHILLA)
    return build.with_targets(
        data, frame, select.target_runs(frame, named, runs)
    ).targets.extrapolation


def test_extrapolation_is_of_compute_and_of_tokens_per_parameter(frame):
    most = 1.3e9 * 1.3e9 * 200
    at = distances(
        frame, (4e8, 1.6e10), (1e9, 1e11), (1e10, 1e12), (1e8, 2e9 * np.e**2), (1e9, 1e10),
        (1e8, 1e8), (1e10, 2e11 / np.e),
    )  # fmt: skip
    inside, low = 0.0, np.log(20.0)
    expected = [
        inside, inside, np.log(1e22 / most), np.log(20 * np.e**2 / 200), low - np.log(10),
        low, np.log(2e21 / np.e / most) + 1,
    ]  # fmt: skip
    np.testing.assert_allclose(at, np.maximum(0, expected), atol=1e-6)
    known = distances(frame, (1e10, 1e12, 6e22 * 2))  # compute as measured, if all runs have it
    assert known[0] == pytest.approx(np.log(2 * 1e22 / most), abs=1e-6)


def test_a_measured_accuracy_of_0_is_compared(frame):
    target = (frame["run"] == TARGET) & (frame["metric"] == "acc_per_char")
    frame.loc[target, "value"] = 0.0
    (row,) = to_frame(
        forecast(frame, ForecastSpec(LADDER, [TARGET], ["t"], "least-squares"))
    ).to_dict("records")
    assert row["actual"] == 0
    assert row["abs_error"] == row["pred"]
    assert np.isnan(row["rel_error"])
