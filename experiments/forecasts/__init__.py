"""What is known of the forecasts themselves: analyses behind the choices of `fitting`."""
