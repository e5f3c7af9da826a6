"""The parts of a forecast: what lies between N and D and accuracy, and the data prepared for it.

The pooled methods forecast accuracy along several ways and mix the results evenly: through the
task's own bits per byte, through the loss of a text, and from N and D alone, as far as these were
measured.  Other methods take one way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from fitting.errors import InputError
from fitting.forecast.methods import POOLING
from fitting.forecast.spec import LATENT_LAW, ForecastSpec
from fitting.laws import Law
from fitting.observations import build, select
from fitting.observations.build import TaskData
from fitting.observations.preparation import PAPER, POOLED, TEXT_FEATURE, Preparation

OWN, TEXTS, INPUTS = "bpb", "texts", "inputs"
_ACCURACIES, _LOSSES = {"acc_per_char", "acc"}, {"lm_bpb", "lm_loss"}


@dataclass(frozen=True)
class Part:
    """Tasks that are fitted together, prepared.

    Attributes:
        feature: what lies between the steps: the name of a feature; `lm_loss of LABEL` for a text
            other than C4; `inputs` for a law straight to accuracy; `texts` for losses alone.
        data: of the tasks, with targets.
    """

    feature: str
    data: tuple[TaskData, ...]


@dataclass(frozen=True)
class _Way:
    """A way to accuracy: its feature, how it is prepared, its law, and the tasks that have it."""

    feature: str
    preparation: Preparation
    law: Law
    labels: Sequence[str]


def prepare(table: pd.DataFrame, spec: ForecastSpec) -> list[Part]:
    """Prepares the parts of a forecast, so that nothing is found missing after the fits.

    Args:
        table: measurements, in the schema of `fitting.table`.
        spec: runs, targets, tasks and method.

    Raises:
        InputError: something is missing; the message is one line.
    """
    for name in ("train", "targets"):
        if not getattr(spec, name):
            raise InputError(f"`{name}` names no run: give at least one")
    runs = select.select_runs(table, spec.train)
    targets = select.target_runs(table, spec.targets, runs)
    parts = []
    for way in _ways(table, spec, runs, select.task_labels(spec.tasks)):
        observed = build.observe_tasks(
            table, way.labels, runs, way.preparation, way.law, spec.chance
        )
        data = tuple(build.with_targets(t, table, targets, spec.new_items) for t in observed)
        parts.append(Part(way.feature, data))
    return parts


def left_out(table: pd.DataFrame, spec: ForecastSpec) -> dict[str, list[str]]:
    """Ways of the default mixture that some runs, not all, were measured for: task -> sentences."""
    if spec.method not in POOLING or spec.fitted_law.of_accuracy or spec.feature is not None:
        return {}
    runs, found = select.select_runs(table, spec.train), {}
    text = spec.feature_task or POOLED[TEXT_FEATURE].task
    for task in select.task_labels(spec.tasks):
        measured = [(task, OWN), (text, TEXT_FEATURE)]
        gaps = {f"{metric} of {label}": _lacking(table, label, metric, runs)
                for label, metric in measured}  # fmt: skip
        found[task] = [
            f"{what} is not used in the mixture, as {select.shortened(lacking)} "
            f"{'lacks' if len(lacking) == 1 else 'lack'} it: fill it in or `exclude` the runs"
            for what, lacking in gaps.items()
            if 0 < len(lacking) < len(runs)
        ]
    return found


def first_data(parts: Sequence[Part]) -> list[TaskData]:
    """Each task's data in the first part that has it."""
    found: dict[str, TaskData] = {}
    for part in parts:
        for data in part.data:
            found.setdefault(data.task, data)
    return list(found.values())


def _ways(
    table: pd.DataFrame, spec: ForecastSpec, runs: Sequence[str], labels: Sequence[str]
) -> list[_Way]:
    prepared = POOLED if spec.method in POOLING else PAPER
    law = spec.fitted_law
    text = _text(table, spec, runs)
    if law.of_accuracy:
        return [_Way(INPUTS, prepared[OWN], law, labels)]
    if spec.feature is not None:
        given = prepared[spec.feature]
        if spec.feature == TEXT_FEATURE and text is not None:
            given = replace(given, task=text)
        return [_Way(_name(spec.feature, given), given, law, labels)]
    metrics = {t: set(table.loc[table["task"] == t, "metric"]) for t in labels}
    texts = [t for t, has in metrics.items() if not has & _ACCURACIES and has & _LOSSES]
    tasks = [t for t in labels if t not in texts]
    own = [t for t in tasks if _complete(table, t, OWN, runs)]
    ways = [_Way(OWN, prepared[OWN], law, own)]
    if text is not None:
        one = replace(prepared[TEXT_FEATURE], task=text)
        ways.append(_Way(_name(TEXT_FEATURE, one), one, law, tasks))
    ways.append(_Way(INPUTS, prepared[OWN], LATENT_LAW[spec.inputs], tasks))
    if spec.method not in POOLING:
        nothing = text is None and not any(OWN in metrics[t] for t in tasks)
        if nothing and any(metrics[t] for t in tasks):
            raise InputError(
                "no task has bits per byte, and no text a loss of every run: use `steps` one "
                "(N and D straight to accuracy), or `method` bayes"
            )
        one = ways[0] if own or text is None else ways[1]
        return [replace(one, labels=labels)]
    ways = [_Way(TEXTS, prepared[OWN], law, texts), *ways]
    return [way for way in ways if way.labels]


def _text(table: pd.DataFrame, spec: ForecastSpec, runs: Sequence[str]) -> str | None:
    """The text whose loss is a feature: the one named, else C4, else the first that is complete."""
    if spec.feature_task is not None:
        return spec.feature_task
    rows = table[table["metric"] == POOLED[TEXT_FEATURE].metric]
    usual = POOLED[TEXT_FEATURE].task
    candidates = [usual, *(str(t) for t in rows["task"].unique() if t != usual)]
    complete = (t for t in candidates if t and _complete(rows, t, TEXT_FEATURE, runs))
    return next(complete, None)


def _name(feature: str, preparation: Preparation) -> str:
    usual = PAPER[feature].task
    return feature if preparation.task == usual else f"{feature} of {preparation.task}"


def _complete(table: pd.DataFrame, task: str, metric: str, runs: Sequence[str]) -> bool:
    return not _lacking(table, task, metric, runs)


def _lacking(table: pd.DataFrame, task: str | None, metric: str, runs: Sequence[str]) -> list[str]:
    """The runs without a measurement."""
    known = set(table.loc[(table["task"] == task) & (table["metric"] == metric), "run"])
    return [run for run in runs if run not in known]
