"""A tiny ladder on public-domain speeches: 3 sizes x {.25, .5, 1}xC, and a larger target.

Command:  ladder run quickstart --out quickstart
Hardware: two CPU cores.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ladder_jax.config import DataConfig, EvalConfig, ModelConfig, RunConfig
from ladder_jax.ladder import Ladder, Recipe, Target


def _model(d_model: int, n_layers: int) -> ModelConfig:
    return ModelConfig(
        d_model=d_model,
        n_heads=2,
        n_layers=n_layers,
        d_ff=4 * d_model,
        vocab_size=1024,
        seq_len=128,
        init_std=0.0,  # D^-0.5
    )


# The paper's batch rule would give only a few hundred steps at this size, so the batch is constant.
# The learning rate is .6 of that of Porian et al.'s rule (arXiv 2406.19146).
_RECIPE = Recipe(batch_seqs_ref=8, batch_exponent=0.0, batch_granularity=8, lr_ref=0.6 * 0.0047)
_TASKS = ("wordorder4", "cloze4", "agree2", "endings4")
_BASE = RunConfig(
    data=DataConfig(), eval=EvalConfig(tasks=_TASKS, n_checkpoints=5, heldout_tokens=65_536)
)
_SIZES = {"66K": _model(32, 2), "118K": _model(40, 3), "209K": _model(56, 3)}
# The target is saved as often as the other runs, but scored only at its end.
_BEYOND = Ladder(
    "quickstart",
    {"329K": _model(64, 4)},
    (0.75,),
    _RECIPE,
    replace(_BASE, checkpoint_every=1000, eval=replace(_BASE.eval, n_checkpoints=1)),
)

LADDER = Ladder(
    name="quickstart",
    sizes=_SIZES,
    multiples=(0.25, 0.5, 1.0),
    recipe=_RECIPE,
    base=_BASE,
    targets={run.name: Target(run, run.n_tokens) for run in _BEYOND.runs()},
)

# The law of compute was chosen by the grid only (`python -m experiments.quickstart.analyse`).
FORECAST: dict[str, Any] = {
    "method": "bayes",
    "inputs": "c",
    "chance": {"wordorder4": 1 / 4, "cloze4": 1 / 4, "agree2": 1 / 2, "endings4": 1 / 4},
}
