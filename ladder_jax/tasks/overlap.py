"""Share of a task's documents that occur in the training text, by runs of words in both.

As in the decontamination of GPT-3 (arXiv 2005.14165, appendix C): thirteen words in a row; case and
punctuation are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat

import numpy as np
import pandas as pd

from fitting.errors import InputError
from ladder_jax.tasks.prompts import own_texts
from ladder_jax.tasks.task import Task

SHORTEST = 8  # words; a shorter document is not checked: it occurs everywhere
_LABEL = re.compile(r"^(?:question|answer|goal):", re.MULTILINE)
_BATCH = 1 << 18  # words that are hashed at once
_FILTER_BITS = 24
_GAP = ""  # separates texts; no task has this word


def overlap(tasks: Sequence[Task], texts: Iterable[str], n: int = 13) -> pd.DataFrame:
    """Counts documents of tasks that occur in a text, by runs of `n` words.

    What is compared is the question with the right answer, without the examples that the task's
    documents share (`prompts.own_texts`) and without labels such as "Question:".  A document
    overlaps if any `n` consecutive words of it occur, in the same order, in one of the texts.  One
    of fewer than `n` words, but at least 8, must occur as a whole; one of fewer than 8 words is not
    checked.

    Args:
        tasks: the tasks to look for; kept in memory, as one hash per run of words.
        texts: the training text; read once, never in memory as a whole.
        n: length of a run in words, 2 or more.

    Returns:
        One row per task: task, n_documents, n_checked, n_overlapping, share (n_overlapping /
        n_checked; NaN if no document is checked).

    Raises:
        InputError: `n` is less than 2.
    """
    if n < 2:
        raise InputError(f"`n` is {n}: compare runs of 2 words or more")
    index = _Index([text for task in tasks for text in own_texts(task.documents)], n)
    for words in _batches(texts):
        index.mark(words)
    task_of = np.repeat(np.arange(len(tasks)), [len(task.documents) for task in tasks])
    table = pd.DataFrame(
        {
            "task": [task.name for task in tasks],
            "n_documents": [len(task.documents) for task in tasks],
            "n_checked": np.bincount(task_of[index.checked], minlength=len(tasks)),
            "n_overlapping": np.bincount(task_of[index.overlapping()], minlength=len(tasks)),
        }
    )
    return table.assign(share=table["n_overlapping"] / table["n_checked"])


class _Spaced(dict[int, int]):
    """Character code -> itself if a letter or digit, else a space; for `str.translate`."""

    def __missing__(self, code: int) -> int:
        self[code] = code if chr(code).isalnum() else ord(" ")
        return self[code]


_SPACED = _Spaced()


def _words(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation and labels of the prompt format."""
    return _LABEL.sub(" ", text.lower()).translate(_SPACED).split()


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    words: list[str] = []
    for text in texts:
        words += _words(text)
        words.append(_GAP)
        if len(words) >= _BATCH:
            yield words
            words = []
    yield words


class _Index:
    """Hashes of the documents' runs of words, and which of them were found.

    Attributes:
        checked: for each document, whether it is long enough; (documents,) bool.
    """

    def __init__(self, texts: Sequence[str], n: int) -> None:
        self._ids: dict[str, int] = {}  # word -> its number; 0 means that no document has the word
        self._factors = np.random.default_rng(0).integers(2**63, size=n, dtype=np.uint64) * 2 + 1
        documents = [_words(text) for text in texts]
        size = np.array([len(words) for words in documents], int)
        self.checked = size >= min(n, SHORTEST)
        flat = np.zeros(int(size.sum()) + len(size), np.uint64)  # a 0 ends each document
        document = np.repeat(np.arange(len(size)), size + 1)
        left = np.cumsum(size + 1)[document] - 1 - np.arange(len(flat))  # words of its document
        known = self._ids
        flat[left > 0] = [known.setdefault(w, len(known) + 1) for words in documents for w in words]
        length = np.where(self.checked, np.minimum(size, n), 0)[document]
        self._tables = {}
        for m, runs in self._runs(flat, n):
            mine = np.flatnonzero((length == m) & (left >= m))  # where runs of m words start
            if len(mine):
                self._tables[m] = _Table(runs[mine], document[mine])

    def _runs(self, ids: np.ndarray, longest: int) -> Iterator[tuple[int, np.ndarray]]:
        """A 64-bit hash of every run of 1, 2, ... `longest` words; collisions are rare."""
        total = np.zeros(len(ids) + 1, np.uint64)
        for k in range(min(longest, len(ids))):
            total = total[:-1] + ids[k:] * self._factors[k]
            yield k + 1, total

    def mark(self, words: list[str]) -> None:
        """Marks the runs that occur in these words."""
        ids = np.fromiter(map(self._ids.get, words, repeat(0)), np.uint64, len(words))
        for m, runs in self._runs(ids, max(self._tables, default=0)):
            if m in self._tables:
                self._tables[m].mark(runs)

    def overlapping(self) -> np.ndarray:
        """For each document, whether a run of it was found; (documents,) bool."""
        found = np.zeros(len(self.checked), bool)
        for table in self._tables.values():
            found[table.documents()] = True
        return found


class _Table:
    """Sorted hashes with their documents, behind a filter by the hashes' first bits."""

    def __init__(self, hashes: np.ndarray, documents: np.ndarray) -> None:
        order = np.argsort(hashes)
        self._hashes, self._documents = hashes[order], documents[order]
        self._found = np.zeros(len(hashes), bool)  # at the first of equal hashes
        self._filter = np.zeros(1 << _FILTER_BITS, bool)
        self._filter[self._first_bits(hashes)] = True

    @staticmethod
    def _first_bits(hashes: np.ndarray) -> np.ndarray:
        return hashes >> np.uint64(64 - _FILTER_BITS)

    def mark(self, hashes: np.ndarray) -> None:
        """Marks the hashes of the table that are among these."""
        likely = hashes[self._filter[self._first_bits(hashes)]]
        at = np.minimum(np.searchsorted(self._hashes, likely), len(self._hashes) - 1)
        self._found[at[self._hashes[at] == likely]] = True

    def documents(self) -> np.ndarray:
        """Documents whose hashes were found."""
        return self._documents[self._found[np.searchsorted(self._hashes, self._hashes)]]
