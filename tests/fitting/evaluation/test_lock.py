"""Locks of forecasts: the columns and data that they cover."""

import pytest

from fitting.errors import InputError
from fitting.evaluation import lock
from fitting.forecast import predict
from tests.planted_compute import forecasts, planted


def test_a_lock_covers_the_forecast_and_not_the_measurement(tmp_path):
    frame = planted()
    made = predict.to_frame(forecasts(frame))
    first = lock.make(made, frame, {"runs": {"a": "b"}}, "1")
    lock.hold(first, tmp_path / "predictions.lock")
    measured = made.assign(actual=0.7, abs_error=0.1, rel_error=0.1, actual_loss=1.0)
    lock.hold(lock.make(measured, frame, {"runs": {"a": "b"}}, "1"), tmp_path / "predictions.lock")
    changes = {
        "sha256": (made.assign(hi=made["hi"] + 1e-12), frame, {"runs": {"a": "b"}}, "1"),
        "data_sha256": (made, frame.assign(value=frame["value"] + 1e-12), first["config"], "1"),
        "config": (made, frame, {"runs": {"a": "c"}}, "1"),
        "version": (made, frame, {"runs": {"a": "b"}}, "2"),
    }
    for name, arguments in changes.items():
        other = lock.make(*arguments)
        assert other["sha256"] != first["sha256"]
        with pytest.raises(InputError, match=rf"another forecast \({name} differs\)"):
            lock.hold(other, tmp_path / "predictions.lock")
