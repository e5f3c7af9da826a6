"""Importer of the results that lm-evaluation-harness writes (`lm_eval --output_path DIR`).

Results hold accuracies, but neither metadata nor bits per byte of choices.  Metadata comes from a
`runs.csv` in the same directory, never from names.  Bits per byte come from the log of documents
(`lm_eval --log_samples`) if it is beside the results; without it, forecast in one step
(`ladder predict --steps one --method bootstrap`).

The harness has its own prompts, so its tasks have their own labels: `arc_easy_lmeval_5shot`.
Three forms are read: that of 0.4 and later; the flat one of 0.3 and before, whose shots are in its
`config`; and that of the first Hugging Face leaderboard, whose tasks are named
`harness|arc:challenge|25`, without its mean `all` over tasks of different shots.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fitting.errors import InputError, Problem
from fitting.table import (
    COLUMNS,
    INTEGER_COLUMNS,
    TEXT_COLUMNS,
    Read,
    check_value,
    fail_if,
    read_rows,
    to_numbers,
    validate,
)
from ladder_jax.measurements.lm_eval_logs import log_beside, of_log

INDEX = "runs.csv"
METADATA = (
    "run", "size", "multiple", "seed", "step", "n_params", "n_params_total", "n_tokens", "flops",
    "lr", "lr_peak",
)  # fmt: skip
HEADER = ("file", *METADATA)  # columns of runs.csv; file and run are required
_METRICS = {
    "acc": "acc",
    "acc_norm": "acc_per_char",
    "acc_bytes": "acc_per_byte",
    "acc_mutual_info": "acc_uncond",
    "bits_per_byte": "lm_bpb",
}
_LEADERBOARD = r"harness\|(.+)\|(\d+)"  # task and shots
# With no delimiter between prompt and choice, the choice begins with its space, which is counted.
_METRICS_UNDELIMITED = {
    "acc": "acc",
    "acc_norm": "acc_per_char_with_space",
    "acc_mutual_info": "acc_uncond",
}


def from_lm_eval(directory: str | Path) -> Read:
    """Imports results of lm-evaluation-harness, and leaderboard files made by it.

    Args:
        directory: holds results at any depth (`results*.json`, or files that `runs.csv` names), and
            `runs.csv`: one row per results file, with columns `HEADER`.  All columns but `file`
            (relative to the directory) and `run` may be missing or empty.

    Returns:
        The measurement table, and a problem for each file, row or cell left out.  A multiple-choice
        task with a log of its documents has every metric of `ladder_jax.eval.metrics` that needs
        no tokenizer; a group of tasks has only accuracies.

    Raises:
        InputError: there are no results or no `runs.csv`, or nothing in them can be used.
    """
    directory = Path(directory)
    found = {os.path.abspath(path): path for path in sorted(directory.rglob("results*.json"))}
    if not (directory / INDEX).is_file():
        if not found:
            text = "holds no results*.json; lm_eval --output_path writes them"
            raise InputError(f"{directory}: {text}")
        first = next(iter(found.values())).relative_to(directory)
        raise InputError(
            f"{directory / INDEX}: is missing: write a row for each results file, such as {first}, "
            f"under the header {','.join(HEADER)}"
        )
    listed, problems = _read_index(directory)
    rows = []
    for row in listed.to_dict("records"):
        found.pop(os.path.abspath(row["file"]), None)
        cells, bad = _read_results(row["file"])
        problems += bad
        rows += [row | cell for cell in cells]
    unlisted = f"is not in {directory / INDEX}: add its row"
    problems += [Problem(str(path), None, unlisted) for path in found.values()]
    if not rows:
        fail_if(problems, strict=True)
    frame, duplicates = _unique(pd.DataFrame(rows))
    frame = frame.astype({column: "Int64" for column in INTEGER_COLUMNS})
    return Read(frame.loc[:, list(COLUMNS)], problems + duplicates)


def _read_index(directory: Path) -> Read:
    """The usable rows of runs.csv: `file` as a path, and `METADATA`."""
    path = directory / INDEX
    raw, problems = read_rows(path, ("file", "run"))
    for column in raw.columns:
        if column not in HEADER:
            unknown = f"column {column!r} is unknown: remove it, or use {', '.join(HEADER)}"
            problems.append(Problem(str(path), 1, unknown))
    raw = raw.reindex(columns=list(HEADER), fill_value="").apply(lambda cells: cells.str.strip())
    rows = raw.loc[:, [column for column in METADATA if column in TEXT_COLUMNS]]
    wrong: dict[int, str] = {}
    for column in METADATA:
        if column in TEXT_COLUMNS:
            continue
        rows[column], bad = to_numbers(raw[column])
        for line in raw.index[bad]:
            wrong.setdefault(line, f"{column} is {raw.at[line, column]!r}: write a number")
    rows["file"] = [directory / name for name in raw["file"]]
    for line in rows.index[[not file.is_file() for file in rows["file"]]]:
        wrong.setdefault(line, f"file {raw.at[line, 'file']!r} does not exist: correct its path")
    for line in rows.index[rows["file"].map(os.path.abspath).duplicated()]:
        wrong.setdefault(line, f"file {raw.at[line, 'file']!r} is listed twice: remove one row")
    rows = rows.drop(index=list(wrong))
    task = raw.loc[rows.index, "file"]
    as_table = rows.assign(task=task, metric="acc", value=0.0, n_examples=np.nan)
    for problem in [] if rows.empty else validate(as_table):  # values that the table does not allow
        wrong[rows.index[(problem.row or 2) - 2]] = problem.message
    problems += [Problem(str(path), int(line), wrong[line]) for line in sorted(wrong)]
    return Read(rows.drop(index=rows.index.intersection(list(wrong))), problems)


def _unique(frame: pd.DataFrame) -> Read:
    """The first of several cells of one measurement, and a problem for each later file."""
    when = frame["step"].where(frame["step"].notna(), frame["n_tokens"])
    keys = [frame["run"], when, frame["task"], frame["metric"]]
    first = frame["file"].groupby(keys, dropna=False).transform("first")
    twice = pd.concat(keys, axis=1).duplicated()
    problems = []
    for (file, before), cells in frame[twice].groupby(["file", first[twice]], sort=False):
        cell, more = cells.iloc[0], f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        text = f"{cell['metric']} of {cell['task']!r}{more}: {before} has the same for run "
        text += f"{cell['run']!r} at this step; give another step, or remove one from {INDEX}"
        problems.append(Problem(str(file), None, text))
    return Read(frame[~twice], problems)


def _read_results(path: Path) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Cells (task, metric, value, n_examples) of a results file and of the logs beside it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        return [], [Problem(str(path), None, f"cannot be read: {e.strerror}")]
    except ValueError as e:
        return [], [Problem(str(path), None, f"is not complete JSON ({e}): copy it again")]
    content = _in_one_form(content)
    if not _part(content, "results"):
        return [], [Problem(str(path), None, "holds no 'results': did lm_eval write it?")]
    model_args = _part(content, "config").get("model_args")
    cells, problems = [], []
    for name in _part(content, "results"):
        n_examples = _n_examples(content, name)
        values, bad = _values(content, name)
        problems += [Problem(str(path), None, f"results of {name!r}: {text}") for text in bad]
        log = log_beside(path, model_args, name)
        if log is not None and _scores_choices(content, name):
            try:
                found, bad = of_log(log, n_examples, _delimiter(content, name))
                values |= found
                problems += [Problem(str(log), None, text) for text in bad]
            except InputError as e:
                problems.append(Problem(str(log), None, str(e)))
        shots = _shots(content, name)
        if shots is None and values:
            text = f"'n-shot' has no single number for {name!r}, which its label needs: add it"
            problems.append(Problem(str(path), None, text))
            continue
        label = re.sub(_LEADERBOARD, r"\1", name.strip()).replace(":", "_")
        cell = {"task": f"{label}_lmeval_{shots}shot", "n_examples": n_examples}
        cells += [cell | {"metric": metric, "value": value} for metric, value in values.items()]
    if not cells and not problems:
        text = f"has no metric of {', '.join(_METRICS)}: leave it out of {INDEX}"
        problems.append(Problem(str(path), None, text))
    return cells, problems


def _in_one_form(content: Any) -> dict[str, Any]:
    """A results file as 0.4 writes it; empty if it has no form that is known."""
    if not isinstance(content, dict):
        return {}
    results = _part(content, "results") or content
    named = {name: re.fullmatch(_LEADERBOARD, name) for name in results if name != "all"}
    if any(named.values()):
        shots = {name: int(match[2]) for name, match in named.items() if match}
        return {"results": {name: results[name] for name in named}, "n-shot": shots}
    if "n-shot" not in content:
        shots = _part(content, "config").get("num_fewshot")
        return content | {"n-shot": dict.fromkeys(_part(content, "results"), shots)}
    return content


def _values(content: dict[str, Any], name: str) -> tuple[dict[str, float], list[str]]:
    """Our metric -> value of one task or group, and a message for each bad value."""
    undelimited = any(_delimiter(content, leaf) == "" for leaf in _leaves(content, name))
    ours = _METRICS_UNDELIMITED if undelimited else _METRICS
    values, bad = {}, []
    for key, value in _part(content["results"], name).items():
        metric, _, chosen = key.partition(",")
        if metric not in ours or chosen not in ("none", ""):  # others read generated texts
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            bad.append(f"{key!r} is {value!r}: write a number")
        elif wrong := check_value(ours[metric], value):
            bad.append(f"{key!r}: {wrong}")
        else:
            values[ours[metric]] = float(value)
    return values, bad


def _delimiter(content: dict[str, Any], name: str) -> str:
    """What stands between prompt and choice."""
    return str(_part(_part(content, "configs"), name).get("target_delimiter", " "))


def _part(content: dict[str, Any], key: str) -> dict[str, Any]:
    part = content.get(key)
    return part if isinstance(part, dict) else {}


def _leaves(content: dict[str, Any], name: str) -> list[str]:
    """The tasks of a group, at any depth; for a task, the task itself."""
    children = _part(content, "group_subtasks").get(name) or []
    return [leaf for child in children for leaf in _leaves(content, child)] or [name]


def _shots(content: dict[str, Any], name: str) -> int | None:
    """Examples in the prompt; None if unknown, or if the tasks of a group differ."""
    known = _part(content, "n-shot")
    shots = [known.get(n) for n in ([name] if name in known else _leaves(content, name))]
    equal = type(shots[0]) is int and all(n == shots[0] for n in shots)
    return shots[0] if equal else None


def _n_examples(content: dict[str, Any], name: str) -> float:
    """Number of measured documents, summed over the tasks of a group; NaN if unknown."""
    known = _part(content, "n-samples")
    counts = [_part(known, leaf).get("effective") for leaf in _leaves(content, name)]
    whole = [n for n in counts if isinstance(n, int)]
    return float(sum(whole)) if len(whole) == len(counts) else math.nan


def _scores_choices(content: dict[str, Any], name: str) -> bool:
    """Whether a task compares choices by the harness's rule, not by its own code."""
    config = _part(_part(content, "configs"), name)
    own = config.get("process_results") is not None
    return config.get("output_type") == "multiple_choice" and not own
