"""Importer of the public OLMo-ladder runs.

The files are the W&B export published with arXiv 2412.04403: one CSV per run, one row per
checkpoint, one column per (task, metric).  Only here is metadata taken from file names, since the
files hold none.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from fitting.errors import InputError, Problem
from fitting.table import (
    COLUMNS,
    INTEGER_COLUMNS,
    MAX_INTEGER,
    METRICS,
    Read,
    check_value,
    read_rows,
    to_numbers,
)
from ladder_jax.models import counts
from ladder_jax.models.sizes import OLMO2_SIZES
from ladder_jax.tasks.mmlu import WEIGHTS as MMLU_WEIGHTS

N_EXAMPLES = {
    "hellaswag_val": 10_042,
    "arc_challenge_test": 1_172,
    "arc_easy_test": 2_376,
    "piqa_val": 1_838,
    "csqa_val": 1_221,
    "socialiqa_val": 1_954,
    "openbookqa_test": 500,
    "boolq_val": 3_270,
    "winogrande_val": 1_267,
    "mmlu_stem_test": 3_018,
    "mmlu_humanities_test": 4_705,
    "mmlu_social_sciences_test": 3_077,
    "mmlu_other_test": 3_242,
    "mmlu_avg_test": 14_042,
}  # number of documents, where it is known

# Column pattern, task label, metric, sign: soft_log is a log-probability, hence negative.
_OLMO_COLUMNS = (
    (r"eval/downstream_bpb/(.+)_bpb", "{}", "bpb", 1.0),
    (r"eval/downstream/(.+)_len_norm", "{}", "acc_per_char", 1.0),
    (r"eval/downstream/(.+)_acc", "{}", "acc", 1.0),
    (r"eval/downstream_soft/(.+)_soft", "{}", "choice_prob", 1.0),
    (r"eval/downstream_soft_log/(.+)_soft_log", "{}", "task_ce", -1.0),
    (r"eval/(.+)-validation/CrossEntropyLoss", "{}_val", "lm_loss", 1.0),
)
_RC_TASKS = (
    "arc_challenge_test", "arc_challenge_val", "arc_easy_test", "arc_easy_val", "boolq_val",
    "csqa_val", "hellaswag_val", "mmlu_humanities_test", "mmlu_humanities_val",
    "mmlu_other_test", "mmlu_other_val", "mmlu_social_sciences_test", "mmlu_social_sciences_val",
    "mmlu_stem_test", "mmlu_stem_val", "openbookqa_test", "openbookqa_val", "piqa_val",
    "socialiqa_val", "winogrande_val",
)  # fmt: skip
_LM_SETS = (
    "c4_en", "dolma_books", "dolma_common-crawl", "dolma_pes2o", "dolma_reddit", "dolma_stack",
    "dolma_wiki", "ice", "m2d2_s2orc", "pile", "wikitext_103",
)  # fmt: skip
PUBLISHED = {(f"{name}_val", "lm_loss") for name in _LM_SETS} | {
    (f"{task}_rc_5shot", metric)
    for task in _RC_TASKS
    for metric in (
        "bpb",
        "choice_prob",
        "task_ce",
        "acc" if task == "boolq_val" else "acc_per_char",
    )
}  # measurements that every public file has
_STEP, _TOKENS, _BATCH = "_step", "throughput/total_tokens", "batch_size_in_tokens"
_LR, _LR_PEAK = "optim/learning_rate_group0", "learning_rate_peak"
_OLMO_TARGETS = {"peteish7_eval_anneal": "7B-4T", "peteish13_eval_final": "13B-5T"}


def from_olmo_ladder(directory: str | Path) -> Read:
    """Imports the public OLMo-ladder runs: every checkpoint, task and feature.

    Args:
        directory: holds one CSV per run, named as published.

    Returns:
        The measurement table, and a problem for each cell or row left out.

    Raises:
        InputError: the directory holds no CSV, or no file in it can be used.
    """
    directory = Path(directory)
    files = sorted(directory.glob("*.csv"))
    if not files:
        raise InputError(f"{directory}: holds no CSV; `ladder download olmo-ladder` fetches them")
    tables, problems = [], []
    origin: dict[str, Path] = {}
    for file in files:
        run, _, _ = _olmo_identity(file.stem)
        if run in origin:
            clash = f"is run {run!r}, as {origin[run].name} is: remove one of them"
            problems.append(Problem(str(file), None, clash))
            continue
        try:
            table, found = _read_olmo_run(file)
        except InputError as e:
            problems.append(Problem(str(file), None, str(e).removeprefix(f"{file}: ")))
            continue
        origin[run] = file
        tables.append(table)
        problems += found
    if not tables:
        raise InputError(str(problems[0]))
    return Read(pd.concat(tables, ignore_index=True), problems)


def _read_olmo_run(file: Path) -> Read:
    """One published CSV as a measurement table."""
    raw, problems = read_rows(file, ())
    run, size, multiple = _olmo_identity(file.stem)
    if size not in OLMO2_SIZES:
        known = ", ".join(OLMO2_SIZES)
        unknown = f"its name gives size {size!r}, so n_params and flops stay empty; known: {known}"
        problems.append(Problem(str(file), None, unknown))
    frame, found = _olmo_checkpoints(raw, file)
    problems += found
    frame.insert(0, "run", run)
    frame["size"] = size
    frame["multiple"] = multiple
    frame["seed"] = np.nan
    model = OLMO2_SIZES.get(size)
    frame["n_params"] = counts.n_params(model) if model else np.nan
    frame["n_params_total"] = counts.n_params_total(model) if model else np.nan
    frame["flops"] = frame["n_tokens"] * counts.flops_per_token(model) if model else np.nan
    values, found = _olmo_values(raw.loc[frame.index], file)
    problems += found
    table = values.join(frame, on="line").reset_index(drop=True)
    table = table.astype({column: "Int64" for column in INTEGER_COLUMNS})
    return Read(table.loc[:, list(COLUMNS)], problems)


def _olmo_identity(stem: str) -> tuple[str, str, float]:
    """Run, size and multiple of a published file name; for any other file only its stem."""
    if stem in _OLMO_TARGETS:
        run = _OLMO_TARGETS[stem]
        return run, run.split("-")[0], np.nan
    match = re.fullmatch(r"([\d.]+[MB])-([\d.]+)xC(-.+)?", stem)
    if match is None:
        return stem, "", np.nan
    size = {"1B": "1.3B"}.get(match[1], match[1])
    return f"{size}-{match[2]}xC{match[3] or ''}", size, float(match[2])


def _olmo_checkpoints(raw: pd.DataFrame, file: Path) -> Read:
    """Step, tokens and learning rates of the usable rows, by line."""
    problems = []
    numbers = {}
    for column in (_STEP, _TOKENS, _BATCH, _LR, _LR_PEAK):
        if column in raw.columns:
            numbers[column], bad = to_numbers(raw[column])
            for line in raw.index[bad]:
                text = f"{column} is {raw.at[line, column]!r}: write a number"
                problems.append(Problem(str(file), int(line), text))
        else:
            numbers[column] = pd.Series(np.nan, index=raw.index)
    if _TOKENS not in raw.columns and not {_STEP, _BATCH} <= set(raw.columns):
        need = f"column {_TOKENS!r} is missing, and so is {_STEP} or {_BATCH}; add it"
        raise InputError(f"{file}: row 1: {need}")
    tokens = numbers[_TOKENS].fillna(numbers[_STEP] * numbers[_BATCH])
    frame = pd.DataFrame(
        {
            "step": numbers[_STEP],
            "n_tokens": tokens,
            "lr": numbers[_LR],
            "lr_peak": numbers[_LR_PEAK],
        }
    )
    for column in ("step", "lr", "lr_peak"):
        bad = (frame[column] < 0) | (frame[column] > MAX_INTEGER)
        bad |= (frame[column] % 1 > 0) if column == "step" else False
        for line in frame.index[bad]:
            text = f"{column} is {frame.at[line, column]:g}: impossible; restore the cell"
            problems.append(Problem(str(file), int(line), text))
        frame = frame[~bad]
    whole = (frame["n_tokens"] > 0) & (frame["n_tokens"] < MAX_INTEGER)
    whole &= frame["n_tokens"] % 1 == 0
    when = frame["step"].where(frame["step"].notna(), frame["n_tokens"])
    for mask, text in (
        (~whole, "tokens are unknown or not a positive integer: restore the cell"),
        (when.duplicated() & whole, "step occurs twice in this file: remove one row"),
    ):
        problems += [Problem(str(file), int(line), text) for line in mask.index[mask]]
        frame = frame.drop(index=mask.index[mask])
    if frame.empty:
        raise InputError(f"{file}: no row can be used, as {problems[0]}")
    return Read(frame, problems)


def _olmo_values(raw: pd.DataFrame, file: Path) -> Read:
    """All (line, task, metric, value, n_examples), composites included, and the bad cells."""
    meaning = {}
    for column in raw.columns:
        for pattern, label, metric, sign in _OLMO_COLUMNS:
            match = re.fullmatch(pattern, column)
            if match and column not in meaning:
                meaning[column] = (label.format(match[1]), metric, sign)
    if not meaning:
        raise InputError(f"{file}: row 1: no eval/ column; is this an OLMo-ladder export?")
    problems = _missing_columns({(t, m) for t, m, _ in meaning.values()}, file)
    cells = raw[list(meaning)].rename_axis("line").reset_index()
    cells = cells.melt("line", var_name="column", value_name="text")
    task, metric, sign = zip(*meaning.values(), strict=True)
    keys = list(meaning)
    cells["task"] = cells["column"].map(dict(zip(keys, task, strict=True)))
    cells["metric"] = cells["column"].map(dict(zip(keys, metric, strict=True)))
    numbers, unparsable = to_numbers(cells["text"])
    cells["value"] = numbers * cells["column"].map(dict(zip(keys, sign, strict=True)))
    low, high = (cells["metric"].map({m: METRICS[m][k] for m in set(metric)}) for k in (0, 1))
    good = (cells["value"] >= low) & (cells["value"] <= high) & np.isfinite(cells["value"])
    for i in cells.index[~good]:
        cell = cells.loc[i]
        if unparsable[i] or not cell["text"].strip():
            wrong = f"it holds {cell['text']!r}; write a finite number"
        else:
            wrong = check_value(cell["metric"], cell["value"])
        message = f"column {cell['column']!r}: {wrong}"
        problems.append(Problem(str(file), int(cell["line"]), message))
    values = cells.loc[good, ["line", "task", "metric", "value"]]
    values = pd.concat([values, _mmlu_averages(values)], ignore_index=True)
    values["n_examples"] = values["task"].map({t: _n_examples(t) for t in set(values["task"])})
    return Read(values.sort_values("line", kind="stable"), problems)


def _missing_columns(present: set[tuple[str, str]], file: Path) -> list[Problem]:
    """One problem that names the published measurements that a file lacks."""
    lacking = sorted(f"{metric} of {task}" for task, metric in PUBLISHED - present)
    if not lacking:
        return []
    others = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    return [Problem(str(file), 1, f"no column for {lacking[0]}{others}: add it")]


def _mmlu_averages(values: pd.DataFrame) -> pd.DataFrame:
    """The paper's MMLU: the weighted mean of its four groups, where all four were measured."""
    parts = values["task"].str.extract(rf"^mmlu_({'|'.join(MMLU_WEIGHTS)})_(.+)$")
    groups = values[parts[0].notna()].assign(
        task="mmlu_avg_" + parts[1], weight=parts[0].map(MMLU_WEIGHTS)
    )
    groups["value"] = groups["value"] * groups["weight"].astype(float)
    summed = groups.groupby(["line", "task", "metric"], as_index=False).agg(
        value=("value", "sum"), n=("value", "size")
    )
    return summed[summed["n"] == len(MMLU_WEIGHTS)].drop(columns="n")


def _n_examples(task: str) -> float:
    return N_EXAMPLES.get(re.sub(r"_(rc|mc)_5shot$", "", task), np.nan)
