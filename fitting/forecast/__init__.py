"""Methods, and the forecasts that they make."""
