"""The paper's ladder: 4 sizes x {1, 2, 5, 10}xC, and its two targets.

Command:  ladder plan task_ladders
Hardware: none.  Time: about a second.
Expected: 16 runs that cost 3.16 % of 7B-4T, 1.30 % of 13B-5T and 0.92 % of both together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ladder_jax.config import DataConfig, EvalConfig, OptimConfig, RunConfig
from ladder_jax.ladder import Ladder, Target
from ladder_jax.models.sizes import OLMO2_SIZES

# The paper's mix: `mixture.json` lists its public sources, weighted by their tokens (from the card
# of allenai/OLMoE-mix-0924; the 16 runs need 256 billion tokens, the targets more).  To build it:
# ladder data build --mixture experiments/task_ladders/mixture.json --out olmoe-mix-0924
_DATA = DataConfig(source="built", path="olmoe-mix-0924", vocab_size=100_278)

CHANCE = {
    "mmlu_avg_test_rc_5shot": 1 / 4,
    "hellaswag_val_rc_5shot": 1 / 4,
    "arc_challenge_test_rc_5shot": 1 / 4,
    "arc_easy_test_rc_5shot": 1 / 4,
    "piqa_val_rc_5shot": 1 / 2,
    "csqa_val_rc_5shot": 1 / 5,
    "socialiqa_val_rc_5shot": 1 / 3,
    "openbookqa_test_rc_5shot": 1 / 4,
    "boolq_val_rc_5shot": 1 / 2,
    "winogrande_val_rc_5shot": 1 / 2,
}  # as in the published code; the paper does not forecast the last two, which are too noisy

# Each run is scored and saved every 500 steps; the last two checkpoints and six more are kept.
_BASE = RunConfig(
    data=_DATA, checkpoint_every=500, eval=EvalConfig(tasks=tuple(CHANCE)[:8], every=500)
)


def _target(name: str, size: str, n_tokens: int, batch_seqs: int, lr_peak: float, warmup: int):
    model = OLMO2_SIZES[size]
    return Target(
        run=replace(
            _BASE,
            name=name,
            size=size,
            n_steps=round(n_tokens / (batch_seqs * model.seq_len)),
            batch_seqs=batch_seqs,
            model=model,
            optim=OptimConfig(lr_peak=lr_peak, warmup_steps=warmup),
        ),
        n_tokens=n_tokens,
    )


# 7B-4T was trained on 3.9T tokens of a 5T cosine schedule and 50B of linear decay.  Table 1 gives
# 9e-4 as the peak learning rate of the 13B; the CSV published with the paper says 3e-4.
LADDER = Ladder(
    name="task_ladders",
    sizes={size: OLMO2_SIZES[size] for size in ("190M", "370M", "760M", "1.3B")},
    multiples=(1, 2, 5, 10),
    base=_BASE,
    targets={
        "7B-4T": _target("7B-4T", "7B", 3_945_065_873_408, 1024, 3.0e-4, 2000),
        "13B-5T": _target("13B-5T", "13B", 5_000_088_518_656, 2048, 9.0e-4, 1000),
    },
)


FORECAST: dict[str, Any] = {"method": "bayes"}  # for `ladder run`
