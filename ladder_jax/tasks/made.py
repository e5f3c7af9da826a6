"""Multiple-choice tasks made from held-out text, for models too small for real tasks.

`wordorder4`: a sentence, against three copies with two neighbouring words exchanged.  `cloze4`: the
next word, against three words of the same document with similar frequency and length.  `agree2`: a
function word and the two words after it, against the same with its counterpart (is / are, a / an,
...).  `endings4`: the next 48 bytes, against three such pieces from elsewhere in the document;
small models are near chance on it, so it serves as a control.  The same seed gives the same tasks.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer

from fitting.errors import InputError
from ladder_jax.tasks.task import Question, Task

MAX_DOCUMENTS = 1000
MAX_CONTEXT_TOKENS = 32
_PAIRS = ("is are", "was were", "has have", "a an", "this these", "that those", "does do")
COUNTERPART = {a: b for pair in _PAIRS for a, b in (pair.split(), pair.split()[::-1])}
_ENDING_BYTES = 48
_Candidates = Callable[[str, np.random.Generator], Iterator[Question]]


def build(
    names: Sequence[str], texts: Sequence[str], tokenizer: Tokenizer, seed: int = 0
) -> list[Task]:
    """Builds the named tasks, each with as many documents as the text allows, up to 1,000.

    Args:
        names: names of `BUILDERS`.
        texts: held-out documents, which no model was trained on.
        tokenizer: contexts are cut from the left to 32 tokens of this tokenizer.
        seed: seed of the choice of documents and distractors.

    Raises:
        InputError: a name is unknown, or the text allows no document.
    """
    for name in names:
        if name not in BUILDERS:
            raise InputError(f"task {name!r} is unknown: use {', '.join(BUILDERS)}")
    return [Task(name, _collect(BUILDERS[name], texts, tokenizer, seed)) for name in names]


def _collect(
    candidates: _Candidates, texts: Sequence[str], tokenizer: Tokenizer, seed: int
) -> list[Question]:
    """Random documents, fixed by the seed; no text gives more than four times its share."""
    rng = np.random.default_rng(seed)
    found = []
    share = math.ceil(4 * MAX_DOCUMENTS / max(1, len(texts)))
    for text in texts:
        words = re.sub(r"\s+", " ", text).strip()
        found += [d for d, _ in zip(candidates(words, rng), range(share), strict=False)]
    order = rng.permutation(len(found))[:MAX_DOCUMENTS]
    return [_shorten(found[i], tokenizer) for i in sorted(order)]


def _shorten(document: Question, tokenizer: Tokenizer) -> Question:
    encoding = tokenizer.encode(document.context, add_special_tokens=False)
    if len(encoding.ids) <= MAX_CONTEXT_TOKENS:
        return document
    start = encoding.offsets[-MAX_CONTEXT_TOKENS][0]
    return Question(document.context[start:], document.choices, document.gold)


def _place(
    context: str, right: str, wrong: Sequence[str], rng: np.random.Generator
) -> Question | None:
    """Puts the right choice at a random index; None if a distractor repeats a choice."""
    choices = [right, *wrong]
    if len(set(choices)) < len(choices) or not context:
        return None
    order = rng.permutation(len(choices))
    return Question(context, tuple(choices[i] for i in order), int(np.argmin(order)))


def _word_order(text: str, rng: np.random.Generator) -> Iterator[Question]:
    sentences = re.split(r"(?<=[.!?;]) ", text)
    for i in rng.permutation(np.arange(1, len(sentences))) if len(sentences) > 1 else ():
        words = sentences[i].split(" ")
        spots = [j for j in range(1, len(words) - 2) if words[j].lower() != words[j + 1].lower()]
        if not 6 <= len(words) <= 12 or len(sentences[i]) > 80 or len(spots) < 3:
            continue
        wrong = []
        for j in rng.choice(spots, 3, replace=False):
            swapped = [*words[:j], words[j + 1], words[j], *words[j + 2 :]]
            wrong.append(" " + " ".join(swapped))
        document = _place(sentences[i - 1], " " + " ".join(words), wrong, rng)
        if document:
            yield document


def _cloze(text: str, rng: np.random.Generator) -> Iterator[Question]:
    words = text.split(" ")
    plain = [w if re.fullmatch(r"[a-z]{4,}", w) else "" for w in words]
    counts = Counter(w for w in plain if w)
    vocabulary = sorted(counts)
    logs = np.array([math.log(counts[w]) for w in vocabulary])
    lengths = np.array([len(w) for w in vocabulary])
    for i in rng.permutation(np.arange(30, len(words))) if len(words) > 30 else ():
        word = plain[i]
        if not word:
            continue
        similar = (np.abs(logs - math.log(counts[word])) <= 1) & (np.abs(lengths - len(word)) <= 1)
        others = [vocabulary[j] for j in np.flatnonzero(similar) if vocabulary[j] != word]
        if len(others) < 3:
            continue
        wrong = [" " + w for w in rng.choice(others, 3, replace=False)]
        document = _place(" ".join(words[max(0, i - 60) : i]), " " + word, wrong, rng)
        if document:
            yield document


def _agreement(text: str, rng: np.random.Generator) -> Iterator[Question]:
    words = text.split(" ")
    for i in rng.permutation(np.arange(20, len(words) - 2)) if len(words) > 22 else ():
        if words[i] in COUNTERPART:
            after = f" {words[i + 1]} {words[i + 2]}"
            right, wrong = f" {words[i]}{after}", f" {COUNTERPART[words[i]]}{after}"
            document = _place(" ".join(words[max(0, i - 60) : i]), right, [wrong], rng)
            if document:
                yield document


def _endings(text: str, rng: np.random.Generator) -> Iterator[Question]:
    starts = [m.start() for m in re.finditer(" ", text)]
    starts = [s for s in starts if 200 <= s <= len(text) - _ENDING_BYTES]
    pieces = {s: text[s : s + _ENDING_BYTES].rsplit(" ", 1)[0] for s in starts}
    for s in rng.permutation(starts) if len(starts) >= 50 else ():
        far = rng.choice(starts, 3, replace=False)
        if min(abs(far - s)) < 2 * _ENDING_BYTES:
            continue
        document = _place(text[s - 200 : s], pieces[s], [pieces[t] for t in far], rng)
        if document:
            yield document


BUILDERS: dict[str, _Candidates] = {
    "wordorder4": _word_order,
    "cloze4": _cloze,
    "agree2": _agreement,
    "endings4": _endings,
}
