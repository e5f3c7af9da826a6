"""How far runs lie from those that were fitted."""

from __future__ import annotations

import numpy as np


def distance(trained: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """Distances in e-folds: of compute beyond the largest run's, plus of D/N outside their range.

    Args:
        trained: ln of compute and of tokens per parameter of R runs, shape (R, 2); where the latter
            is NaN (a law of compute may know no N and D), compute alone counts.
        ahead: the same of G runs, shape (G, 2).

    Returns:
        Shape (G,), at least 0.
    """
    beyond = np.maximum(ahead[:, 0] - trained[:, 0].max(), 0.0)
    low, high = trained[:, 1].min(), trained[:, 1].max()
    outside = np.maximum(np.maximum(low - ahead[:, 1], ahead[:, 1] - high), 0.0)
    return beyond + np.nan_to_num(outside)


def positions(inputs: np.ndarray) -> np.ndarray:
    """ln N D and ln D/N of runs, shape (M, 2), from N and D, shape (M, 2)."""
    log_n, log_d = np.log(inputs).T
    return np.column_stack([log_n + log_d, log_d - log_n])
