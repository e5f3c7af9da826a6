"""Warnings where the scores of a task contradict each other."""

from __future__ import annotations

import math
from collections.abc import Mapping

# Bits per byte under which none of the public ladder's 1,578 evaluations of a task stood within two
# standard errors of guessing (arXiv 2412.04403, its run CSVs); a task that never did: the highest.
_FINE_BPB = {
    "arc_challenge_test_rc_5shot": 1.10,
    "arc_easy_test_rc_5shot": 2.39,
    "csqa_val_rc_5shot": 2.98,
    "hellaswag_val_rc_5shot": 1.18,
    "mmlu_avg_test_rc_5shot": 1.69,
    "mmlu_other_test_rc_5shot": 1.95,
    "mmlu_social_sciences_test_rc_5shot": 1.46,
    "mmlu_stem_test_rc_5shot": 1.78,
    "openbookqa_test_rc_5shot": 1.53,
    "piqa_val_rc_5shot": 1.81,
    "socialiqa_val_rc_5shot": 2.36,
}


_FEWEST = 200  # documents; with fewer, guessing cannot be recognised


def at_chance(task: str, values: Mapping[str, float], chance: float, n: int) -> str | None:
    """A warning if accuracy is that of guessing though bits per byte are good; else None.

    Args:
        task: its label.
        values: its metrics.
        chance: accuracy of guessing.
        n: documents.
    """
    accuracy, bpb = values.get("acc_per_char"), values.get("bpb", math.inf)
    near = chance + 2 * math.sqrt(chance * (1 - chance) / n)
    if n < _FEWEST or accuracy is None or accuracy > near or bpb >= _FINE_BPB.get(task, 0.0):
        return None
    return (
        f"accuracy {accuracy:.3f} is that of guessing ({chance:.3f}), though {bpb:.2f} bits per "
        "byte are fine: check the tokenizer, BOS and the order of choices"
    )
