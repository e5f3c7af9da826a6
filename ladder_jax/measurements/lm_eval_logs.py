"""Reads what lm-evaluation-harness logs of each document (`--log_samples`): metrics of choices.

Versions 0.4.0 to 0.4.2 write one JSON list per task, later ones a JSON object per line.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd

from fitting.errors import InputError
from ladder_jax.eval import metrics

_WITHOUT_LENGTHS = ("bpb", "bpb_with_space", "acc")  # defined though a wrong choice is empty


def log_beside(results: Path, model_args: Any, task: str) -> Path | None:
    """The log of a task beside a results file, by either version's name; None if there is none.

    Args:
        results: the results file.
        model_args: `config.model_args` in it; in the name of the logs of 0.4.0 to 0.4.2.
        task: the harness's name of the task.
    """
    date = results.stem.rpartition("_")[2]
    old = re.sub("[/=]", "__", str(model_args))
    names = (f"samples_{task}_{date}.jsonl", f"{old}_{task}.jsonl")
    return next((p for p in map(results.parent.joinpath, names) if p.is_file()), None)


def of_log(path: Path, n_examples: float, delimiter: str) -> tuple[dict[str, float], list[str]]:
    """Metrics of one task from the log of its documents, by our definitions.

    Args:
        path: the log, with the log-likelihood of every choice in nats.
        n_examples: number of documents in the results; NaN if unknown.
        delimiter: what the harness puts between prompt and choice, which is no part of the choice.

    Returns:
        Metric -> value, and messages on what was left out.  Empty for a task that varies the
        prompt instead of the choice (Winogrande), or whose log does not say which choice is right.

    Raises:
        InputError: the log is damaged or cut, or contradicts the accuracies that it holds.
    """
    rows: list[dict[str, Any]] = []
    count = number = 0
    try:
        for number, entry in enumerate(_entries(path), start=1):
            document = json.loads(entry) if isinstance(entry, str) else entry
            if document.get("filter", "none") == "none":
                choices = _choices(document, delimiter)
                rows += [choice | {"doc": count, "row": number} for choice in choices]
                count += 1
    except (ValueError, LookupError, TypeError, AttributeError):
        text = f"row {max(number, 1)} holds no choices with log-likelihoods: copy the log again"
        raise InputError(text) from None
    if not math.isnan(n_examples) and count != n_examples:
        text = f"holds {count} documents where the results count {n_examples:.0f}: copy it again"
        raise InputError(text)
    frame = pd.DataFrame(rows)
    if frame.empty or frame.groupby("doc").size().min() < 2:
        return {}, []
    best = frame.groupby("doc")["loglik"].idxmax()
    readings = [r for r in ("numbered", "spelled") if (frame.groupby("doc")[r].sum() == 1).all()]
    for reading in readings:
        chosen = frame.loc[best]
        if (chosen["acc"].isna() | (chosen["acc"] == chosen[reading])).all():
            return _metrics(frame.assign(gold=frame[reading]))
    if readings:
        raise InputError("its log-likelihoods contradict the acc beside them: remove the log")
    return {}, []


def _entries(path: Path) -> list[Any]:
    """The documents of a log: parsed ones of a list, else lines."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if text.startswith("[") else text.rstrip("\n").split("\n")


def _metrics(frame: pd.DataFrame) -> tuple[dict[str, float], list[str]]:
    """The metrics that the log's choices define; tokens are unknown."""
    empty = frame[frame["n_chars"] == 0]
    if undefined := empty["row"][empty["gold"]].tolist():
        raise InputError(
            f"row {undefined[0]}: the right choice is empty, so it has no bits per byte"
        )
    values = metrics.of_task(frame.assign(n_chars=frame["n_chars"].clip(lower=1)))
    if empty.empty:
        return {m: v for m, v in values.items() if m != "acc_per_token"}, []
    text = f"row {empty['row'].iloc[0]} has an empty choice, which has no score per character"
    kept = {metric: values[metric] for metric in _WITHOUT_LENGTHS}
    return kept, [f"{text}: only {', '.join(_WITHOUT_LENGTHS)} are read"]


def _requests(document: dict[str, Any]) -> list[tuple[str, str]]:
    """The (prompt, choice) pairs of a document."""
    given = document["arguments"]
    if isinstance(given, list):
        return [(prompt, choice) for prompt, choice in given]
    pairs = [given[f"gen_args_{k}"] for k in range(len(given))]
    return [(pair["arg_0"], pair["arg_1"]) for pair in pairs]


def _choices(document: dict[str, Any], delimiter: str) -> list[dict[str, Any]]:
    """One row per choice, for `metrics.of_task`; `numbered` or `spelled` marks the right choice."""
    target = document["target"]
    requests = _requests(document)
    rows = []
    for k, (prompt, choice) in enumerate(requests):
        if prompt != requests[0][0]:  # acc_mutual_info repeats them without prompt
            break
        loglik = float(document["filtered_resps"][k][0])
        text = choice.removeprefix(delimiter or " ")
        if not -math.inf < loglik < 1e-3:  # above 0 only by rounding
            raise ValueError
        rows.append({
            "choice": k, "loglik": loglik, "n_chars": len(text),
            "n_bytes": max(len(text.encode()), 1), "leading_space": len(choice) - len(text),
            "n_tokens": 1, "acc": float(document.get("acc", math.nan)),
            "numbered": str(target) == str(k),
            "spelled": str(target).strip() == choice.strip(),
        })  # fmt: skip
    return rows
