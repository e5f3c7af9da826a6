"""A task is data: documents with a context, choices and a gold index; users write them as JSONL."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from fitting.errors import InputError

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_FIELDS = ("context", "choices", "gold", "unconditional")


@dataclass(frozen=True)
class Question:
    """One multiple-choice question.

    Attributes:
        context: the text that every choice continues, or one such text for each choice; not empty.
        choices: continuations, leading space included; not empty.  A document with one choice has
            bits per byte and no accuracy.
        gold: index of the right choice.
        unconditional: the context of its unconditional scores (for `acc_uncond`); "" if it has no
            such scores.
    """

    context: str | tuple[str, ...]
    choices: tuple[str, ...]
    gold: int
    unconditional: str = ""

    @property
    def contexts(self) -> tuple[str, ...]:
        """The context of each choice."""
        return (
            (self.context,) * len(self.choices) if isinstance(self.context, str) else self.context
        )

    @property
    def prompt_hash(self) -> str:
        """Sixteen hexadecimal digits of context and choices."""
        context = (self.context,) if isinstance(self.context, str) else self.context
        return hashlib.sha256("\x1f".join((*context, *self.choices)).encode()).hexdigest()[:16]

    @property
    def problem(self) -> str | None:
        """The problem of the question and how to correct it, as text; None if it is valid."""
        n = len(self.choices)
        if n < 1:
            return "no choices: give one or more"
        if not 0 <= self.gold < n:
            return f"gold index {self.gold} for {n} choices: count from 0"
        if len(self.contexts) != n:
            return f"{len(self.contexts)} contexts for {n} choices: give one, or one per choice"
        if not all(self.contexts) or not all(c.removeprefix(" ") for c in self.choices):
            return "an empty context or choice: fill it in"
        if any(map(_SURROGATE.search, (*self.contexts, *self.choices, self.unconditional))):
            return "a lone surrogate, which is no text: remove it"
        return None


@dataclass(frozen=True)
class Task:
    """A label and its documents, checked.

    Raises:
        InputError: there are no documents; a document has no choices, an empty text, or a gold
            index without a choice; or some documents have one choice and others more.
    """

    name: str
    documents: Sequence[Question]

    def __post_init__(self) -> None:
        if not self.documents:
            raise InputError(f"task {self.name!r} has no documents: add some")
        for i, document in enumerate(self.documents):
            if document.problem:
                raise InputError(f"task {self.name!r}: document {i}: {document.problem}")
            if (len(document.choices) == 1) != (len(self.documents[0].choices) == 1):
                raise InputError(
                    f"task {self.name!r}: document {i} has {len(document.choices)} choice(s), "
                    f"document 0 {len(self.documents[0].choices)}: documents of one choice have no "
                    "accuracy; give them a task of their own"
                )

    @property
    def chance(self) -> float:
        """Expected accuracy of guessing."""
        return sum(1 / len(d.choices) for d in self.documents) / len(self.documents)


def read_jsonl(path: str | Path) -> Task:
    """Reads a user's task: one document per line, named after the file's stem.

    A line is a JSON object with `context` (a text, or a list with one text per choice), `choices`,
    `gold` and optionally `unconditional`; see `Question`.

    Raises:
        InputError: the file cannot be read, or a row is no valid document.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}") from None
    documents = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                documents.append(_document(json.loads(line)))
            except ValueError as e:
                raise InputError(f"{path}: row {number}: {e}") from None
    if not documents:
        raise InputError(f"{path}: no documents: write one JSON object per line")
    return Task(path.stem, documents)


def _document(row: object) -> Question:
    """A parsed line as a document; raises ValueError with the problem of the line."""
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    unknown = sorted(set(row) - set(_FIELDS))
    if unknown:
        raise ValueError(f"field {unknown[0]!r} is unknown: use {', '.join(_FIELDS)}")
    context, choices, gold = (row.get(name) for name in _FIELDS[:3])
    if not isinstance(context, str):
        if not _texts(context):
            raise ValueError("field 'context' must be a text, or a list of one text per choice")
        context = tuple(context)
    if not _texts(choices):
        raise ValueError("field 'choices' must be a list of texts")
    if type(gold) is not int:
        raise ValueError("field 'gold' must be the index of a choice, counted from 0")
    unconditional = row.get("unconditional", "")
    if not isinstance(unconditional, str):
        raise ValueError("field 'unconditional' must be a text")
    document = Question(context, tuple(choices), gold, unconditional)
    if document.problem:
        raise ValueError(document.problem)
    return document


def _texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
