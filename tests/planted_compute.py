"""Nine small runs that follow a known law of compute, and forecasts from them."""

import numpy as np
import pandas as pd

from fitting import table
from fitting.forecast import ForecastSpec, predict
from fitting.laws import COMPUTE_ONLY, SIGMOID
from fitting.laws.curves import predict as curve_value
from fitting.observations.select import TargetRun

LAW = np.array([9.3, 0.3, 0.5])  # log A, alpha, E of compute

LINK = np.array([-0.65, 1.2, 6.0, 1.0])

TARGET = TargetRun("large", 8e6, 1.6e8, 7.7e15)


def planted(seed=0, noise=0.002, tasks=("moves", "still")):
    """Nine runs of a planted compute law and link; the second task does not move."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, n in enumerate((1e6, 2e6, 4e6)):
        for multiple in (5, 10, 20):
            for share in (0.25, 0.5, 0.75, 1.0):
                d = n * multiple * share
                c = 6 * n * d
                loss = float(curve_value(COMPUTE_ONLY, LAW, np.array([c])))
                loss *= np.exp(noise * rng.standard_normal())
                acc = float(curve_value(SIGMOID, LINK, loss)) + noise * rng.standard_normal()
                known = {"run": f"{i}-{multiple}", "size": str(i), "multiple": multiple,
                         "seed": 0, "step": int(400 * share), "n_params": int(n),
                         "n_params_total": int(n), "n_tokens": int(d), "flops": c, "lr": 0.0,
                         "lr_peak": 0.1, "n_examples": 1000}  # fmt: skip
                still = 0.25 + 0.01 * rng.standard_normal()
                for task, metric, value in (
                    ("moves", "bpb", loss), ("moves", "acc_per_char", acc),
                    ("still", "bpb", loss), ("still", "acc_per_char", still),
                    ("heldout", "lm_bpb", loss), ("heldout", "lm_loss", 2 * loss),
                ):  # fmt: skip
                    if task in (*tasks, "heldout"):
                        rows.append(known | {"task": task, "metric": metric, "value": value})
    frame = pd.DataFrame(rows, columns=list(table.COLUMNS))
    assert table.validate(frame) == []
    return frame


def truth(target=TARGET):
    loss = float(curve_value(COMPUTE_ONLY, LAW, np.array([target.flops])))
    return loss, float(curve_value(SIGMOID, LINK, loss))


def forecasts(frame, **settings):
    settings = {"method": "bootstrap", "inputs": "c", "tasks": ["heldout", "moves"]} | settings
    return predict.forecast(frame, ForecastSpec(["?-*"], [TARGET], **settings))
