"""A ladder: sizes x token multiples x seeds, each run configured by a recipe of N alone.

The recipe is Porian et al.'s (arXiv 2406.19146), as the ladder paper uses it: batch halved and
learning rate quartered for sequences of 4,096 tokens (arXiv 2412.04403, Table 1).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fitting.errors import InputError
from ladder_jax.config import ModelConfig, RunConfig
from ladder_jax.models import counts

_NAME = re.compile(r"[\w+=-][\w.+=-]*")  # of a run, and of its folder


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters as pure functions of N (parameters, output head included).

    Attributes:
        n_ref: the N at which the two reference values hold.
        batch_seqs_ref: sequences in a batch at `n_ref`.
        batch_exponent: power of N / n_ref in the batch.
        batch_granularity: batches are rounded to a multiple of this number of sequences.
        lr_ref: peak learning rate at `n_ref`.
        lr_exponent: power of N / n_ref in the learning rate.
        tokens_per_param: tokens of one Chinchilla multiple (arXiv 2203.15556).
        extra_steps: steps beyond the nominal tokens.
    """

    n_ref: float = 108e6
    batch_seqs_ref: float = 80.0
    batch_exponent: float = 2 / 3
    batch_granularity: int = 64
    lr_ref: float = 0.0047 / 4
    lr_exponent: float = -1 / 3
    tokens_per_param: float = 20.0
    extra_steps: int = 10

    def batch_seqs(self, n_params: int) -> int:
        """Sequences per step, at least `batch_granularity`."""
        raw = self.batch_seqs_ref * (n_params / self.n_ref) ** self.batch_exponent
        return max(1, round(raw / self.batch_granularity)) * self.batch_granularity

    def lr_peak(self, n_params: int) -> float:
        """Peak learning rate."""
        return self.lr_ref * (n_params / self.n_ref) ** self.lr_exponent

    def warmup_steps(self, n_params: int, seq_len: int) -> int:
        """Steps of warm-up, which covers N tokens."""
        return round(n_params / (self.batch_seqs(n_params) * seq_len))

    def n_tokens_nominal(self, n_params: int, multiple: float) -> int:
        """Nominal tokens: multiple x tokens per parameter x N."""
        return round(self.tokens_per_param * n_params * multiple)

    def n_steps(self, n_params: int, multiple: float, seq_len: int) -> int:
        """Optimiser steps: ceil(nominal tokens / batch tokens) + extra."""
        tokens = self.n_tokens_nominal(n_params, multiple)
        return math.ceil(tokens / (self.batch_seqs(n_params) * seq_len)) + self.extra_steps


@dataclass(frozen=True)
class Target:
    """A run to forecast, with settings of its own: the recipe does not apply to it.

    Attributes:
        run: its config.
        n_tokens: tokens that it is trained on, which may differ from steps x batch.
    """

    run: RunConfig
    n_tokens: int

    def __post_init__(self) -> None:
        if not isinstance(self.run, RunConfig):
            raise InputError(
                f"target: run is of type {type(self.run).__name__}: make it a RunConfig"
            )
        if type(self.n_tokens) is not int or self.n_tokens < 1:
            raise InputError(f"target {self.run.name!r}: n_tokens {self.n_tokens!r} must be a "
                             "positive whole number")  # fmt: skip


@dataclass(frozen=True)
class Ladder:
    """Sizes x multiples x seeds, and the targets they are meant to forecast.

    Attributes:
        name: name of the experiment.
        sizes: label -> model.
        multiples: token multiples, in Chinchilla units.
        recipe: hyper-parameters from N.
        base: settings that all runs share (data, optimiser constants, mesh, evaluation).
        targets: name -> run to forecast.
        seeds: each cell is run once with each seed; empty means only the seed of `base`.  Runs with
            that seed are named `size-multiple`, others `size-multiple-sSEED`: adding seeds renames
            no run.

    Raises:
        InputError: a field has another type, there is no size or no multiple, a multiple is not
            positive, a name cannot be a folder's, or a multiple, a seed or a run occurs twice.
    """

    name: str
    sizes: dict[str, ModelConfig]
    multiples: tuple[float, ...]
    recipe: Recipe = field(default_factory=Recipe)
    base: RunConfig = field(default_factory=RunConfig)
    targets: dict[str, Target] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._check_types()
        names = [run.name for run in self.runs()] + [t.run.name for t in self.targets.values()]
        for name in names:
            if not _NAME.fullmatch(name):
                raise self._error(f"run name {name!r}: use letters, digits, and . _ + = - only")
        for what, values in (
            ("multiple", [f"{m:g}" for m in self.multiples]), ("seed", self.seeds), ("run", names),
        ):  # fmt: skip
            if twice := [v for i, v in enumerate(values) if v in values[:i]]:
                raise self._error(f"{what} {twice[0]} occurs twice: remove or rename one")

    def _check_types(self) -> None:
        for name, kind in (("sizes", dict), ("targets", dict), ("recipe", Recipe),
                           ("base", RunConfig), ("name", str)):  # fmt: skip
            self._check_kind(name, getattr(self, name), kind)
        for name in ("multiples", "seeds"):
            values = getattr(self, name)
            if isinstance(values, str) or not isinstance(values, Iterable):
                raise self._error(f"{name} is {values!r}: make it a tuple of numbers")
            object.__setattr__(self, name, tuple(values))
        for name in ("sizes", "multiples"):
            if not getattr(self, name):
                raise self._error(f"{name} is empty: give at least one")
        for label, model in self.sizes.items():
            self._check_kind(f"size {label!r}", model, ModelConfig)
        for label, target in self.targets.items():
            self._check_kind(f"target {label!r}", target, Target)
        for multiple in self.multiples:
            if type(multiple) not in (int, float) or not 0 < multiple < math.inf:
                raise self._error(f"multiple {multiple!r} must be a positive number")
        for seed in self.seeds:
            if type(seed) is not int or seed < 0:
                raise self._error(f"seed {seed!r} must be a whole number, 0 or larger")

    def _check_kind(self, what: str, value: object, kind: type) -> None:
        if not isinstance(value, kind):
            found = type(value).__name__
            raise self._error(f"{what} is of type {found}: make it a {kind.__name__}")

    def _error(self, text: str) -> InputError:
        return InputError(f"ladder {self.name!r}: {text}")

    def run(self, size: str, multiple: float, seed: int | None = None) -> RunConfig:
        """The run of one cell of the grid, or of any other multiple and seed of a known size."""
        if size not in self.sizes:
            raise InputError(f"{self.name}: no size {size!r}; it has {', '.join(self.sizes)}")
        model = self.sizes[size]
        n = counts.n_params(model)
        optim = replace(
            self.base.optim,
            lr_peak=self.recipe.lr_peak(n),
            warmup_steps=self.recipe.warmup_steps(n, model.seq_len),
        )
        seed = self.base.seed if seed is None else seed
        return replace(
            self.base,
            name=f"{size}-{multiple:g}xC" + (f"-s{seed}" if seed != self.base.seed else ""),
            size=size,
            multiple=multiple,
            seed=seed,
            n_steps=self.recipe.n_steps(n, multiple, model.seq_len),
            batch_seqs=self.recipe.batch_seqs(n),
            model=model,
            optim=optim,
        )

    def runs(self) -> list[RunConfig]:
        """All cells of the grid: sizes outermost, then multiples, then seeds."""
        seeds = self.seeds or (self.base.seed,)
        return [self.run(z, m, seed) for z in self.sizes for m in self.multiples for seed in seeds]


@dataclass(frozen=True)
class PlanRow:
    """One line of a plan; tokens in tokens, FLOPs in the ladder paper's convention."""

    run: str
    size: str
    multiple: float | None
    n_params: int
    n_params_total: int
    flops_per_token: int
    n_tokens_nominal: int
    n_tokens: int
    steps: int
    batch_seqs: int
    lr_peak: float
    warmup_steps: int
    flops: int


def plan_row(run: RunConfig, n_tokens_nominal: int, n_tokens: int | None = None) -> PlanRow:
    """The plan of one run; `n_tokens` where the published tokens are not steps x batch."""
    tokens = run.n_tokens if n_tokens is None else n_tokens
    per_token = counts.flops_per_token(run.model)
    return PlanRow(
        run=run.name,
        size=run.size,
        multiple=run.multiple or None,
        n_params=counts.n_params(run.model),
        n_params_total=counts.n_params_total(run.model),
        flops_per_token=per_token,
        n_tokens_nominal=n_tokens_nominal,
        n_tokens=tokens,
        steps=run.n_steps,
        batch_seqs=run.batch_seqs,
        lr_peak=run.optim.lr_peak,
        warmup_steps=run.optim.warmup_steps,
        flops=per_token * tokens,
    )


def plan(ladder: Ladder) -> dict[str, Any]:
    """The grid, the targets, and the cost of the ladder compared with the targets.

    Returns:
        A JSON-ready dict: `runs` and `targets` hold `PlanRow`s; `cost` holds FLOPs as 6 N D on
        nominal tokens, and the ladder's share of each target and of all of them together.
    """
    rows = [
        plan_row(run, ladder.recipe.n_tokens_nominal(counts.n_params(run.model), run.multiple))
        for run in ladder.runs()
    ]
    targets = [plan_row(t.run, t.n_tokens, t.n_tokens) for t in ladder.targets.values()]
    ladder_flops = _six_nd(rows)
    shares = {row.run: ladder_flops / _six_nd([row]) for row in targets}
    if targets:
        shares["all"] = ladder_flops / _six_nd(targets)
    return {
        "runs": [asdict(row) for row in rows],
        "targets": [asdict(row) for row in targets],
        "cost": {
            "convention": "6ND on nominal tokens",
            "ladder_flops": ladder_flops,
            "target_flops": {row.run: _six_nd([row]) for row in targets},
            "ladder_share_of": shares,
        },
    }


def _six_nd(rows: Iterable[PlanRow]) -> int:
    return sum(6 * row.n_params * row.n_tokens_nominal for row in rows)
