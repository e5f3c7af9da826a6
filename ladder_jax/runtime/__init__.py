"""Processes, locks, notices to stop, compilation and hardware."""
