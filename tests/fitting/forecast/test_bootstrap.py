"""Bootstrap forecasts: planted laws, coverage, controls."""

import numpy as np
import pandas as pd
import pytest

from fitting.errors import InputError
from fitting.forecast import ForecastSpec, diagnose, predict
from fitting.laws import CHINCHILLA
from tests.planted_compute import TARGET, forecasts, planted, truth


@pytest.mark.slow
def test_bootstrap_finds_a_planted_law_and_holds_as_often_as_it_says():
    loss, accuracy = truth()
    hits = np.zeros(2)
    n = 25
    for seed in range(n):
        heldout, moves = forecasts(planted(seed), levels=[0.8])
        (row,) = heldout.rows
        assert row["pred_loss"] == pytest.approx(loss, rel=0.02)
        assert np.isnan([row["pred"], row["lo"], row["hi"]]).all()
        hits[0] += row["loss_lo"] <= loss <= row["loss_hi"]
        (row,) = moves.rows
        assert row["pred"] == pytest.approx(accuracy, abs=0.03)
        hits[1] += row["lo"] <= accuracy <= row["hi"]
    assert (hits >= 0.64 * n).all()  # the mean lies inside at least as often as new values do


def test_bootstrap_repeats_to_the_bit_and_widens_with_level():
    frame = planted()
    first, second = (predict.to_frame(forecasts(frame, levels=[0.5, 0.95])) for _ in range(2))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    narrow, wide = (g.set_index("task") for _, g in first.groupby("level"))
    assert (wide["loss_lo"] < narrow["loss_lo"]).all()
    assert (wide["loss_hi"] > narrow["loss_hi"]).all()


def test_a_task_that_does_not_move_is_a_control():
    spec = ForecastSpec(["*"], [TARGET], ["moves", "still"], "bootstrap", inputs="c")
    moves, still = predict.forecast(planted(), spec)
    assert not diagnose.is_control(moves)
    assert diagnose.is_control(still)


def test_a_law_of_two_inputs_needs_more_runs_than_parameters():
    frame = planted()
    with pytest.raises(InputError, match="3 runs cannot fit the 5 parameters"):
        predict.forecast(frame, ForecastSpec(["0-*"], [TARGET], ["heldout"], "bootstrap"))
    assert len(CHINCHILLA.params) == 5
