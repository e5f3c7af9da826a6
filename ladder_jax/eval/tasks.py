"""A task is data: documents with a context, choices and a gold index."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from fitting.table import InputError


@dataclass(frozen=True)
class Document:
    """One question.

    Attributes:
        context: what every choice continues; not empty.
        choices: continuations, leading space included; not empty.
        gold: index of the right one.
    """

    context: str
    choices: tuple[str, ...]
    gold: int

    @property
    def prompt_hash(self) -> str:
        """Sixteen hexadecimal digits of context and choices."""
        text = "\x1f".join((self.context, *self.choices))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Task:
    """A label and its documents, checked.

    Raises:
        InputError: no documents, fewer than two choices, an empty one, or a gold index that
            points at none.
    """

    name: str
    documents: Sequence[Document]

    def __post_init__(self) -> None:
        if not self.documents:
            raise InputError(f"task {self.name!r} has no documents: use more held-out text")
        for i, document in enumerate(self.documents):
            n = len(document.choices)
            problem = None
            if n < 2:
                problem = f"{n} choice(s): give two or more"
            elif not 0 <= document.gold < n:
                problem = f"gold index {document.gold} for {n} choices: count from 0"
            elif not document.context or not all(document.choices):
                problem = "an empty context or choice: fill it in"
            if problem:
                raise InputError(f"task {self.name!r}: document {i}: {problem}")

    @property
    def chance(self) -> float:
        """Expected accuracy of guessing."""
        return sum(1 / len(d.choices) for d in self.documents) / len(self.documents)
