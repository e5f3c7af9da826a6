"""Which part of a prompt is a document's own, and which are examples that all documents share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ladder_jax.tasks import mmlu
from ladder_jax.tasks.task import Question

_BLANK = "\n\n"  # ends an example


def own_texts(documents: Sequence[Question]) -> list[str]:
    """The question of each document with its right answer, without the shared examples.

    The shared examples are what all contexts (in MMLU: all of a subject) begin with, up to the last
    blank line in it.  Examples that change from document to document are not told from questions.

    Args:
        documents: of one task; where contexts differ by choice, the right choice's counts.

    Returns:
        A text a document.
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
    low, high = min(contexts), max(contexts)  # all others lie between, so share what these share
    differ = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    end = low.rfind(_BLANK, 0, next(differ, len(low)))
    return 0 if end < 0 else end + len(_BLANK)
