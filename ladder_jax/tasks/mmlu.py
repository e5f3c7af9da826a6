"""MMLU (arXiv 2009.03300) with the public five-shot prompt of the OLMo evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fitting.errors import InputError, first_line
from ladder_jax.tasks.task import Question

GROUPS = {
    "stem": (
        "astronomy", "college_physics", "conceptual_physics", "high_school_physics",
        "college_chemistry", "high_school_chemistry", "college_biology", "high_school_biology",
        "college_computer_science", "computer_security", "high_school_computer_science",
        "machine_learning", "abstract_algebra", "college_mathematics", "elementary_mathematics",
        "high_school_mathematics", "high_school_statistics", "electrical_engineering",
    ),
    "humanities": (
        "high_school_european_history", "high_school_us_history", "high_school_world_history",
        "prehistory", "formal_logic", "logical_fallacies", "moral_disputes", "moral_scenarios",
        "philosophy", "world_religions", "international_law", "jurisprudence",
        "professional_law",
    ),
    "social_sciences": (
        "high_school_government_and_politics", "public_relations", "security_studies",
        "us_foreign_policy", "human_sexuality", "sociology", "econometrics",
        "high_school_macroeconomics", "high_school_microeconomics", "high_school_geography",
        "high_school_psychology", "professional_psychology",
    ),
    "other": (
        "global_facts", "miscellaneous", "professional_accounting", "business_ethics",
        "management", "marketing", "anatomy", "clinical_knowledge", "college_medicine",
        "human_aging", "medical_genetics", "nutrition", "professional_medicine", "virology",
    ),
}  # fmt: skip
# Weights of the groups in the mean of MMLU: those of arXiv 2412.04403, not shares of documents.
WEIGHTS = {"stem": 0.215, "humanities": 0.335, "social_sciences": 0.219, "other": 0.231}
SUBJECTS = tuple(sorted(subject for subjects in GROUPS.values() for subject in subjects))
HEADER = "The following are multiple choice questions (with answers) about "
SPLITS = {"val": "validation", "test": "test"}
KINDS = ("rc", "mc")  # choices are the texts of the answers, or their letters
SHOTS = 5
_LETTERS = "ABCD"
_FIELDS = {"question": str, "choices": list, "answer": int}


def documents(root: Path, subject: str, split: str, kind: str) -> Iterator[Question]:
    """The questions of a subject, in the public order, after five answered ones of its dev split.

    Args:
        root: holds `{subject}/{dev|validation|test}.arrow`.
        subject: one of `SUBJECTS`.
        split: `val` or `test`.
        kind: `rc`: each answer's text continues the question; `mc`: the answers are part
            of the question and a letter continues it.

    Raises:
        InputError: a file is missing or cannot be read, or a row holds no question.
    """
    examples = _read(root / subject / "dev.arrow")[:SHOTS]
    answered = (_question(e, kind) + _choices(e, kind)[e["answer"]] + "\n\n" for e in examples)
    prefix = f"{HEADER}{subject.replace('_', ' ')}:\n\n" + "".join(answered)
    for row in _read(root / subject / f"{SPLITS[split]}.arrow"):
        yield Question(prefix + _question(row, kind), _choices(row, kind), row["answer"])


def _question(row: dict[str, Any], kind: str) -> str:
    question = row["question"].strip()
    if kind == "rc":
        return f"Question: {question}\nAnswer:"
    options = zip(_LETTERS, row["choices"], strict=True)
    return f"{question}\n" + "".join(f"{x}. {text}\n" for x, text in options) + "Answer:"


def _choices(row: dict[str, Any], kind: str) -> tuple[str, ...]:
    return tuple(f" {text}" for text in (row["choices"] if kind == "rc" else _LETTERS))


def _read(path: Path) -> Sequence[dict[str, Any]]:
    import pyarrow as pa

    try:
        with open(path, "rb") as f:
            rows = pa.ipc.open_stream(f).read_all().to_pylist()
    except (OSError, pa.ArrowException) as e:
        raise InputError(f"{path}: cannot be read as an Arrow stream: {first_line(e)}") from None
    for number, row in enumerate(rows, start=1):
        problem = _problem(row)
        if problem:
            raise InputError(f"{path}: row {number}: {problem}")
    return rows


def _problem(row: dict[str, Any]) -> str | None:
    """The problem of a row and how to correct it, as text; None if the row is valid."""
    for field, kind in _FIELDS.items():
        if type(row.get(field)) is not kind:
            return f"field {field!r} is no {kind.__name__}: restore it"
    n = len(_LETTERS)
    if len(row["choices"]) != n or not all(isinstance(text, str) for text in row["choices"]):
        return f"field 'choices' must hold {n} texts: restore it"
    return (
        None if 0 <= row["answer"] < n else f"field 'answer' is {row['answer']}: use 0 to {n - 1}"
    )
