"""The accuracy of guessing, for tasks with a known public label."""

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
}  # from the code published with arXiv 2412.04403
UNKNOWN = (0.2, 0.15)  # mean and standard deviation assumed for any other task


def of_label(task: str) -> float | None:
    """Accuracy of guessing on a task such as `arc_easy_test_rc_5shot`; None if it is unknown."""
    stem = re.match(
        r"(.+?)(_stem|_humanities|_social_sciences|_other|_avg)?_(test|val)_[rm]c_", task
    )
    return KNOWN.get(stem[1]) if stem else None
