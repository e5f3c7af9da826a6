"""Training steps compiled ahead of time, for hardware that this machine does not have."""
