"""The accuracy of guessing, for tasks whose public label tells it."""

from __future__ import annotations

import re

KNOWN = {
    "mmlu": 1 / 4,
    "hellaswag": 1 / 4,
    "arc_challenge": 1 / 4,
    "arc_easy": 1 / 4,
    "piqa": 1 / 2,
    "csqa": 1 / 5,
    "socialiqa": 1 / 3,
    "openbookqa": 1 / 4,
    "boolq": 1 / 2,
    "winogrande": 1 / 2,
}  # as the code published with arXiv 2412.04403 has it
UNKNOWN = (0.3, 0.12)  # mean and standard deviation of what is thought of any other task


def of_label(task: str) -> float | None:
    """Of a label such as `arc_easy_test_rc_5shot`; None if it tells nothing."""
    stem = re.match(
        r"(.+?)(_stem|_humanities|_social_sciences|_other|_avg)?_(test|val)_[rm]c_", task
    )
    return KNOWN.get(stem[1]) if stem else None
