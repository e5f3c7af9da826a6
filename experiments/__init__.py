"""Choices, not algorithms: grids, targets and constants, one folder per study."""
