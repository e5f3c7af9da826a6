"""Prepares the observations to fit from the measurement table."""
