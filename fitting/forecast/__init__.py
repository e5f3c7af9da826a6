"""Methods, and the forecasts that they make.

From a CSV to a forecast:

    from fitting import table
    from fitting.forecast import ForecastSpec, forecast, to_frame
    measurements, problems = table.read("measurements.csv")
    spec = ForecastSpec(train=["190M-*", "370M-*", "760M-*"], targets=["7B-4T"])
    print(to_frame(forecast(measurements, spec)))
"""

from __future__ import annotations

from fitting.forecast.predict import TaskForecast, forecast, to_frame
from fitting.forecast.spec import ForecastSpec

__all__ = ["ForecastSpec", "TaskForecast", "forecast", "to_frame"]
