"""Measurements of a ladder that follow known laws."""

import numpy as np
import pandas as pd

from fitting.laws import CHINCHILLA, SIGMOID
from fitting.laws.curves import predict
from fitting.table import COLUMNS

LADDER, TARGET = ["2e*", "4e*", "8e*", "1e*"], "7e+09-30xC"
STEP1 = np.array([4.0, 6.0, 0.25, 0.3, 0.5])
STEP2 = np.array([-0.75, 0.9, 5.0, 1.0])


def planted(seed: int, noise_loss: float, noise_acc: float) -> pd.DataFrame:
    """A ladder whose losses and accuracies follow known curves: 16 runs and a target."""
    rng = np.random.default_rng(seed)
    cells = [(n, m) for n in (2e8, 4e8, 8e8, 1.3e9) for m in (1, 2, 5, 10)]
    records = []
    for n, m in [*cells, (7e9, 30)]:
        shift = np.exp(noise_loss * rng.normal())
        for step in range(1, 21):
            d = 20 * n * m * step / 20
            loss = float(predict(CHINCHILLA, STEP1, np.array([n, d]))) * shift
            acc = float(predict(SIGMOID, STEP2, np.float64(loss))) + noise_acc * rng.normal()
            for metric, value in (("bpb", loss), ("acc_per_char", acc)):
                records.append(
                    {
                        "run": f"{n:.0e}-{m}xC",
                        "size": f"{n:.0e}",
                        "multiple": m,
                        "step": step,
                        "n_params": int(n),
                        "n_tokens": int(d),
                        "flops": 6 * n * d,
                        "task": "t",
                        "metric": metric,
                        "value": min(max(value, 0), 1) if metric != "bpb" else value,
                    }
                )
    return pd.DataFrame(records, columns=list(COLUMNS))
