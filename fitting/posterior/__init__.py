"""The pooled Bayesian model of both steps: its samplers, draws and calibration."""
