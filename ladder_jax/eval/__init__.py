"""Scoring: held-out language-model loss, and multiple-choice tasks by log-likelihood."""
