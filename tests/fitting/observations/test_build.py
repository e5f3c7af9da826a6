"""Observations of a task: all runs that lack a number in one line, and accuracies of 0."""

import numpy as np
import pytest

from fitting.errors import InputError
from fitting.forecast import ForecastSpec, forecast, to_frame
from fitting.laws import CHINCHILLA, COMPUTE_ONLY, RISING
from fitting.observations import build, select
from fitting.observations.preparation import PAPER
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


def test_a_measured_accuracy_of_0_is_compared(frame):
    target = (frame["run"] == TARGET) & (frame["metric"] == "acc_per_char")
    frame.loc[target, "value"] = 0.0
    (row,) = to_frame(
        forecast(frame, ForecastSpec(LADDER, [TARGET], ["t"], "least-squares"))
    ).to_dict("records")
    assert row["actual"] == 0
    assert row["abs_error"] == row["pred"]
    assert np.isnan(row["rel_error"])
