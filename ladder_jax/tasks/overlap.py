"""How much of a task stands in the training text: runs of words that both hold.

As in the decontamination of GPT-3 (arXiv 2005.14165, appendix C): thirteen words in a row, without
regard to case and punctuation.
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

SHORTEST = 8  # words; a shorter document is found everywhere, and is not checked
_LABEL = re.compile(r"^(?:question|answer|goal):", re.MULTILINE)
_BATCH = 1 << 18  # words that are hashed at once
_FILTER_BITS = 24
_GAP = ""  # a word that no task has, between texts


def overlap(tasks: Sequence[Task], texts: Iterable[str], n: int = 13) -> pd.DataFrame:
    """Counts documents of tasks that occur in a text, by runs of `n` words.

    A document is its own question with the right answer, without examples shared by its task
    (`prompts.own_texts`) and without labels such as "Question:".  It overlaps if any `n` words in a
    row of it stand in a row in one of the texts; a shorter one of 8 words or more must stand there
    whole; one shorter still is not checked.

    Args:
        tasks: what may not be found; held in memory, as a hash a run.
        texts: the training text, read once, never held at once.
        n: words in a row, 2 or more.

    Returns:
        A row a task: task, n_documents, n_checked, n_overlapping, share (n_overlapping over
        n_checked; NaN if none is checked).

    Raises:
        InputError: `n` is less than 2.
    """
    if n < 2:
        raise InputError(f"n is {n}: compare runs of 2 words or more")
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
    """Letters and digits in lower case, without labels of the prompt format."""
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
        self._ids: dict[str, int] = {}  # a word's number; 0 is for words that no document has
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
            mine = np.flatnonzero((length == m) & (left >= m))  # starts of its runs
            if len(mine):
                self._tables[m] = _Table(runs[mine], document[mine])

    def _runs(self, ids: np.ndarray, longest: int) -> Iterator[tuple[int, np.ndarray]]:
        """A 64-bit hash of every run of 1, 2, ... `longest` words; chance collisions are rare."""
        total = np.zeros(len(ids) + 1, np.uint64)
        for k in range(min(longest, len(ids))):
            total = total[:-1] + ids[k:] * self._factors[k]
            yield k + 1, total

    def mark(self, words: list[str]) -> None:
        """Notes which runs stand in these words."""
        ids = np.fromiter(map(self._ids.get, words, repeat(0)), np.uint64, len(words))
        for m, runs in self._runs(ids, max(self._tables, default=0)):
            if m in self._tables:
                self._tables[m].mark(runs)

    def overlapping(self) -> np.ndarray:
        """Whether a run of each document was found; (documents,) bool."""
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
        """Notes which of the table are among these."""
        likely = hashes[self._filter[self._first_bits(hashes)]]
        at = np.minimum(np.searchsorted(self._hashes, likely), len(self._hashes) - 1)
        self._found[at[self._hashes[at] == likely]] = True

    def documents(self) -> np.ndarray:
        """Documents of the hashes that were found."""
        return self._documents[self._found[np.searchsorted(self._hashes, self._hashes)]]
