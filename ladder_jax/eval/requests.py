"""Numbered requests in token ids from tasks: each distinct (context, continuation) pair once.

Context and continuation are tokenised apart and joined, as in the field's harnesses.  A context
that does not fit the window loses tokens from the left, as many for each choice of its document.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from fitting.errors import InputError
from ladder_jax.tasks.task import Question, Task

_ENCODE_AT_ONCE = 1024  # texts
Ids = np.ndarray  # int32, shape (L,)


@dataclass(frozen=True)
class Bundle:
    """Requests that share much of their context: a document's choices.

    Attributes:
        contexts: token ids, one array a request, none empty.
        continuations: token ids, one array a request, none empty.
        numbers: one number a request.
    """

    contexts: tuple[Ids, ...]
    continuations: tuple[Ids, ...]
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Requests:
    """All requests of some tasks, and the one that answers each row of the score store.

    Attributes:
        bundles: all requests, each in one bundle.
        conditional: request of each (document, choice), shape (R,).
        unconditional: request of its choice under the unconditional context, -1 where there is
            none; shape (R,).
        n_tokens: tokens of each choice, shape (R,).
        n_truncated: documents whose context was cut.
    """

    bundles: list[Bundle]
    conditional: np.ndarray
    unconditional: np.ndarray
    n_tokens: np.ndarray
    n_truncated: int

    @property
    def n_requests(self) -> int:
        """Distinct requests."""
        return sum(len(bundle.numbers) for bundle in self.bundles)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all requests, and of the rows that they answer."""
        total = hashlib.sha256(self.conditional.tobytes() + self.unconditional.tobytes())
        for bundle in self.bundles:
            for pair in zip(bundle.contexts, bundle.continuations, strict=True):
                total.update(_digest(pair))
        return total.hexdigest()


def of_tasks(
    tasks: Sequence[Task], tokenizer: Tokenizer, window: int, unconditional: bool = True
) -> Requests:
    """All requests of the tasks, in the order of tasks, documents and choices.

    Args:
        tasks: what to score.
        tokenizer: special tokens that it puts before a text (BOS) begin every context.
        window: longest input in tokens; an input leaves out the continuation's last token.
        unconditional: also score the choices under the documents' unconditional context.

    Raises:
        InputError: a continuation that the window does not hold after one token of context.
    """
    numbering = _Numbering(window)
    ids = _Encoder(tokenizer)
    conditional, apart, n_tokens = [], [], []
    for task in tasks:
        for i, encoded in enumerate(ids.documents(task.documents)):
            where, choices = f"task {task.name!r}: document {i}", encoded.choices
            conditional += numbering.add(encoded.contexts, choices, where)
            n_tokens += map(len, choices)
            if unconditional and encoded.document.unconditional:
                bare = (encoded.unconditional,) * len(choices)
                apart += numbering.add(bare, choices, where)
            else:
                apart += [-1] * len(choices)
    return Requests(
        numbering.bundles, np.array(conditional), np.array(apart), np.array(n_tokens),
        numbering.n_truncated,
    )  # fmt: skip


class _Numbering:
    """Numbers distinct pairs, and bundles those of one document."""

    def __init__(self, window: int) -> None:
        self.bundles: list[Bundle] = []
        self.n_truncated = 0
        self._window = window
        self._known: dict[bytes, int] = {}

    def add(self, contexts: Sequence[Ids], choices: Sequence[Ids], where: str) -> list[int]:
        """The number of each request; new ones make a bundle."""
        if not all(map(len, (*contexts, *choices))):
            raise InputError(f"{where}: a context or choice has no tokens: fill it in")
        contexts = self._cut(contexts, choices, where)
        numbers, new = [], []
        for pair in zip(contexts, choices, strict=True):
            key = _digest(pair)
            if key not in self._known:
                self._known[key] = len(self._known)
                new.append((*pair, self._known[key]))
            numbers.append(self._known[key])
        if new:
            self.bundles.append(Bundle(*zip(*new, strict=True)))
        return numbers

    def _cut(self, contexts: Sequence[Ids], choices: Sequence[Ids], where: str) -> Sequence[Ids]:
        longest = max(len(a) + len(b) - 1 for a, b in zip(contexts, choices, strict=True))
        excess = longest - self._window
        if excess <= 0:
            return contexts
        if excess >= min(map(len, contexts)):
            raise InputError(
                f"{where}: a continuation of {max(map(len, choices))} tokens leaves no context in "
                f"a window of {self._window}: use a longer window, or leave the document out"
            )
        self.n_truncated += 1
        return [context[excess:] for context in contexts]


class _Encoded(NamedTuple):
    """A document, and the ids of its contexts (one a choice), choices and unconditional context."""

    document: Question
    contexts: list[Ids]
    choices: list[Ids]
    unconditional: Ids


class _Encoder:
    """Texts to token ids, many at a time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._begin = bos(tokenizer)

    def documents(self, documents: Sequence[Question]) -> Iterator[_Encoded]:
        """Each document's ids."""
        contexts = self._encode((c for d in documents for c in _distinct(d)), self._begin)
        choices = self._encode((c for d in documents for c in d.choices), [])
        bare: dict[str, Ids] = {}
        for document in documents:
            own = [next(contexts) for _ in _distinct(document)]
            own *= len(document.choices) // len(own)
            apart = document.unconditional
            if apart not in bare:
                bare[apart] = next(self._encode([apart], self._begin))
            own_choices = [next(choices) for _ in document.choices]
            yield _Encoded(document, own, own_choices, bare[apart])

    def _encode(self, texts: Iterable[str], begin: list[int]) -> Iterator[Ids]:
        texts = iter(texts)
        while some := list(itertools.islice(texts, _ENCODE_AT_ONCE)):
            for encoding in self._tokenizer.encode_batch_fast(some, add_special_tokens=False):
                yield np.array(begin + encoding.ids, np.int32)


def bos(tokenizer: Tokenizer) -> list[int]:
    """The ids that the tokenizer puts before a text: BOS, or none."""
    marked, bare = (tokenizer.encode("a", add_special_tokens=on).ids for on in (True, False))
    return marked[: marked.index(bare[0])] if bare else []


def _digest(pair: tuple[Ids, Ids]) -> bytes:
    """A hash of a context and a continuation."""
    text = b"%d " % len(pair[0]) + pair[0].tobytes() + pair[1].tobytes()
    return hashlib.blake2b(text, digest_size=16).digest()


def _distinct(document: Question) -> tuple[str, ...]:
    """One context if all choices share it."""
    return (document.context,) if isinstance(document.context, str) else document.context
