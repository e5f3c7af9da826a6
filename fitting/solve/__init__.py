"""Fits: the paper's optimisers, many small fits at once, and their uncertainty."""
