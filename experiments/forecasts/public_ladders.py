"""The public ladders on which forecasts are chosen and tested, from the files of other people.

Tasks of a ladder are chosen by its smaller sizes alone: those that some fitted run does better than
guessing by five points.  A task that no run can do tells nothing about a method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fitting.errors import InputError
from fitting.evaluation.ladders import MeasuredLadder, complete_tasks
from fitting.observations import select
from fitting.observations.preparation import MAIN_TASKS
from ladder_jax.measurements import wide_csv

ABOVE_CHANCE = 0.05
_FOUR, _FIVE, _TWO = 0.25, 0.2, 0.5
# Gadre et al.: of their table of tasks; what is not listed is generated or completed text.
_GADRE = {
    **dict.fromkeys(
        (
            "agi_eval_lsat_ar", "agi_eval_lsat_lr", "agi_eval_lsat_rc", "agi_eval_sat_en",
            "arc_challenge", "arc_easy", "bigbench_conceptual_combinations",
            "bigbench_elementary_math_qa", "bigbench_language_identification",
            "bigbench_logical_deduction", "bigbench_novel_concepts",
            "bigbench_understanding_fables", "commonsense_qa", "hellaswag", "hellaswag_zeroshot",
            "logi_qa", "math_qa", "mmlu", "mmlu_zeroshot", "openbook_qa",
        ),
        _FOUR,
    ),
    **dict.fromkeys(
        (
            "bbq", "bigbench_misconceptions", "bigbench_strange_stories", "bigbench_strategy_qa",
            "boolq", "copa", "enterprise_pii_classification", "piqa", "siqa",
            "winogender_mc_female", "winogender_mc_male", "winograd", "winogrande",
        ),
        _TWO,
    ),
}  # fmt: skip
_GEMSTONES = {
    "arc_easy_le": _FOUR, "hellaswag_le": _FOUR, "piqa_le": _TWO, "csqa_le": _FIVE,
    "openbookqa_le": _FOUR,
}  # fmt: skip
_PYTHIA = {
    **dict.fromkeys(("arc_easy", "arc_challenge", "sciq", "logiqa"), _FOUR),
    **dict.fromkeys(("piqa", "winogrande", "wsc"), _TWO),
}


@dataclass(frozen=True)
class _Source:
    """A ladder's files and the maps that import them.

    Attributes:
        files: of the folder of public tables.
        maps: shipped map of each file.
        chance: task -> accuracy of guessing; 0 for tasks of the ladder that are not named.
        smallest_held_out: tasks are chosen by the runs with fewer parameters.
        exclude: patterns of runs that are left out.
    """

    files: Sequence[str]
    maps: Sequence[str]
    chance: Mapping[str, float]
    smallest_held_out: float
    exclude: Sequence[str] = ()


_SOURCES = {
    "gadre-c4": _Source(["gadre_69.csv"], ["gadre-c4"], _GADRE, 3e8),
    "gadre-rpj": _Source(["gadre_69.csv"], ["gadre-rpj"], _GADRE, 3e8),
    "gemstones": _Source(
        ["gemstones_task_losses.csv", "gemstones_lighteval.csv", "gemstones_loss.csv"],
        ["gemstones-task-losses", "gemstones-lighteval", "gemstones-loss"],
        _GEMSTONES, 3e8,
    ),
    "pythia": _Source(["pythia_v1_zero_shot.csv"], ["pythia"], _PYTHIA, 1e9, ["*-deduped"]),
}  # fmt: skip


def load(folder: Path, olmo: pd.DataFrame | None) -> list[MeasuredLadder]:
    """The ladders; the OLMo ladder first, if its measurements are given.

    Args:
        folder: holds the public tables.
        olmo: measurements of `ladder measure --from olmo-ladder`.

    Raises:
        InputError: a file is missing, or has rows that cannot be read.
    """
    found = []
    if olmo is not None:
        train = ["190M-*", "370M-*", "760M-*", "1.3B-*"]
        found.append(MeasuredLadder("olmo", olmo, train, MAIN_TASKS))
    return found + [_ladder(folder, name, source) for name, source in _SOURCES.items()]


def _ladder(folder: Path, name: str, source: _Source) -> MeasuredLadder:
    read = wide_csv.from_csv([folder / file for file in source.files], source.maps)
    if read.problems:
        raise InputError(str(read.problems[0]))
    frame = read.frame
    train = select.train_patterns(frame, ["*"], source.exclude)
    runs = select.select_runs(frame, train)
    accuracies = frame[frame["metric"].isin(["acc", "acc_per_char"])]
    small = accuracies[accuracies["n_params"] < source.smallest_held_out]
    best = small.groupby("task", sort=False)["value"].max()
    stems = {str(task): str(task).removesuffix("_lmeval_0shot") for task in best.index}
    chance = {task: source.chance.get(stem, 0.0) for task, stem in stems.items()}
    known = set(complete_tasks(frame, runs))
    tasks = [t for t in stems if t in known and best[t] > chance[t] + ABOVE_CHANCE]
    return MeasuredLadder(name, frame, train, tasks, {t: chance[t] for t in tasks})
