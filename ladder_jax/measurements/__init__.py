"""Measurement tables made from runs of ours and of others."""
