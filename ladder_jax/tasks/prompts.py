"""Separates the question of a document from the examples that all documents of a task share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ladder_jax.tasks import mmlu
from ladder_jax.tasks.task import Question

_BLANK = "\n\n"  # ends an example


def own_texts(documents: Sequence[Question]) -> list[str]:
    """The question of each document with its right answer, without the shared examples.

    The shared examples are the common beginning of all contexts (in MMLU: of all contexts of a
    subject), up to its last blank line.  Examples that change from document to document cannot be
    recognised, and count as part of the question.

    Args:
        documents: documents of one task; if contexts differ by choice, that of the right choice
            is used.

    Returns:
        One text per document.
    """
    contexts = [d.contexts[d.gold] for d in documents]
    subjects = defaultdict(list)
    for context in contexts:
        subjects[_subject(context)].append(context)
    shared = {key: _shared(members) for key, members in subjects.items()}
    return [
        context[shared[_subject(context)] :] + d.choices[d.gold]
        for d, context in zip(documents, contexts, strict=True)
    ]


def _subject(context: str) -> str:
    return context.partition(_BLANK)[0] if context.startswith(mmlu.HEADER) else ""


def _shared(contexts: list[str]) -> int:
    """Length of the shared examples, in characters."""
    low, high = (
        min(contexts),
        max(contexts),
    )  # all share what these two share
    differ = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    end = low.rfind(_BLANK, 0, next(differ, len(low)))
    return 0 if end < 0 else end + len(_BLANK)
