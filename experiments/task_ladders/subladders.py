"""Analyses by fits of parts of the ladder: cut ladders, and design choices on held-out runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from experiments.task_ladders import figures
from experiments.task_ladders.result import Result
from experiments.task_ladders.study import VARIANT_WORDS, VARIANTS, PublishedRuns
from fitting.solve import subsets


def compute_vs_error(study: PublishedRuns) -> Result:
    """Errors at 7B-4T of ladders that are cut by size, by token multiple and by FLOPs of a run."""
    data = study.data("bpb")
    labels, chosen = cuts(data[0].final)
    targets = [d.measured[d.measured["run"] == "7B-4T"].iloc[0] for d in data]
    x = np.array([[[target["n_params"], target["n_tokens"]]] for target in targets])
    loss = np.array([[target["loss"]] for target in targets])
    rows = []
    method = study.methods[-1]
    fits = subsets.fit([d.observations for d in data], chosen, method)
    found = subsets.forecast(fits, [d.observations for d in data], x, loss)
    assert fits.second_objective is not None
    for b, (vary, value) in enumerate(labels):
        for t, target in enumerate(targets):
            rows.append(
                {
                    "vary": vary,
                    "value": value,
                    "n_runs": int(chosen[b].sum()),
                    "task": data[t].task,
                    "method": method,
                    "step1": abs(found.first[b, t, 0] / target["loss"] - 1),
                    "step2": abs(found.through[b, t, 0] / target["acc"] - 1),
                    "chained": abs(found.second[b, t, 0] / target["acc"] - 1),
                    "pred": found.second[b, t, 0],
                    "pred_loss": found.first[b, t, 0],
                    "objective1": fits.first_objective[b, t],
                    "objective2": fits.second_objective[b, t],
                }
            )
    frame = pd.DataFrame(rows)
    by = frame.groupby(["vary", "value", "n_runs"], sort=False)["chained"].mean().reset_index()
    lines = [
        f"{method}, {row['vary']} up to {row['value']} ({row['n_runs']} runs): "
        f"mean chained error {100 * row['chained']:.1f} %"
        for row in by.to_dict("records")
        if row["vary"] != "flops"
    ]
    drawn = {"compute_vs_error": figures.compute_vs_error(frame, study.methods[-1])}
    return Result({"compute_vs_error": frame}, drawn, lines)


def cuts(final: pd.DataFrame) -> tuple[list[tuple[str, Any]], np.ndarray]:
    """Cut ladders: (what is limited, its limit) and the runs within, booleans of shape (B, R)."""
    sizes = dict.fromkeys(final.sort_values("n_params")["size"])
    up_to = {size: final.loc[final["size"] == size, "n_params"].iloc[0] for size in sizes}
    cuts = [(("N", size), final["n_params"] <= n) for size, n in up_to.items()]
    for multiple in sorted(final["multiple"].unique()):
        cuts.append((("xC", f"{multiple:g}"), final["multiple"] <= multiple))
    nominal = final["multiple"] * final["n_params"] * final["flops"] / final["n_tokens"] * 20
    for flops in sorted(nominal):
        cuts.append((("flops", f"{flops:.4g}"), nominal <= flops))
    return [label for label, _ in cuts], np.array([mask.to_numpy() for _, mask in cuts])


SPLITS = {
    "190M and 370M -> 760M and 1.3B": {"190M", "370M"},
    "up to 760M -> 1.3B": {"190M", "370M", "760M"},
}


def design(study: PublishedRuns) -> Result:
    """Errors of every design choice on held-out runs of the ladder; the targets are not used."""
    rows = []
    for variant in VARIANTS:
        data = study.data(variant)
        final = data[0].final
        chosen = np.array([final["size"].isin(sizes) for sizes in SPLITS.values()])
        side = next(iter(data[0].columns))
        fits = subsets.fit([d.observations for d in data], chosen, "least-squares")
        x = np.array([d.observations.x for d in data])
        y = np.array([d.observations.y for d in data])
        found = subsets.forecast(fits, [d.observations for d in data], x, y)
        for b, split in enumerate(SPLITS):
            for t, d in enumerate(data):
                for g in np.flatnonzero(~chosen[b]):
                    pred = (found.first if side == "acc" else found.second)[b, t, g]
                    loss = np.nan if side == "acc" else found.first[b, t, g] / y[t, g] - 1
                    rows.append(
                        {"split": split, "choice": VARIANT_WORDS[variant], "task": d.task}
                        | {"run": d.final["run"].iloc[g], "loss_error": loss}
                        | {"error": pred - d.final["acc"].iloc[g]}
                    )
    frame = pd.DataFrame(rows)
    sizes = frame.assign(error=frame["error"].abs(), loss_error=frame["loss_error"].abs())
    by = sizes.groupby(["split", "choice"], sort=False)[["error", "loss_error"]].mean()
    lines = [
        f"{row['split']}: {row['choice']}, least-squares: {100 * row['error']:.2f} points"
        + (f", loss {100 * row['loss_error']:.2f} %" if row["loss_error"] >= 0 else "")
        for row in by.reset_index().to_dict("records")
    ]
    return Result({"design": frame}, {"design": figures.design(frame)}, lines)
