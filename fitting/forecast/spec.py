"""The settings of a forecast, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fitting.errors import InputError
from fitting.forecast.methods import METHODS, POOLING
from fitting.laws import (
    CHINCHILLA,
    COMPUTE_ONLY,
    LATENT_COMPUTE,
    LATENT_LOSS,
    SINGLE_STEP,
    Law,
)
from fitting.observations.preparation import PAPER, TEXT_FEATURE
from fitting.observations.select import TargetRun

LAW_OF_INPUTS = {"nd": CHINCHILLA, "c": COMPUTE_ONLY}
LATENT_LAW = {"nd": LATENT_LOSS, "c": LATENT_COMPUTE}  # straight to accuracy, pooled
STEPS = ("two", "one")


@dataclass(frozen=True)
class ForecastSpec:
    """The training runs, the targets and the method of a forecast.

    An experiment gives the optional settings as a dict: `ForecastSpec(train, targets, **settings)`.

    Attributes:
        train: shell patterns that match the names of the runs to fit.
        targets: names of runs in the table, `NAME=N_PARAMS,N_TOKENS[,FLOPS]` for a run that is not
            in it, or `TargetRun`s.
        tasks: labels; `main` stands for the paper's eight.
        method: a name in `fitting.forecast.methods.METHODS`.
        feature: `bpb`, `lm_loss` or `task_ce`; a single step has none.  If it is None, the pooled
            methods mix all ways to accuracy (see `fitting.forecast.parts`); the others use bpb or,
            where no task has it, lm_loss.
        feature_task: the text whose loss is the feature lm_loss.  If it is None: C4
            (`c4_en_val`), or else the first text of which every run has the loss.
        inputs: `nd` for N and D, `c` for FLOPs.
        steps: `two`, or `one` for the single-step law.
        levels: of the predictive intervals, between 0 and 1.
        law: a law to fit instead of the one that `inputs` and `steps` name.
        chance: task -> accuracy of guessing, for tasks with a label that is not known.
        new_items: forecast accuracies on newly drawn test items (only for pooled methods).

    Raises:
        InputError: a setting is unknown, or two contradict each other.
    """

    train: Sequence[str] = ()
    targets: Sequence[str | TargetRun] = ()
    tasks: Sequence[str] = ("main",)
    method: str = "bayes"
    feature: str | None = None
    feature_task: str | None = None
    inputs: str = "nd"
    steps: str = "two"
    levels: Sequence[float] = (0.95,)
    law: Law | None = None
    chance: Mapping[str, float] = field(default_factory=dict)
    new_items: bool = False

    def __post_init__(self) -> None:
        for name in ("train", "targets", "tasks", "levels"):
            value = getattr(self, name)
            if isinstance(value, str | float | TargetRun):
                raise InputError(f"`{name}` is {value!r}: give a list")
            object.__setattr__(self, name, tuple(value))
        if not isinstance(self.chance, Mapping):
            raise InputError(f"`chance` is {self.chance!r}: give a dict, task -> accuracy")
        self._check_names()
        if self.steps == "one" and self.feature is not None:
            raise InputError("`steps` one goes straight to accuracy: leave `feature` out")
        if self.steps == "one" and self.inputs != "nd" and self.method not in POOLING:
            raise InputError(
                f"`steps` one of `method` {self.method} is a law of N and D: leave `inputs` at nd, "
                f"or use {' or '.join(POOLING)}"
            )
        if self.feature_task is not None and self.feature not in (None, TEXT_FEATURE):
            raise InputError(f"`feature_task` names a text: leave `feature` at {TEXT_FEATURE}")
        for level in self.levels:
            if not 0 < level < 1:
                raise InputError(f"`levels` {level}: must lie between 0 and 1")
        for task, accuracy in self.chance.items():
            if not 0 <= accuracy < 1:
                raise InputError(f"`chance` of {task!r} is {accuracy}: must lie from 0 to below 1")
        if self.new_items and self.method not in POOLING:
            raise InputError(f"`new_items` needs `method` {' or '.join(POOLING)}")
        METHODS[self.method].check_law(self.fitted_law)

    def _check_names(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"`method` {self.method}: not known; use {', '.join(METHODS)}")
        if self.feature is not None and self.feature not in PAPER:
            known = ", ".join(PAPER)
            raise InputError(f"`feature` {self.feature}: the paper fits none; use {known}")
        if self.inputs not in LAW_OF_INPUTS:
            raise InputError(f"`inputs` {self.inputs}: not known; use {', '.join(LAW_OF_INPUTS)}")
        if self.steps not in STEPS:
            raise InputError(f"`steps` {self.steps}: not known; use {', '.join(STEPS)}")
        if not self.tasks:
            raise InputError("`tasks` names none: give labels, or main")

    @property
    def fitted_law(self) -> Law:
        """The law that is fitted."""
        if self.law is not None:
            return self.law
        if self.steps == "two":
            return LAW_OF_INPUTS[self.inputs]
        return LATENT_LAW[self.inputs] if self.method in POOLING else SINGLE_STEP
