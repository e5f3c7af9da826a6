"""Forecasts compared with measurements: locks, scores and backtests."""
