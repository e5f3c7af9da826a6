"""Measurement tables made from our own runs and from results of other projects."""
